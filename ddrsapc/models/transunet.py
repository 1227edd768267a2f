"""TransUNet.

TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation (Chen et al., arXiv
2102.04306): a ResNet-50 hybrid encoder with weight-standardised convolutions and group norm, a
Vision Transformer on its 1/16 map, and a cascaded upsampler with skips.

Size-matched: Table I of the DDR-SAPC-U paper gives 20.07 M parameters and 62.19 G for its TransUNet,
a fifth of the published network, and no widths. Here the encoder and the upsampler have the published
widths, but for 20 channels instead of 16 in the last step; the transformer has ViT-Tiny's width (192
channels, 3 heads) and 7 blocks. Both figures are met within 1 %. Beyond that, the pooling is padded
instead of filled up with zeros, and position embeddings are resized to the input.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ddrsapc.layers import Stage, conv_bn_relu
from ddrsapc.models.base import FeatureInfo, SegmentationModel, check_positive
from ddrsapc.registry import register_model

__all__ = ["TransUNet", "transunet"]

_POSITIONS = 32  # side of the position embedding's grid: a 512 x 512 input at 1/16
_DROPOUT = 0.1


class StdConv2d(nn.Conv2d):
    """Convolution with weight standardisation (arXiv 1903.10520): each filter has mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def _conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, groups: int = 32
) -> nn.Sequential:
    conv = StdConv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(groups, out_channels), out_channels, eps=1e-6))


class ResidualUnit(nn.Module):
    """Bottleneck unit of the hybrid encoder: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        channels = out_channels // 4
        self.conv1 = _conv_norm(in_channels, channels, 1)
        self.conv2 = _conv_norm(channels, channels, 3, stride)
        self.conv3 = _conv_norm(channels, out_channels, 1)
        changes_shape = stride != 1 or in_channels != out_channels
        projection = _conv_norm(in_channels, out_channels, 1, stride, groups=out_channels)
        self.downsample = projection if changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Residual of 1x1, 3x3 and 1x1 convolutions."""
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        return F.relu(self.conv3(out) + self.downsample(x))


def _residual_stage(in_channels: int, out_channels: int, depth: int, stride: int) -> Stage:
    units = [ResidualUnit(in_channels, out_channels, stride)]
    units += [ResidualUnit(out_channels, out_channels, 1) for _ in range(depth - 1)]
    return Stage(*units)


class Attention(nn.Module):
    """Multi-head self-attention over (N, tokens, channels)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; the shape stays as it is."""
        q, k, v = rearrange(self.qkv(x), "n t (three h d) -> three n h t d", three=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v)  # (N, heads, tokens, channels / heads)
        out: Tensor = self.out(rearrange(x, "n h t d -> n t (h d)"))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm Vision Transformer block over (N, tokens, channels)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(4 * channels, channels),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attention and MLP, each with a residual; the shape stays as it is."""
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class VisionTransformer(nn.Module):
    """Transformer on a feature map: (N, in_channels, h, w) -> (N, channels, h, w), one token a pixel."""

    def __init__(self, in_channels: int, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, channels, 1)
        self.position_embedding = nn.Parameter(torch.zeros(1, channels, _POSITIONS, _POSITIONS))
        self.dropout = nn.Dropout(_DROPOUT)
        self.blocks = Stage(*(TransformerBlock(channels, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Add position embeddings, resized to the map, and attend among all pixels."""
        x = self.embed(x)  # (N, channels, h, w)
        height, width = x.shape[-2:]
        position = F.interpolate(self.position_embedding, (height, width), mode="bicubic", align_corners=False)
        tokens = rearrange(x + position, "n c h w -> n (h w) c")
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        return rearrange(tokens, "n (h w) c -> n c h w", h=height)


class UpBlock(nn.Module):
    """Upsample by 2, concatenate the skip, convolve twice: (N, in_channels, h, w) -> (N, out_channels, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int = 0) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)  # as in the public code
        self.convs = Stage(
            conv_bn_relu(in_channels + skip_channels, out_channels), conv_bn_relu(out_channels, out_channels)
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The skip is (N, skip_channels, 2h, 2w)."""
        x = self.up(x)
        x = self.convs(x if skip is None else torch.cat((x, skip), dim=1))
        return x


class TransUNet(SegmentationModel):
    """TransUNet: logits at the input's resolution.

    Args:
        num_classes: classes, background included.
        in_chans: channels of the input.
        width: half the channels of the encoder's root, which has ResNet-50's 64; all widths scale with it.
        depth: transformer blocks.
        aux_head: add an auxiliary head on the transformer's output (training only).
    """

    stride: int = 16
    first_conv: ClassVar[str] = "root.0"
    classifier: ClassVar[str] = "head"
    head_modules: ClassVar[tuple[str, ...]] = ("bridge", "up_blocks", "head")
    no_weight_decay: ClassVar[tuple[str, ...]] = ("transformer.position_embedding",)

    def __init__(
        self,
        *,
        num_classes: int = 4,
        in_chans: int = 1,
        width: int = 32,
        depth: int = 7,
        aux_head: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, width=width)
        check_positive("depth", depth)
        w = 2 * width
        hidden = 6 * width
        last = max(1, 5 * width // 8)
        self.root = _conv_norm(in_chans, w, 7, 2).append(nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block1 = _residual_stage(w, 4 * w, 3, 1)
        self.block2 = _residual_stage(4 * w, 8 * w, 4, 2)
        self.block3 = _residual_stage(8 * w, 16 * w, 9, 2)
        self.transformer = VisionTransformer(16 * w, hidden, depth, heads=3)
        self.bridge = conv_bn_relu(hidden, 8 * w)
        self.up_blocks = nn.ModuleList(
            [UpBlock(8 * w, 4 * w, 8 * w), UpBlock(4 * w, 2 * w, 4 * w), UpBlock(2 * w, w, w), UpBlock(w, last)]
        )
        self.head = nn.Conv2d(last, num_classes, 3, padding=1)
        self.feature_info = (
            FeatureInfo("root", w, 2),
            FeatureInfo("block1", 4 * w, 4),
            FeatureInfo("block2", 8 * w, 8),
            FeatureInfo("transformer", hidden, 16),
        )
        self.finish_init(aux_head=aux_head, aux_channels=2 * w)
        nn.init.trunc_normal_(self.transformer.position_embedding, std=0.02)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The encoder's skips at 1/2, 1/4 and 1/8 and the transformer's output at 1/16."""
        root = self.root(x)  # (N, 2 * width, H / 2, W / 2)
        block1 = self.block1(self.pool(root))  # (N, 8 * width, H / 4, W / 4)
        block2 = self.block2(block1)  # (N, 16 * width, H / 8, W / 8)
        x = self.transformer(self.block3(block2))  # (N, 6 * width, H / 16, W / 16)
        return root, block1, block2, x

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at full resolution."""
        root, block1, block2, x = features
        x = self.bridge(x)
        for up_block, skip in zip(self.up_blocks, (block2, block1, root, None), strict=True):
            x = up_block(x, skip)
        logits: Tensor = self.head(x)
        return logits


@register_model
def transunet(
    *, num_classes: int = 4, in_chans: int = 1, width: int = 32, depth: int = 7, aux_head: bool = False
) -> TransUNet:
    """TransUNet at the size of Table I of the DDR-SAPC-U paper, 20.07 M parameters within 1 %."""
    return TransUNet(num_classes=num_classes, in_chans=in_chans, width=width, depth=depth, aux_head=aux_head)
