"""U-Net.

U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., arXiv
1505.04597), in the form that Table I of the DDR-SAPC-U paper measures: 32 to 512 channels, padded
bias-free convolutions with batch norm, 2x2 transposed convolutions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddrsapc.layers import Stage, conv_bn_relu
from ddrsapc.models.base import FeatureInfo, SegmentationModel
from ddrsapc.registry import register_model

__all__ = ["UNet", "unet"]


def _double_conv(in_channels: int, out_channels: int) -> Stage:
    return Stage(conv_bn_relu(in_channels, out_channels), conv_bn_relu(out_channels, out_channels))


class UNet(SegmentationModel):
    """U-Net with five levels: logits at the input's resolution.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: channels of the first level; each level below has twice as many.
        aux_head: add an auxiliary head on the lowest level (training only).
    """

    stride: int = 16
    first_conv: ClassVar[str] = "encoders.0.0.0"
    classifier: ClassVar[str] = "head"
    head_modules: ClassVar[tuple[str, ...]] = ("ups", "decoders", "head")

    def __init__(self, *, num_classes: int = 4, in_chans: int = 1, width: int = 32, aux_head: bool = False) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        channels = [width * 2**level for level in range(5)]
        self.encoders = nn.ModuleList(_double_conv(i, o) for i, o in pairwise([in_chans, *channels]))
        self.pool = nn.MaxPool2d(2)
        # decoders run from the lowest level up
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in reversed(channels[:-1]))
        self.decoders = nn.ModuleList(_double_conv(2 * c, c) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)
        self.feature_info = tuple(FeatureInfo(f"encoder{i}", c, 2**i) for i, c in enumerate(channels))
        self.finish_init(aux_head=aux_head, aux_channels=2 * width)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The five levels, highest resolution first: (N, width * 2**i, H / 2**i, W / 2**i)."""
        features: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(self.pool(x) if features else x)
            features.append(x)
        return tuple(features)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at full resolution."""
        *skips, x = features
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat((up(x), skip), dim=1))  # (N, C of skip, h, w of skip)
        logits: Tensor = self.head(x)
        return logits


@register_model
def unet(*, num_classes: int = 4, in_chans: int = 1, width: int = 32, aux_head: bool = False) -> UNet:
    """U-Net, 7.76 M parameters (Table I of the DDR-SAPC-U paper)."""
    return UNet(num_classes=num_classes, in_chans=in_chans, width=width, aux_head=aux_head)
