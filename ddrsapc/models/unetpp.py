"""UNet++.

UNet++: A Nested U-Net Architecture for Medical Image Segmentation (Zhou et al., arXiv 1807.10165), in
the form that Table I of the DDR-SAPC-U paper measures: 32 to 512 channels, biased convolutions with
batch norm, bilinear upsampling, no deep supervision.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddrsapc.layers import Stage, conv_bn_relu
from ddrsapc.models.base import FeatureInfo, SegmentationModel
from ddrsapc.registry import register_model

__all__ = ["UNetPlusPlus", "unetpp"]

_LEVELS = 5


def _node(in_channels: int, out_channels: int) -> Stage:
    return Stage(
        conv_bn_relu(in_channels, out_channels, bias=True), conv_bn_relu(out_channels, out_channels, bias=True)
    )


class UNetPlusPlus(SegmentationModel):
    """UNet++ with five levels: logits at the input's resolution.

    Node X(i, j) of the paper's figure 1 stands at level i (resolution 1 / 2**i) and column j: the
    encoder is column 0, and X(i, j) reads all nodes to its left and X(i + 1, j - 1) from below.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: channels of the first level; each level below has twice as many.
        aux_head: add an auxiliary head on the lowest level (training only).
    """

    stride: int = 16
    first_conv: ClassVar[str] = "encoders.0.0.0"
    classifier: ClassVar[str] = "head"
    head_modules: ClassVar[tuple[str, ...]] = ("nodes", "head")

    def __init__(self, *, num_classes: int = 4, in_chans: int = 1, width: int = 32, aux_head: bool = False) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        channels = [width * 2**level for level in range(_LEVELS)]
        self.encoders = nn.ModuleList(_node(i, o) for i, o in pairwise([in_chans, *channels]))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)  # as in the public code
        self.nodes = nn.ModuleDict(
            {
                f"x{i}_{j}": _node(j * channels[i] + channels[i + 1], channels[i])
                for j in range(1, _LEVELS)
                for i in range(_LEVELS - j)
            }
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        self.feature_info = tuple(FeatureInfo(f"x{i}_0", c, 2**i) for i, c in enumerate(channels))
        self.finish_init(aux_head=aux_head, aux_channels=2 * width)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Column 0, highest resolution first: (N, width * 2**i, H / 2**i, W / 2**i)."""
        features: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(self.pool(x) if features else x)
            features.append(x)
        return tuple(features)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at full resolution."""
        rows = [[feature] for feature in features]  # rows[i][j] is X(i, j)
        for j in range(1, _LEVELS):
            for i in range(_LEVELS - j):
                below = self.up(rows[i + 1][j - 1])
                rows[i].append(self.nodes[f"x{i}_{j}"](torch.cat((*rows[i], below), dim=1)))
        logits: Tensor = self.head(rows[0][-1])
        return logits


@register_model
def unetpp(*, num_classes: int = 4, in_chans: int = 1, width: int = 32, aux_head: bool = False) -> UNetPlusPlus:
    """UNet++, 9.16 M parameters (Table I of the DDR-SAPC-U paper)."""
    return UNetPlusPlus(num_classes=num_classes, in_chans=in_chans, width=width, aux_head=aux_head)
