"""x plus upsampled maps, through ReLU: one pass forward; backward gathers, deterministic and without atomics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddrsapc.kernels.layout import memory_format
from ddrsapc.kernels.triton.bilinear import accumulator, corners, position, share, tile, window_start

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]


@triton.jit
def forward_kernel(
    out,
    x,
    terms,
    pixels,
    height,
    width,
    channels,
    FACTORS: tl.constexpr,
    RELU: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the output; `FACTORS` holds a factor in y and one in x per term."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    mask = (pixel < pixels)[:, None] & (channel < channels)
    image, y, column = position(pixel, height, width)
    offset = pixel[:, None] * channels + channel
    total = tl.load(x + offset, mask=mask, other=0.0).to(ACC)  # (BLOCK_P, BLOCK_C)
    for i in tl.static_range(len(FACTORS) // 2):
        if FACTORS[2 * i] == 1 and FACTORS[2 * i + 1] == 1:
            total += tl.load(terms[i] + offset, mask=mask, other=0.0).to(ACC)
        else:
            h, w = height // FACTORS[2 * i], width // FACTORS[2 * i + 1]
            y0, y1, wy = corners(y, h, FACTORS[2 * i], ACC)
            x0, x1, wx = corners(column, w, FACTORS[2 * i + 1], ACC)
            row0, row1 = (image * h + y0) * w, (image * h + y1) * w
            a = tl.load(terms[i] + (row0 + x0)[:, None] * channels + channel, mask=mask, other=0.0).to(ACC)
            b = tl.load(terms[i] + (row0 + x1)[:, None] * channels + channel, mask=mask, other=0.0).to(ACC)
            c = tl.load(terms[i] + (row1 + x0)[:, None] * channels + channel, mask=mask, other=0.0).to(ACC)
            d = tl.load(terms[i] + (row1 + x1)[:, None] * channels + channel, mask=mask, other=0.0).to(ACC)
            wy, wx = wy[:, None], wx[:, None]
            total += (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d)
    if RELU:
        total = tl.where(total <= 0, 0.0, total)  # NaN stays
    tl.store(out + offset, total, mask=mask)


@triton.jit
def backward_kernel(
    grad_term,
    grad_x,
    grad,
    out,
    pixels,
    height,
    width,
    channels,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    RELU: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of a term's gradient, gathered from x's resolution; with `RELU` also the tile's part of x's gradient.

    `pixels`, `height` and `width` are the term's. Each of its pixels writes those FACTOR_Y x FACTOR_X pixels of x's
    gradient that it is nearest to.
    """
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    mask = (pixel < pixels)[:, None] & (channel < channels)
    image, low_y, low_x = position(pixel, height, width)
    total = tl.zeros((BLOCK_P, BLOCK_C), ACC)
    for j in range(2 * FACTOR_Y - FACTOR_Y % 2):
        y = window_start(low_y, FACTOR_Y) + j
        wy = share(y, low_y, height, FACTOR_Y, ACC)
        row = (image * (height * FACTOR_Y) + y) * (width * FACTOR_X)
        for k in tl.static_range(2 * FACTOR_X - FACTOR_X % 2):
            x = window_start(low_x, FACTOR_X) + k
            weight = (wy * share(x, low_x, width, FACTOR_X, ACC))[:, None]
            offset = (row + x)[:, None] * channels + channel
            counts = mask & (weight > 0)
            value = tl.load(grad + offset, mask=counts, other=0.0).to(ACC)
            if RELU:
                positive = tl.load(out + offset, mask=counts, other=0.0).to(ACC)
                value = tl.where(positive <= 0, 0.0, value)
                nearest = (y // FACTOR_Y == low_y) & (x // FACTOR_X == low_x)
                tl.store(grad_x + offset, value, mask=counts & nearest[:, None])
            total += weight * value
    tl.store(grad_term + pixel[:, None] * channels + channel, total, mask=mask)


def forward(x: Tensor, terms: Sequence[Tensor], factors: Sequence[tuple[int, int]], *, relu: bool) -> Tensor:
    """(N, C, H, W), as `ddrsapc.kernels.reference` defines it; the factors take each term to x's size."""
    layout = memory_format(x)
    x = x.contiguous(memory_format=layout)
    out = torch.empty_like(x, memory_format=layout)
    _, height, width = x.shape[1:]
    channels = x.shape[1] if layout == torch.channels_last else 1
    pixels = x.numel() // channels
    block_p, block_c = tile(channels, 1024 if channels > 1 else 512)
    forward_kernel[triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c)](
        out,
        x,
        tuple(term.contiguous(memory_format=layout) for term in terms),
        pixels,
        height,
        width,
        channels,
        FACTORS=tuple(number for pair in factors for number in pair),
        RELU=relu,
        ACC=accumulator(x),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return out


def backward(grad: Tensor, out: Tensor | None, factors: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The gradients of the terms that are upsampled by these factors; before them x's, where ReLU's `out` is given.

    Args:
        grad: (N, C, H, W), of the output.
        out: the output where it went through ReLU, else None: x's gradient is then `grad`.
        factors: (y, x) of each term, at least one of the two above 1.
    """
    layout = memory_format(grad if out is None else out)
    grad = grad.contiguous(memory_format=layout)
    batch, all_channels, height, width = grad.shape
    channels = all_channels if layout == torch.channels_last else 1
    block_p, block_c = tile(channels, 512 if channels > 1 else 256)
    grads: list[Tensor] = []
    for factor_y, factor_x in factors:
        shape = (batch, all_channels, height // factor_y, width // factor_x)
        grad_term = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        masks = out is not None and not grads  # the first gathering masks by ReLU on its way
        grad_x = torch.empty_like(grad, memory_format=layout) if masks else grad
        pixels = grad_term.numel() // channels
        backward_kernel[triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c)](
            grad_term,
            grad_x,
            grad,
            out.contiguous(memory_format=layout) if out is not None and masks else grad,
            pixels,
            height // factor_y,
            width // factor_x,
            channels,
            FACTOR_Y=factor_y,
            FACTOR_X=factor_x,
            RELU=masks,
            ACC=accumulator(grad),
            BLOCK_P=block_p,
            BLOCK_C=block_c,
        )
        if masks:
            grads.append(grad_x)
            grad = grad_x
        grads.append(grad_term)
    return grads
