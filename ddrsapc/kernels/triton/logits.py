"""Reading of logits, at their own resolution or upsampled on the way."""

from __future__ import annotations

import triton
import triton.language as tl

from ddrsapc.kernels.triton.bilinear import corners, position

__all__ = ["load_logits", "logits_offset"]


@triton.jit
def logits_offset(image, pixel, size, CLASSES: tl.constexpr, LAST: tl.constexpr, BLOCK_C: tl.constexpr):
    """(BLOCK_P, BLOCK_C): where the logits of a pixel of an image of that many pixels lie; `LAST` is channels_last."""
    channel = tl.arange(0, BLOCK_C)[None, :]
    if LAST:
        offset = ((image * size + pixel) * CLASSES)[:, None] + channel
    else:
        offset = (image * (size * CLASSES) + pixel)[:, None] + channel * size
    return offset


@triton.jit
def load_logits(
    logits,
    pixel,
    mask,
    height,
    width,
    CLASSES: tl.constexpr,
    LAST: tl.constexpr,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(BLOCK_P, BLOCK_C) in float32, of flat indices of the upsampled map; -inf beyond the last class.

    `height` and `width` are the logits' own. The number of classes is constant for loads of all of them at once.
    """
    channel = tl.arange(0, BLOCK_C)[None, :]
    counts = mask[:, None] & (channel < CLASSES)
    size = height * width
    if FACTOR_Y == 1 and FACTOR_X == 1:
        offset = logits_offset(pixel // size, pixel % size, size, CLASSES, LAST, BLOCK_C)
        value = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)
    else:
        image, y, x = position(pixel, height * FACTOR_Y, width * FACTOR_X)
        y0, y1, wy = corners(y, height, FACTOR_Y, tl.float32)
        x0, x1, wx = corners(x, width, FACTOR_X, tl.float32)
        wy, wx = wy[:, None], wx[:, None]
        offset = logits_offset(image, y0 * width + x0, size, CLASSES, LAST, BLOCK_C)
        a = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)
        offset = logits_offset(image, y0 * width + x1, size, CLASSES, LAST, BLOCK_C)
        b = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)
        offset = logits_offset(image, y1 * width + x0, size, CLASSES, LAST, BLOCK_C)
        c = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)
        offset = logits_offset(image, y1 * width + x1, size, CLASSES, LAST, BLOCK_C)
        d = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)
        value = (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d)
    return tl.where(channel < CLASSES, value, -float("inf"))
