from dataclasses import fields, replace

import pytest

from ddrsapc.phantom import PhantomParameters

BAD = {
    "span": [(2.0, 1.0), (1.0,), [0.5, 1.0], (float("nan"), 1.0), (0.0, float("inf")), ("0", "1"), 1.0, (-1e9, 1e9)],
    "rate": [-0.1, 1.1, float("nan"), True, "half", None],
    "volume": [(0.0, 1.0), (1.0, -1.0), (1.0,), 5.0, [1.0, 1.0]],
    "curve": [(1.0,), [1.0, 2.0], (1.0, -1.0), (1.0, float("nan"))],
    "count": [0, -3, 2.0, True, "40"],
    "length": [0, -1.0, float("inf"), None, True],
    "hu": [float("nan"), "40", None],
}


@pytest.mark.parametrize("item", fields(PhantomParameters), ids=lambda item: item.name)
def test_every_field_has_unit_and_source_and_refuses_bad_values(item):
    assert item.metadata["unit"]
    assert item.metadata["source"]
    for value in BAD[item.metadata["kind"]]:
        with pytest.raises(ValueError, match=item.name):
            PhantomParameters(**{item.name: value})


def test_fields_that_do_not_fit_each_other():
    with pytest.raises(ValueError, match="usual_field_of_view must be within"):
        PhantomParameters(field_of_view=(250, 400))
    with pytest.raises(ValueError, match="equally many"):
        PhantomParameters(noise_power=(1.0, 0.5))
    with pytest.raises(ValueError, match="must ascend"):
        PhantomParameters(noise_frequencies=(0.2, 0.1), noise_power=(1.0, 0.5))
    with pytest.raises(ValueError, match="must not be 0"):
        PhantomParameters(noise_frequencies=(0.1, 0.2), noise_power=(0.0, 0.0))
    with pytest.raises(ValueError, match="must sum to more than 1"):
        PhantomParameters(lad_rate=0.0, rca_rate=0.0)
    assert PhantomParameters(lad_rate=0.0, rca_rate=0.0, positive_rate=0.0).positive_rate == 0


def test_the_shifted_split_differs_in_noise_field_kernel_and_contrast():
    usual, shifted = PhantomParameters(), PhantomParameters().shifted()
    assert shifted.noise_sd[0] > usual.noise_sd[1]
    assert shifted.noise_frequency[0] >= usual.noise_frequency[1]
    assert shifted.usual_field_of_view > usual.usual_field_of_view
    assert shifted.sharp_rate > usual.sharp_rate
    assert shifted.contrast_rate > usual.contrast_rate
    assert replace(usual, lad_rate=0.6).shifted().lad_rate == 0.6  # all else stays
