"""Bilinear resizing by whole factors (`align_corners=False`), for the kernels to share.

Every map is (images, H, W, channels): channels_last memory is that, and NCHW memory is
that of N * C images of one channel.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["accumulator", "centre", "corners", "position", "share", "tile", "window_start"]


def tile(channels: int, elements: int) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C): pixels and channels of a tile of about so many elements."""
    block_c = min(triton.next_power_of_2(channels), 128)
    return max(1, elements // block_c), block_c


def accumulator(x: Tensor) -> tl.dtype:
    """What a kernel computes with: float64 for float64, else float32."""
    return tl.float64 if x.element_size() == 8 else tl.float32


@triton.jit
def position(pixel, height, width):
    """(image, y, x) of a flat index."""
    row = pixel // width
    return row // height, row % height, pixel % width


@triton.jit
def corners(i, size, FACTOR: tl.constexpr, ACC: tl.constexpr):
    """Of output index i: the two input indices that it lies between, and the second one's weight."""
    twice = tl.maximum(2 * i + 1 - FACTOR, 0)  # the input coordinate, times 2 FACTOR
    low = twice // (2 * FACTOR)
    weight = (twice - low * (2 * FACTOR)).to(ACC) / (2 * FACTOR)
    return low, tl.minimum(low + 1, size - 1), weight


@triton.jit
def centre(i, FACTOR: tl.constexpr, ACC: tl.constexpr):
    """As `corners`, where the input is FACTOR times as large as the output: both lie in the middle of a block."""
    low = i * FACTOR + (FACTOR - 1) // 2
    weight = tl.full(i.shape, 0.5 if FACTOR % 2 == 0 else 0.0, ACC)
    return low, low + (1 - FACTOR % 2), weight


@triton.jit
def window_start(i, FACTOR: tl.constexpr):
    """The first output index, maybe outside the map, of those that input index i contributes to.

    They are 2 FACTOR, one fewer for an odd FACTOR.
    """
    return i * FACTOR - FACTOR // 2


@triton.jit
def share(output, i, size, FACTOR: tl.constexpr, ACC: tl.constexpr):
    """The weight of input index i in an output index; 0 outside the map."""
    low, high, weight = corners(output, size, FACTOR, ACC)
    of_low = tl.where(low == i, 1 - weight, 0.0)
    of_high = tl.where(high == i, weight, 0.0)
    return tl.where((output >= 0) & (output < size * FACTOR), of_low + of_high, 0.0)
