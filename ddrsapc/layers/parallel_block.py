"""Parallel Basic Block (PBB) of the DDR-SAPC-U paper, section on parallel convolution."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.kernels import upsample_add_act
from ddrsapc.layers.blocks import shortcut
from ddrsapc.layers.norm import BatchNorm2d


class ParallelBasicBlock(nn.Module):
    """A `BasicBlock` whose two-convolution branch runs at resolutions 1, 1/2 and 1/4 in parallel.

    Each branch has its own weights; the input of the second and third is average-pooled by 2 and 4,
    their output resized bilinearly to the first one's. The sum of the three and the shortcut goes
    through ReLU. The parallel branches cost 1 + 1/4 + 1/16 of one.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)) for any H, W >= 1:
    a map that the pooling does not divide is replicate-padded to the right and bottom first.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of each branch's first convolution.
        downsample: the shortcut; None: the identity, or a 1x1 convolution + batch norm where the shape changes.
        act: False leaves the final ReLU to the consumer.

    Raises:
        ValueError: in the forward pass, if `downsample` gives another shape than the branches.
    """

    expansion: ClassVar[int] = 1
    factors: ClassVar[tuple[int, ...]] = (1, 2, 4)

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
        self.branches = nn.ModuleList(_branch(in_channels, out_channels, stride) for _ in self.factors)
        self.downsample = downsample if downsample is not None else shortcut(in_channels, out_channels, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        full, half, quarter = (
            branch(_average_pool(x, factor)) for branch, factor in zip(self.branches, self.factors, strict=True)
        )
        identity = x if self.downsample is None else self.downsample(x)  # (N, out_channels, H', W')
        if identity.shape != full.shape:  # it would be resized
            raise ValueError(f"the shortcut gives {tuple(identity.shape)}, the branches {tuple(full.shape)}")
        return upsample_add_act(full, [half, quarter, identity], relu=self.act)


def _branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
        BatchNorm2d(out_channels),
    )


def _average_pool(x: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) -> (N, C, ceil(H / factor), ceil(W / factor))."""
    if factor == 1:
        return x
    if x.shape[-2] % factor or x.shape[-1] % factor:
        x = F.pad(x, (0, factor - 1, 0, factor - 1), mode="replicate")
    return F.avg_pool2d(x, factor)
