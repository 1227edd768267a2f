from dataclasses import fields, replace

import numpy as np
import pytest

from ddrsapc.phantom import PhantomParameters, draw_case, make_case
from ddrsapc.phantom.render import render_slice

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


def test_waves_that_would_fold_the_image_are_refused():
    assert PhantomParameters(deformation=(4, 4)).deformation == (4, 4)
    for changed in ({"deformation_waves": 5}, {"deformation_length": (60, 160)}):
        with pytest.raises(ValueError, match="deformation_waves x deformation x 2 pi / deformation_length must be"):
            PhantomParameters(**changed)


EVERYTHING = PhantomParameters(
    slices=4, slice_mm=35.0, shift_z=(0, 0), scale=(1, 1), field_of_view=(300, 400), usual_field_of_view=350.0,
    contrast_rate=1.0, stomach_gas_rate=1.0, oesophagus_air_rate=1.0, table_rate=1.0,
    positive_rate=1.0, lm_rate=1.0, lad_rate=1.0, lcx_rate=1.0, rca_rate=1.0, aortic_wall_rate=1.0, ostium_rate=0.5,
    aortic_valve_rate=1.0, mitral_annulus_rate=1.0, lymph_node_rate=1.0, pericardium_rate=1.0, stent_rate=1.0,
    lead_rate=1.0, motion_rate=1.0, sharp_rate=1.0, streak_sd=(3, 6),
)  # fmt: skip
"""A small scan in which all is that can be: discs and stomach in the first slice, bronchi in the last."""
OTHER = {
    "shift_z": (5, 5),
    "scale": (0.9, 0.9),
    "usual_field_of_view": 380.0,
    "field_of_view": (300, 380),
    "noise_power": (1.0,) * 15,
    "noise_frequencies": tuple(0.02 * i for i in range(15)),
    "aortic_valve_most": 20.0,
    "aortic_valve_size": (0.5, 0.5),
    "pericardium_cords": 20,
    "oesophagus_air_size": (1, 1),
}


def other(item):
    """Another value of a field, one that tells."""
    value = getattr(EVERYTHING, item.name)
    by_kind = {"rate": lambda: 0.0, "count": lambda: 1, "hu": lambda: value + 60, "length": lambda: value / 2}
    return OTHER.get(item.name) or by_kind.get(item.metadata["kind"], lambda: (value[1], value[1]))()


@pytest.fixture(scope="module")
def everything():
    return make_case(0, size=48, parameters=EVERYTHING)


@pytest.mark.parametrize(
    "item",
    [item for item in fields(PhantomParameters) if not item.name.startswith("shifted_")],
    ids=lambda item: item.name,
)
def test_every_field_is_in_the_image(item, everything):
    case = make_case(0, size=48, parameters=replace(EVERYTHING, **{item.name: other(item)}))
    assert not np.array_equal(case.hu, everything.hu)


def test_the_shifted_split_differs_in_noise_field_kernel_and_contrast():
    usual, shifted = PhantomParameters(), PhantomParameters().shifted()
    assert shifted.noise_sd[0] > usual.noise_sd[1]
    assert shifted.noise_frequency[0] >= usual.noise_frequency[1]
    assert shifted.usual_field_of_view > usual.usual_field_of_view
    assert shifted.sharp_rate > usual.sharp_rate
    assert shifted.contrast_rate > usual.contrast_rate
    assert replace(usual, lad_rate=0.6).shifted().lad_rate == 0.6  # all else stays
    assert replace(usual, shifted_noise_sd=(50.0, 60.0)).shifted().noise_sd == (50, 60)
    with pytest.raises(ValueError, match="shifted_usual_field_of_view must be within"):
        PhantomParameters(shifted_field_of_view=(400, 480))


def test_noise_falls_off_as_told():
    loud = PhantomParameters(noise_sd=(100, 100), streak_sd=(0, 0), field_of_view=(400, 400), usual_field_of_view=400)

    def ratio(parameters):
        hu = render_slice(draw_case(0, 0, size=128, parameters=parameters), 5).hu.astype(float)
        quiet = replace(parameters, noise_sd=(0, 0))
        noise = hu - render_slice(draw_case(0, 0, size=128, parameters=quiet), 5).hu
        return np.std([noise[:12], noise[-12:]]) / np.std(noise[58:70])

    assert ratio(replace(loud, noise_floor=0.3)) < 0.8 * ratio(replace(loud, noise_floor=1.0))


def test_a_sharp_kernel_has_finer_noise_as_told():
    def frequency(**options):
        return draw_case(0, 0, size=32, parameters=PhantomParameters(**options)).acquisition.noise_frequency

    assert frequency(sharp_rate=1.0, sharp_noise=1.5) == pytest.approx(1.5 * frequency(sharp_rate=0.0))


@pytest.mark.parametrize(
    ("site", "changed", "shape"),
    [
        ("aortic wall", {"aortic_wall_thickness": (9, 9), "ostium_rate": 0.0}, {"thickness": 9}),
        ("mitral annulus", {"mitral_annulus_thickness": (9, 9)}, {"thickness": 9}),
        ("pericardium", {"pericardium_radius": (7, 7)}, {"radius": 7}),
        ("stent", {"stent_length": (5, 5), "stent_thickness": 0.7}, {"length": 5, "thickness": 0.7}),
        ("lead", {"lead_radius": (3, 3)}, {"radius": 3}),
    ],
)
def test_mimics_are_as_told(site, changed, shape):
    rate = {f"{site.replace(' ', '_')}_rate": 1.0}
    usual, other = (
        [item.shape for item in draw_case(0, 0, parameters=parameters).mimics if item.site == site]
        for parameters in (PhantomParameters(**rate), PhantomParameters(**rate, **changed))
    )
    for name, value in shape.items():
        assert {getattr(item, name) for item in other} == {value}
        assert value not in {getattr(item, name) for item in usual}


def test_arteries_are_as_wide_as_told():
    still = PhantomParameters(
        positive_rate=0.0, noise_sd=(0, 0), streak_sd=(0, 0), contrast_rate=0.0, field_of_view=(200, 200),
        usual_field_of_view=200,
    )  # fmt: skip
    wide = replace(still, lm_radius=6.0, proximal_radius=6.0, distal_radius=6.0)
    usual, other = (render_slice(draw_case(0, 0, size=128, parameters=p), 24).hu.astype(int) for p in (still, wide))
    assert ((other > 0) & (usual < -40)).sum() > 20  # blood where there was fat
