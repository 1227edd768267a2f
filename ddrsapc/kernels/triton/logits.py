"""Reading of logits, at their own resolution or upsampled on the way."""

from __future__ import annotations

import triton
import triton.language as tl

from ddrsapc.kernels.triton.bilinear import corners

__all__ = ["load_logits"]


@triton.jit
def load_logits(
    logits,
    image,
    y,
    x,
    mask,
    height,
    width,
    classes,
    stride_class,
    stride_pixel,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(BLOCK_P, BLOCK_C) in float32, at (y, x) of the upsampled map; -inf beyond the last class.

    `height` and `width` are the logits' own.
    """
    channel = tl.arange(0, BLOCK_C)[None, :]
    counts = mask[:, None] & (channel < classes)
    base = (image * (classes * height * width))[:, None] + channel * stride_class
    if FACTOR_Y == 1 and FACTOR_X == 1:
        offset = ((y * width + x) * stride_pixel)[:, None]
        value = tl.load(logits + base + offset, mask=counts, other=0.0).to(tl.float32)
    else:
        y0, y1, wy = corners(y, height, FACTOR_Y, tl.float32)
        x0, x1, wx = corners(x, width, FACTOR_X, tl.float32)
        wy, wx = wy[:, None], wx[:, None]
        offset = ((y0 * width + x0) * stride_pixel)[:, None]
        a = tl.load(logits + base + offset, mask=counts, other=0.0).to(tl.float32)
        offset = ((y0 * width + x1) * stride_pixel)[:, None]
        b = tl.load(logits + base + offset, mask=counts, other=0.0).to(tl.float32)
        offset = ((y1 * width + x0) * stride_pixel)[:, None]
        c = tl.load(logits + base + offset, mask=counts, other=0.0).to(tl.float32)
        offset = ((y1 * width + x1) * stride_pixel)[:, None]
        d = tl.load(logits + base + offset, mask=counts, other=0.0).to(tl.float32)
        value = (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d)
    return tl.where(channel < classes, value, -float("inf"))
