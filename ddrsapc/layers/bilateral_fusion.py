"""Bilateral fusion of DDRNet (arXiv 2101.06085, section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.kernels import upsample_add_act
from ddrsapc.layers.conv import conv_bn, conv_bn_relu


class BilateralFusion(nn.Module):
    """Exchange between a high- and a low-resolution branch: each gets the other's map, summed on.

    Inputs and outputs are pre-activations: x_high (N, high_channels, H, W) and
    x_low (N, low_channels, H / ratio, W / ratio), outputs of the same shapes.

    Args:
        high_channels: channels of the high-resolution branch.
        low_channels: channels of the low-resolution branch.
        ratio: resolution of the high branch over the low one's, 2 or 4.

    Raises:
        ValueError: for another ratio.
    """

    def __init__(self, high_channels: int, low_channels: int, ratio: int) -> None:
        super().__init__()
        check_ratio(ratio)
        self.low_to_high = conv_bn(low_channels, high_channels, 1)
        if ratio == 2:
            self.high_to_low = conv_bn(high_channels, low_channels, 3, 2)
        else:
            self.high_to_low = nn.Sequential(
                *conv_bn_relu(high_channels, 2 * high_channels, 3, 2),
                *conv_bn(2 * high_channels, low_channels, 3, 2),
            )

    def forward(self, x_high: Tensor, x_low: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the two maps; the shapes stay as they are."""
        up = self.low_to_high(F.relu(x_low))  # (N, high_channels, H / ratio, W / ratio)
        down = self.high_to_low(F.relu(x_high))  # (N, low_channels, H / ratio, W / ratio)
        return upsample_add_act(x_high, [up]), upsample_add_act(x_low, [down])


def check_ratio(ratio: int) -> None:
    """Raise ValueError unless `ratio` is one that two fused branches can have."""
    if ratio not in (2, 4):
        raise ValueError(f"ratio must be 2 or 4 (high over low resolution), got {ratio!r}")
