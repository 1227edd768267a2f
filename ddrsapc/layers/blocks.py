"""Residual blocks of DDRNet (arXiv 2101.06085, section 3.1), with an optional final ReLU."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.layers.conv import conv_bn
from ddrsapc.layers.norm import BatchNorm2d
from ddrsapc.layers.stage import Stage


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The projection a residual needs where its shape changes; None where the identity fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    return conv_bn(in_channels, out_channels, 1, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution.
        downsample: the shortcut; None: the identity, or a 1x1 convolution + batch norm where the shape changes.
        act: False leaves the final ReLU to the consumer, as the last block of a DDRNet stage does.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(out_channels)
        self.downsample = downsample if downsample is not None else shortcut(in_channels, out_channels, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))  # (N, out_channels, H', W')
        out = self.bn2(self.conv2(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out) if self.act else out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a residual; the output has `expansion` times `channels` channels.

    (N, in_channels, H, W) -> (N, 2 * channels, ceil(H / stride), ceil(W / stride)). Arguments as in
    `BasicBlock`, but `act` is False by default: DDRNet fuses its bottlenecks' pre-activations.
    """

    expansion: ClassVar[int] = 2

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        act: bool = False,
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.downsample = downsample if downsample is not None else shortcut(in_channels, out_channels, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 2 * channels, H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))  # (N, channels, H, W)
        out = F.relu(self.bn2(self.conv2(out)))  # (N, channels, H', W')
        out = self.bn3(self.conv3(out))  # (N, 2 * channels, H', W')
        out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out) if self.act else out


class ResidualBlock(Protocol):
    """What `residual_stage` builds from: the signature that `BasicBlock` and `ParallelBasicBlock` share."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        act: bool = True,
    ) -> nn.Module:
        """Build one block."""


def residual_stage(
    block: ResidualBlock, in_channels: int, out_channels: int, stride: int = 1, *, depth: int = 2
) -> Stage:
    """`depth` blocks, the first with the stride, the last without its final ReLU (as in DDRNet)."""
    blocks = [block(in_channels, out_channels, stride, act=depth > 1)]
    blocks += [block(out_channels, out_channels, act=i < depth - 1) for i in range(1, depth)]
    return Stage(*blocks)
