"""Dual Attention Module (DAM) of the DDR-SAPC-U paper, section on spatial attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.kernels import dual_gate, upsample_add_act
from ddrsapc.layers.bilateral_fusion import check_ratio
from ddrsapc.layers.conv import conv_bn, conv_bn_relu


class DualAttentionModule(nn.Module):
    """Exchange between two resolutions, each side gated by both sides' spatial attention.

    Each side predicts a one-channel attention map A. A side is scaled by G = A + (1 - other A): it
    passes on what it attends to and what the other side misses. The gated maps are then exchanged
    and summed on as in DDRNet's bilateral fusion.

    Inputs and outputs are pre-activations: x_high (N, high_channels, H, W) and
    x_low (N, low_channels, h, w), outputs of the same shapes. Sizes need not be multiples of the
    ratio: whatever does not match is resized bilinearly. Activated maps may be passed as well.

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
        middle = max(1, low_channels // 2)
        self.attention_high = _attention(high_channels)
        self.attention_low = _attention(low_channels)
        self.low_to_high = nn.Sequential(*conv_bn_relu(low_channels, middle), *conv_bn(middle, high_channels))
        self.high_to_low = nn.Sequential(
            *conv_bn_relu(high_channels, 2 * high_channels, 3, 2),
            *conv_bn(2 * high_channels, low_channels, 3, ratio // 2),
        )

    def attention(self, x_high: Tensor, x_low: Tensor) -> tuple[Tensor, Tensor]:
        """The attention maps in (0, 1) of the two sides: (N, 1, H, W) and (N, 1, h, w)."""
        a_high, a_low = self.attention_high(F.relu(x_high)), self.attention_low(F.relu(x_low))
        return torch.sigmoid(a_high), torch.sigmoid(a_low)

    def forward(self, x_high: Tensor, x_low: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the two maps; the shapes stay as they are."""
        r_high, r_low = F.relu(x_high), F.relu(x_low)
        a_high, a_low = self.attention_high(r_high), self.attention_low(r_low)  # (N, 1, H, W), (N, 1, h, w)
        up = self.low_to_high(dual_gate(r_low, a_low, a_high))  # (N, high_channels, h, w)
        down = self.high_to_low(dual_gate(r_high, a_high, a_low))  # (N, low_channels, ~h, ~w)
        return upsample_add_act(x_high, [up]), upsample_add_act(x_low, [down])


def _attention(channels: int) -> nn.Sequential:
    return conv_bn_relu(channels, channels).append(nn.Conv2d(channels, 1, 3, padding=1))
