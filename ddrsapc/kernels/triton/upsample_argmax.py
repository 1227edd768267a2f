"""The class of the largest logit, of logits upsampled on the way: one pass that writes a byte a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddrsapc.kernels.layout import memory_format
from ddrsapc.kernels.triton.logits import load_logits

__all__ = ["forward", "forward_kernel"]


@triton.jit
def forward_kernel(
    out,
    logits,
    pixels,
    height,
    width,
    CLASSES: tl.constexpr,
    LAST: tl.constexpr,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the labels; `height` and `width` are the logits' own."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = pixel < pixels
    value = load_logits(
        logits, pixel, mask, height, width, CLASSES, LAST, FACTOR_Y, FACTOR_X, BLOCK_C
    )  # (BLOCK_P, BLOCK_C)
    channel = tl.arange(0, BLOCK_C)[None, :]
    is_nan = value != value  # noqa: PLR0124  # the largest of all, as in ATen
    is_largest = is_nan | (value == tl.max(value, 1)[:, None])
    first = tl.min(tl.where(is_largest, channel, BLOCK_C), 1)
    first_nan = tl.min(tl.where(is_nan, channel, BLOCK_C), 1)
    tl.store(out + pixel, tl.where(first_nan < BLOCK_C, first_nan, first).to(tl.uint8), mask=mask)


def forward(logits: Tensor, factors: Sequence[int]) -> Tensor:
    """(N, H, W), as `ddrsapc.kernels.reference` defines it; the factors (y, x) take the logits to H and W."""
    layout = memory_format(logits)
    logits = logits.contiguous(memory_format=layout)
    batch, classes, height, width = logits.shape
    out = torch.empty(batch, height * factors[0], width * factors[1], dtype=torch.uint8, device=logits.device)
    block_c = triton.next_power_of_2(classes)
    block_p = max(1, 2048 // block_c)
    forward_kernel[(triton.cdiv(out.numel(), block_p),)](
        out,
        logits,
        out.numel(),
        height,
        width,
        CLASSES=classes,
        LAST=layout == torch.channels_last,
        FACTOR_Y=factors[0],
        FACTOR_X=factors[1],
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return out
