"""x times its own attention and what the other side's lacks: one pass forward, two backward, none with atomics.

Maps of one channel lie alike in both layouts; of x, the strides of channels and pixels tell the layout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddrsapc.kernels.layout import Ratio, memory_format, strides
from ddrsapc.kernels.triton.bilinear import accumulator, centre, corners, position, share, tile, window_start

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel", "gather_kernel"]


@triton.jit
def _gate(
    own,
    other,
    pixel,
    mask,
    height,
    width,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    DOWN: tl.constexpr,
    ACC: tl.constexpr,
):
    """(gate, own attention), (BLOCK_P,) each; the other map is smaller by the factors, or with `DOWN` larger."""
    image, y, x = position(pixel, height, width)
    if DOWN:
        h, w = height * FACTOR_Y, width * FACTOR_X
        y0, y1, wy = centre(y, FACTOR_Y, ACC)
        x0, x1, wx = centre(x, FACTOR_X, ACC)
    else:
        h, w = height // FACTOR_Y, width // FACTOR_X
        y0, y1, wy = corners(y, h, FACTOR_Y, ACC)
        x0, x1, wx = corners(x, w, FACTOR_X, ACC)
    row0, row1 = (image * h + y0) * w, (image * h + y1) * w
    a = tl.sigmoid(tl.load(other + row0 + x0, mask=mask, other=0.0).to(ACC))
    b = tl.sigmoid(tl.load(other + row0 + x1, mask=mask, other=0.0).to(ACC))
    c = tl.sigmoid(tl.load(other + row1 + x0, mask=mask, other=0.0).to(ACC))
    d = tl.sigmoid(tl.load(other + row1 + x1, mask=mask, other=0.0).to(ACC))
    resized = (1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d)
    attention = tl.sigmoid(tl.load(own + pixel, mask=mask, other=0.0).to(ACC))
    return attention + (1 - resized), attention


@triton.jit
def forward_kernel(
    out,
    x,
    own,
    other,
    pixels,
    height,
    width,
    channels,
    stride_channel,
    stride_pixel,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    DOWN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the output."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    inside = pixel < pixels
    gate, _ = _gate(own, other, pixel, inside, height, width, FACTOR_Y, FACTOR_X, DOWN, ACC)
    size = height * width
    first = (pixel // size) * (channels * size) + (pixel % size) * stride_pixel
    offset = first[:, None] + channel * stride_channel
    mask = inside[:, None] & (channel < channels)
    value = tl.load(x + offset, mask=mask, other=0.0).to(ACC)  # (BLOCK_P, BLOCK_C)
    tl.store(out + offset, gate[:, None] * value, mask=mask)


@triton.jit
def backward_kernel(
    grad_x,
    grad_own,
    grad_gate,
    grad,
    x,
    own,
    other,
    pixels,
    height,
    width,
    channels,
    stride_channel,
    stride_pixel,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    DOWN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradients of x and of its own logits in BLOCK_P pixels, and the gate's, for the other side to gather."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < pixels
    gate, attention = _gate(own, other, pixel, inside, height, width, FACTOR_Y, FACTOR_X, DOWN, ACC)
    size = height * width
    first = (pixel // size) * (channels * size) + (pixel % size) * stride_pixel
    total = tl.zeros((BLOCK_P,), ACC)
    for begin in range(0, channels, BLOCK_C):
        channel = (begin + tl.arange(0, BLOCK_C))[None, :]
        offset = first[:, None] + channel * stride_channel
        mask = inside[:, None] & (channel < channels)
        of_out = tl.load(grad + offset, mask=mask, other=0.0).to(ACC)  # (BLOCK_P, BLOCK_C)
        total += tl.sum(of_out * tl.load(x + offset, mask=mask, other=0.0).to(ACC), 1)
        tl.store(grad_x + offset, gate[:, None] * of_out, mask=mask)
    tl.store(grad_gate + pixel, total, mask=inside)
    tl.store(grad_own + pixel, total * attention * (1 - attention), mask=inside)


@triton.jit
def gather_kernel(
    grad_other,
    grad_gate,
    other,
    pixels,
    height,
    width,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    DOWN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """The gradient of the other side's logits in BLOCK_P of its pixels; `height` and `width` are its own."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < pixels
    image, i, j = position(pixel, height, width)
    total = tl.zeros((BLOCK_P,), ACC)
    if DOWN:  # each of its pixels goes into one of the gate's at most
        h, w = height // FACTOR_Y, width // FACTOR_X
        y, x = i // FACTOR_Y, j // FACTOR_X
        y0, y1, wy = centre(y, FACTOR_Y, ACC)
        x0, x1, wx = centre(x, FACTOR_X, ACC)
        weight = tl.where(i == y0, 1 - wy, tl.where(i == y1, wy, 0.0))
        weight *= tl.where(j == x0, 1 - wx, tl.where(j == x1, wx, 0.0))
        total += weight * tl.load(grad_gate + (image * h + y) * w + x, mask=inside & (weight > 0), other=0.0)
    else:
        h, w = height * FACTOR_Y, width * FACTOR_X
        for k in range(2 * FACTOR_Y - FACTOR_Y % 2):
            y = window_start(i, FACTOR_Y) + k
            wy = share(y, i, height, FACTOR_Y, ACC)
            for l in tl.static_range(2 * FACTOR_X - FACTOR_X % 2):  # noqa: E741
                x = window_start(j, FACTOR_X) + l
                weight = wy * share(x, j, width, FACTOR_X, ACC)
                total += weight * tl.load(grad_gate + (image * h + y) * w + x, mask=inside & (weight > 0), other=0.0)
    attention = tl.sigmoid(tl.load(other + pixel, mask=inside, other=0.0).to(ACC))
    tl.store(grad_other + pixel, -total * attention * (1 - attention), mask=inside)


def forward(x: Tensor, own: Tensor, other: Tensor, ratio: Ratio) -> Tensor:
    """(N, C, H, W), as `ddrsapc.kernels.reference` defines it, of contiguous attention logits."""
    layout = memory_format(x)
    x = x.contiguous(memory_format=layout)
    out = torch.empty_like(x, memory_format=layout)
    channels, pixels = x.shape[1], own.numel()
    block_p, block_c = _tile(layout, channels)
    forward_kernel[triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c)](
        out,
        x,
        own,
        other,
        pixels,
        *x.shape[2:],
        channels,
        *strides(x, layout),
        **_constants(ratio, x),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return out


def backward(grad: Tensor, x: Tensor, own: Tensor, other: Tensor, ratio: Ratio) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, own and other; the attention logits are contiguous."""
    layout = memory_format(x)
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    grad_x, grad_own = torch.empty_like(x, memory_format=layout), torch.empty_like(own)
    grad_gate = torch.empty(own.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    channels, pixels = x.shape[1], own.numel()
    block_p, block_c = _tile(layout, channels)
    backward_kernel[(triton.cdiv(pixels, block_p),)](
        grad_x,
        grad_own,
        grad_gate,
        grad,
        x,
        own,
        other,
        pixels,
        *x.shape[2:],
        channels,
        *strides(x, layout),
        **_constants(ratio, x),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    grad_other = torch.empty_like(other)
    block = 256
    gather_kernel[(triton.cdiv(other.numel(), block),)](
        grad_other,
        grad_gate,
        other,
        other.numel(),
        *other.shape[2:],
        **_constants(ratio, x),
        BLOCK_P=block,
    )
    return grad_x, grad_own, grad_other


def _tile(layout: torch.memory_format, channels: int) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C): long where memory is."""
    return tile(channels, 1024) if layout == torch.channels_last else (128, min(8, triton.next_power_of_2(channels)))


def _constants(ratio: Ratio, x: Tensor) -> dict[str, object]:
    return {"FACTOR_Y": ratio.y, "FACTOR_X": ratio.x, "DOWN": ratio.down, "ACC": accumulator(x)}
