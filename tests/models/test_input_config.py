import math

import pytest
import torch

import ddrsapc
from ddrsapc.models import InputConfig


def test_clips_scales_and_standardises():
    config = InputConfig(hu_window=(-200.0, 600.0), mean=0.25, std=0.5)
    hu = torch.tensor([-3000, -200, 0, 200, 600, 3000], dtype=torch.int16)
    torch.testing.assert_close(config.normalize(hu), torch.tensor([-0.5, -0.5, 0.0, 0.5, 1.5, 1.5]))


def test_the_default_is_wide():
    config = ddrsapc.create_model("unet", width=8).input_config
    assert config == InputConfig()
    assert config.hu_window[0] <= -900  # lung
    assert config.hu_window[1] >= 900  # dense calcium
    assert config.normalize(torch.tensor([0.0])).item() == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"hu_window": (5.0, 5.0)},
        {"hu_window": (0.0, math.inf)},
        {"std": 0.0},
        {"mean": math.nan},
        {"hu_window": (0, 1e39)},
        {"std": 1e-320},
    ],
)
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected an? (ascending )?window \(low, high\) in HU"):
        InputConfig(**bad)
