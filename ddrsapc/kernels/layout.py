"""What the fused kernels take: memory layouts, and ratios of sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MAX_FACTOR", "MAX_FACTOR_CLASSES", "factors", "memory_format"]

MAX_FACTOR = 8
"""Of upsampling: a lower-resolution pixel's gradient is gathered from 4 * factor**2 others, one after another."""
MAX_FACTOR_CLASSES = 64
"""Classes that a kernel holds at once."""


def memory_format(x: Tensor) -> torch.memory_format:
    """The dense layout nearest to that of x, a view of any strides."""
    return torch.channels_last if x.shape[1] > 1 and x.stride(1) == 1 else torch.contiguous_format


def factors(size: Sequence[int], low: Sequence[int]) -> tuple[int, int] | None:
    """The whole numbers (y, x), at most `MAX_FACTOR`, by which `size` is larger than `low`; None if they are not."""
    (height, width), (h, w) = size, low
    if height % h or width % w or height // h > MAX_FACTOR or width // w > MAX_FACTOR:
        return None
    return height // h, width // w
