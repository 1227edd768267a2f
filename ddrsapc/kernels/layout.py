"""What the fused kernels take: memory layouts, and ratios of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MAX_CLASSES", "MAX_ELEMENTS", "MAX_FACTOR", "Ratio", "factors", "memory_format", "ratio", "strides"]

MAX_ELEMENTS = 2**31 - 1
"""Of a map, that the kernels' 32-bit indices reach."""
MAX_FACTOR = 8
"""Of upsampling: a lower-resolution pixel's gradient is gathered from 4 * factor**2 others, one after another."""
MAX_CLASSES = 64
"""Classes whose logits a kernel holds at once."""


@dataclass(frozen=True)
class Ratio:
    """Whole numbers between the sizes of two maps."""

    y: int
    x: int
    down: bool
    """Whether the second map is the larger one."""


def memory_format(x: Tensor) -> torch.memory_format:
    """The dense layout nearest to that of x, a view of any strides."""
    return torch.channels_last if x.shape[1] > 1 and x.stride(1) == 1 else torch.contiguous_format


def strides(x: Tensor, layout: torch.memory_format) -> tuple[int, int]:
    """Of the channels and the pixels of a map (N, C, H, W) that is dense in this layout."""
    _, channels, height, width = x.shape
    return (1, channels) if layout == torch.channels_last else (height * width, 1)


def factors(size: Sequence[int], low: Sequence[int]) -> tuple[int, int] | None:
    """The whole numbers (y, x), at most `MAX_FACTOR`, by which `size` is larger than `low`; None if they are not."""
    (height, width), (h, w) = size, low
    if height < h or width < w or height % h or width % w or height // h > MAX_FACTOR or width // w > MAX_FACTOR:
        return None
    return height // h, width // w


def ratio(size: Sequence[int], other: Sequence[int]) -> Ratio | None:
    """By which a map of size `other` is resized to `size`, up or down; None if the numbers are not whole or large."""
    for down, pair in enumerate((factors(size, other), factors(other, size))):
        if pair is not None:
            return Ratio(*pair, bool(down))
    return None
