"""DDRNet-23 and DDRNet-23-slim.

Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes
(Hong et al., arXiv 2101.06085). A residual network that splits into a high- and a low-resolution
branch, which exchange their maps twice; DAPPM adds context to the low one. Numerically identical
to the public implementation given the same weights (`ddrsapc.checkpoint.from_public_ddrnet`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.kernels import upsample_add_act
from ddrsapc.layers import (
    DAPPM,
    BasicBlock,
    BilateralFusion,
    Bottleneck,
    ResidualBlock,
    SegmentationHead,
    conv_bn_relu,
    residual_stage,
)
from ddrsapc.models.base import FeatureInfo, SegmentationModel
from ddrsapc.registry import register_model

__all__ = ["DDRNet", "DualResolutionEncoder", "ddrnet_23", "ddrnet_23_slim"]


class DualResolutionEncoder(nn.Module):
    """The two branches with their fusions and DAPPM, up to the map that the head reads.

    Args:
        in_chans: channels of the input.
        width: channels of the stem, w below.
        spp_channels: channels of each DAPPM branch.
        stem_stride: stride of the first convolution: 2 in DDRNet, 1 in DDR-SAPC-U.
        block: the residual block of layers 1 to 4.
        fusion: the exchange between the branches, built as `fusion(high_channels, low_channels, ratio)`.
    """

    def __init__(
        self,
        in_chans: int,
        width: int,
        *,
        spp_channels: int,
        stem_stride: int = 2,
        block: ResidualBlock = BasicBlock,
        fusion: Callable[[int, int, int], nn.Module] = BilateralFusion,
    ) -> None:
        super().__init__()
        w = width
        self.stem1 = conv_bn_relu(in_chans, w, 3, stem_stride, bias=True)
        self.stem2 = conv_bn_relu(w, w, 3, 2, bias=True)
        self.layer1 = residual_stage(block, w, w)
        self.layer2 = residual_stage(block, w, 2 * w, 2)

        self.layer3 = residual_stage(block, 2 * w, 4 * w, 2)
        self.layer3_ = residual_stage(block, 2 * w, 2 * w)
        self.fusion3 = fusion(2 * w, 4 * w, 2)

        self.layer4 = residual_stage(block, 4 * w, 8 * w, 2)
        self.layer4_ = residual_stage(block, 2 * w, 2 * w)
        self.fusion4 = fusion(2 * w, 8 * w, 4)

        self.layer5 = Bottleneck(8 * w, 8 * w, 2)
        self.layer5_ = Bottleneck(2 * w, 2 * w)
        self.spp = DAPPM(16 * w, spp_channels, 4 * w)

        s = stem_stride
        self.feature_info = (
            FeatureInfo("stem1", w, s),
            FeatureInfo("layer1", w, 2 * s),
            FeatureInfo("fusion3", 2 * w, 4 * s),
            FeatureInfo("spp", 4 * w, 4 * s),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_chans, H, W) -> the four maps of `feature_info`; the last two are pre-activations."""
        self.spp.check_batch(x.shape[0])  # before a smaller map than DAPPM's raises less clearly
        stem1 = self.stem1(x)  # (N, w, H/s, W/s), s the stem's stride
        layer1 = F.relu(self.layer1(self.stem2(stem1)))  # (N, w, H/2s, W/2s)
        x = F.relu(self.layer2(layer1))  # (N, 2w, H/r, W/r), r = 4s

        x_high, x_low = self.layer3_(x), self.layer3(x)  # (N, 2w, H/r, W/r), (N, 4w, H/2r, W/2r)
        x_high, x_low = self.fusion3(x_high, x_low)
        fusion3 = x_high

        x_high, x_low = self.layer4_(F.relu(x_high)), self.layer4(F.relu(x_low))  # (N, 8w, H/4r, W/4r)
        x_high, x_low = self.fusion4(x_high, x_low)

        x_high, x_low = self.layer5_(F.relu(x_high)), self.layer5(F.relu(x_low))  # (N, 4w, ...), (N, 16w, H/8r, W/8r)
        spp = upsample_add_act(x_high, [self.spp(x_low)])  # (N, 4w, H/r, W/r)
        return stem1, layer1, fusion3, spp


class DDRNet(SegmentationModel):
    """DDRNet-23: logits at 1/8 of the input's resolution, resized to it.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: channels of the stem: 32 in DDRNet-23-slim, 64 in DDRNet-23. All other widths scale with it.
        spp_ratio: channels of each DAPPM branch over the stem's: 4 in DDRNet-23-slim, 2 in DDRNet-23.
        aux_head: add the auxiliary head on the high branch after the first fusion (training only).
    """

    stride: int = 64
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
        spp_ratio: int = 4,
        aux_head: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        self.spp_ratio = spp_ratio
        self.encoder = DualResolutionEncoder(in_chans, width, spp_channels=spp_ratio * width)
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


@register_model
def ddrnet_23_slim(*, num_classes: int = 4, in_chans: int = 1, width: int = 32, aux_head: bool = False) -> DDRNet:
    """DDRNet-23-slim, 5.69 M parameters (arXiv 2101.06085, table 1)."""
    return DDRNet(num_classes=num_classes, in_chans=in_chans, width=width, aux_head=aux_head)


@register_model
def ddrnet_23(*, num_classes: int = 4, in_chans: int = 1, width: int = 64, aux_head: bool = False) -> DDRNet:
    """DDRNet-23, 20.15 M parameters (arXiv 2101.06085, table 1)."""
    return DDRNet(num_classes=num_classes, in_chans=in_chans, width=width, spp_ratio=2, aux_head=aux_head)
