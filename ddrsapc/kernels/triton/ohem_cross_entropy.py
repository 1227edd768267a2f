"""The OHEM loss and its gradient on a GPU: starts six kernels, eleven with class weights, and waits for none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ddrsapc.kernels.layout import memory_format
from ddrsapc.kernels.triton.ohem_kernels import (
    COUNTS,
    backward_kernel,
    digit_kernel,
    finish_kernel,
    loss_kernel,
    sum_kernel,
)
from ddrsapc.kernels.triton.select import PASSES, SELECTION

__all__ = ["backward", "forward"]

_BLOCK = 1024
"""Losses of a tile."""


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    factors: Sequence[int],
    *,
    threshold: float,
    min_kept: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, as `ddrsapc.kernels.reference` defines it; the pixels' losses and the choice, for `backward`.

    Args:
        logits: (N, C, h, w).
        target: (N, H, W), int64, contiguous.
        weight: (C,), float32, contiguous, or None.
        factors: (y, x), by which the target is larger than the logits.
        threshold: as the function's.
        min_kept: as the function's.
        ignore_index: as the function's.
    """
    layout = memory_format(logits)
    logits = logits.contiguous(memory_format=layout)
    pixels, (_, classes, height, width) = target.numel(), logits.shape
    cut = -math.log(threshold) if threshold > 0 else math.inf

    result = torch.empty((), dtype=torch.float32, device=logits.device)
    choice = torch.empty(4, dtype=torch.float32, device=logits.device)
    losses = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    state = torch.zeros(COUNTS.value + 2 * SELECTION.value, dtype=torch.int32, device=logits.device)
    block_p, block_c = _tile(classes, 2048)
    loss_kernel[(triton.cdiv(pixels, block_p),)](
        losses,
        state,
        logits,
        target,
        pixels,
        height,
        width,
        cut,
        ignore_index,
        CLASSES=classes,
        LAST=layout == torch.channels_last,
        FACTOR_Y=factors[0],
        FACTOR_X=factors[1],
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    tiles = triton.cdiv(pixels, _BLOCK)
    sums = torch.empty(2, tiles, dtype=torch.float32, device=logits.device)
    weights = losses if weight is None else weight  # not read where there are none
    for fallback in (0,) if weight is None else (0, 1):
        for digit in range(1 - fallback, PASSES.value):
            digit_kernel[(tiles,)](
                state,
                losses,
                target,
                weights,
                pixels,
                classes,
                min_kept,
                PASS=digit,
                FALLBACK=fallback,
                BLOCK=_BLOCK,
            )
        sum_kernel[(tiles,)](
            sums[fallback],
            choice,
            state,
            losses,
            target,
            weights,
            pixels,
            classes,
            min_kept,
            cut,
            WEIGHTED=weight is not None,
            FALLBACK=fallback,
            BLOCK=_BLOCK,
        )
    finish_kernel[(1,)](
        result, choice, state, sums[0], sums[1], tiles, min_kept, WEIGHTED=int(weight is not None), BLOCK=_BLOCK
    )
    return result, losses, choice


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    losses: Tensor,
    choice: Tensor,
    factors: Sequence[int],
) -> Tensor:
    """The logits' gradient, from what `forward` took and returned."""
    layout = memory_format(logits)
    logits = logits.contiguous(memory_format=layout)
    grad_logits = torch.empty_like(logits, memory_format=layout)
    _, classes, height, width = logits.shape
    pixels = logits.numel() // classes
    block_p, block_c = _tile(classes, 1024 // (factors[0] * factors[1]))
    backward_kernel[(triton.cdiv(pixels, block_p),)](
        grad_logits,
        grad,
        logits,
        target,
        losses if weight is None else weight,
        losses,
        choice,
        pixels,
        height,
        width,
        CLASSES=classes,
        LAST=layout == torch.channels_last,
        FACTOR_Y=factors[0],
        FACTOR_X=factors[1],
        WEIGHTED=weight is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=max(1, min(4, block_p * block_c // 128)),
    )
    return grad_logits


def _tile(classes: int, elements: int) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C): all classes of some pixels."""
    block_c = triton.next_power_of_2(classes)
    return max(32, min(1024, elements // block_c)), block_c
