"""DDR-SAPC and DDR-SAPC-U.

Real-time Segmentation of Coronary Artery Calcification Using Spatial Attention and Parallel
Convolution (Asakawa et al.). DDR-SAPC is DDRNet-23-slim with its basic blocks replaced by Parallel
Basic Blocks and its bilateral fusions by Dual Attention Modules; DDR-SAPC-U keeps one stride less in
the stem and decodes to full resolution with skips.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ddrsapc.layers import (
    BasicBlock,
    BilateralFusion,
    DualAttentionModule,
    ParallelBasicBlock,
    SegmentationHead,
    Stage,
)
from ddrsapc.models.base import SegmentationModel
from ddrsapc.models.ddrnet import DualResolutionEncoder
from ddrsapc.registry import register_model

__all__ = ["DDRSAPC", "DDRSAPCU", "ddr_sapc", "ddr_sapc_u", "ddr_sapc_u_s"]


def _encoder(in_chans: int, width: int, *, stem_stride: int, pbb: bool, dam: bool) -> DualResolutionEncoder:
    return DualResolutionEncoder(
        in_chans,
        width,
        spp_channels=4 * width,
        stem_stride=stem_stride,
        block=ParallelBasicBlock if pbb else BasicBlock,
        fusion=DualAttentionModule if dam else BilateralFusion,
    )


class DDRSAPC(SegmentationModel):
    """DDR-SAPC: logits at 1/8 of the input's resolution, resized to it.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: channels of the stem; all other widths scale with it.
        pbb: False puts DDRNet's basic blocks in place of the Parallel Basic Blocks.
        dam: False puts DDRNet's bilateral fusions in place of the Dual Attention Modules.
        aux_head: add DDRNet's auxiliary head on the high branch after the first fusion (training only).
    """

    first_conv: ClassVar[str] = "encoder.stem1.0"
    classifier: ClassVar[str] = "head.classifier"
    head_modules: ClassVar[tuple[str, ...]] = ("head",)
    aux_feature: ClassVar[int] = 2

    def __init__(
        self,
        *,
        num_classes: int = 4,
        in_chans: int = 1,
        width: int = 32,
        pbb: bool = True,
        dam: bool = True,
        aux_head: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        self.stride = 128 if pbb else 64  # layer4 is at 1/32, and the blocks there pool by 4
        self.encoder = _encoder(in_chans, width, stem_stride=2, pbb=pbb, dam=dam)
        self.head = SegmentationHead(4 * width, 2 * width, num_classes)
        self.feature_info = self.encoder.feature_info
        self.finish_init(aux_head=aux_head, aux_channels=2 * width)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """See `DualResolutionEncoder`."""
        features: tuple[Tensor, ...] = self.encoder(x)
        return features

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at 1/8."""
        logits: Tensor = self.head(features[-1])
        return logits


class Decoder(nn.Module):
    """From 1/4 to full resolution in two steps, each a transposed convolution, a skip and a basic block."""

    def __init__(self, width: int, *, skips: bool) -> None:
        super().__init__()
        w = width
        skip = w if skips else 0
        self.skips = skips
        self.up1 = nn.ConvTranspose2d(4 * w, 4 * w, 2, 2)
        self.block1 = Stage(BasicBlock(4 * w + skip, 2 * w))
        self.up2 = nn.ConvTranspose2d(2 * w, 2 * w, 2, 2)
        self.block2 = Stage(BasicBlock(2 * w + skip, 3 * w // 2))

    def forward(self, x: Tensor, skip2: Tensor, skip1: Tensor) -> Tensor:
        """(N, 4w, H/4, W/4), skips (N, w, H/2, W/2) and (N, w, H, W) -> (N, 3w/2, H, W)."""
        x = self.up1(x)  # (N, 4w, H/2, W/2)
        x = self.block1(torch.cat((x, skip2), dim=1) if self.skips else x)  # (N, 2w, H/2, W/2)
        x = self.up2(x)  # (N, 2w, H, W)
        x = self.block2(torch.cat((x, skip1), dim=1) if self.skips else x)  # (N, 3w/2, H, W)
        return x


class DDRSAPCU(SegmentationModel):
    """DDR-SAPC-U: logits at the input's resolution.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: channels of the stem; all other widths scale with it.
        pbb: False puts DDRNet's basic blocks in place of the Parallel Basic Blocks.
        dam: False puts DDRNet's bilateral fusions in place of the Dual Attention Modules.
        skips: False decodes without the skips from the stem and layer1.
        aux_head: add DDRNet's auxiliary head on the high branch after the first fusion (training only).
    """

    stride: int = 64
    first_conv: ClassVar[str] = "encoder.stem1.0"
    classifier: ClassVar[str] = "head"
    head_modules: ClassVar[tuple[str, ...]] = ("decoder", "head")
    aux_feature: ClassVar[int] = 2

    def __init__(
        self,
        *,
        num_classes: int = 4,
        in_chans: int = 1,
        width: int = 32,
        pbb: bool = True,
        dam: bool = True,
        skips: bool = True,
        aux_head: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        self.encoder = _encoder(in_chans, width, stem_stride=1, pbb=pbb, dam=dam)
        self.decoder = Decoder(width, skips=skips)
        self.head = nn.Conv2d(3 * width // 2, num_classes, 1)
        self.feature_info = self.encoder.feature_info
        self.finish_init(aux_head=aux_head, aux_channels=2 * width)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """See `DualResolutionEncoder`."""
        features: tuple[Tensor, ...] = self.encoder(x)
        return features

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at full resolution."""
        skip1, skip2, _, spp = features
        logits: Tensor = self.head(self.decoder(spp, skip2, skip1))
        return logits


@register_model
def ddr_sapc(
    *,
    num_classes: int = 4,
    in_chans: int = 1,
    width: int = 32,
    pbb: bool = True,
    dam: bool = True,
    aux_head: bool = False,
) -> DDRSAPC:
    """DDR-SAPC, 13.21 M parameters: DDRNet-23-slim with PBB and DAM."""
    return DDRSAPC(num_classes=num_classes, in_chans=in_chans, width=width, pbb=pbb, dam=dam, aux_head=aux_head)


@register_model
def ddr_sapc_u(
    *,
    num_classes: int = 4,
    in_chans: int = 1,
    width: int = 32,
    pbb: bool = True,
    dam: bool = True,
    skips: bool = True,
    aux_head: bool = False,
) -> DDRSAPCU:
    """DDR-SAPC-U, 13.42 M parameters: the paper's network (table I)."""
    return DDRSAPCU(
        num_classes=num_classes, in_chans=in_chans, width=width, pbb=pbb, dam=dam, skips=skips, aux_head=aux_head
    )


@register_model
def ddr_sapc_u_s(
    *,
    num_classes: int = 4,
    in_chans: int = 1,
    width: int = 16,
    pbb: bool = True,
    dam: bool = True,
    skips: bool = True,
    aux_head: bool = False,
) -> DDRSAPCU:
    """DDR-SAPC-U at half the width, 3.36 M parameters: a quarter of the cost."""
    return ddr_sapc_u(
        num_classes=num_classes, in_chans=in_chans, width=width, pbb=pbb, dam=dam, skips=skips, aux_head=aux_head
    )
