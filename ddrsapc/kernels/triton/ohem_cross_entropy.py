"""Cross-entropy over the difficult pixels: a map of losses, a selection of the cut, a sum; nothing waits for the host.

A pixel's probability is below a cut where its loss is above the cut's logarithm: the selection is on the losses. No two
programs add floats to the same number, so the result is deterministic. Where no loss is above the cut, those that equal
the last of the k largest share its part evenly, so that their gradients do not depend on an order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddrsapc.kernels.layout import memory_format, strides
from ddrsapc.kernels.triton.bilinear import position, share, window_start
from ddrsapc.kernels.triton.logits import load_logits
from ddrsapc.kernels.triton.select import PASSES, SELECTION, count_digits, next_digit

__all__ = ["backward", "backward_kernel", "digit_kernel", "finish_kernel", "forward", "loss_kernel", "sum_kernel"]

# Integers of the state: counts, then a selection among the losses, then one among the weighted losses.
_VALID = tl.constexpr(0)
_ABOVE_THRESHOLD = tl.constexpr(1)
_KEPT = tl.constexpr(2)  # above the cut; then those that equal it
_COUNTS = tl.constexpr(6)  # the last two as _KEPT, of the fallback

# Floats that the backward pass reads.
_CUT = tl.constexpr(0)
_SHARE = tl.constexpr(1)  # of a loss above the cut in the result
_TIED_SHARE = tl.constexpr(2)  # of one that equals it
_BY_WEIGHTED = tl.constexpr(3)  # 1 where weighted losses are compared with the cut


_BLOCK = 1024
"""Losses of a tile."""


@triton.jit
def _start(state, min_kept, FALLBACK: tl.constexpr):
    """(k, rank, needed): pixels to keep at least, the rank of the loss to select, and whether that must be.

    The cut is the (k + 1)-th largest loss, if no more than k are above the threshold. The fallback is the k-th largest
    weighted loss, where none was above the cut.
    """
    valid = tl.load(state + _VALID)
    k = tl.maximum((valid.to(tl.float64) * min_kept).to(tl.int32), 1)
    if FALLBACK:
        k = tl.minimum(k, valid)
        return k, k - 1, (valid > 0) & (tl.load(state + _KEPT) == 0)
    return k, k, (tl.load(state + _ABOVE_THRESHOLD) <= k) & (k < valid)


@triton.jit
def loss_kernel(
    losses,
    state,
    logits,
    target,
    pixels,
    height,
    width,
    classes,
    stride_class,
    stride_pixel,
    threshold,
    ignore_index,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the losses, -1 where a pixel is ignored; counts of them and of those above the threshold's."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = pixel < pixels
    image, y, x = position(pixel, height * FACTOR_Y, width * FACTOR_X)
    label = tl.load(target + pixel, mask=mask, other=0)
    valid = mask & (label != ignore_index)
    z = load_logits(
        logits, image, y, x, valid, height, width, classes, stride_class, stride_pixel, FACTOR_Y, FACTOR_X, BLOCK_C
    )  # (BLOCK_P, BLOCK_C)
    top = tl.max(z, 1)
    true = tl.sum(tl.where(tl.arange(0, BLOCK_C)[None, :] == label[:, None], z, 0.0), 1)
    loss = tl.log(tl.sum(tl.exp(z - top[:, None]), 1)) - (true - top)
    loss = tl.where(loss <= 0, 0.0, loss)
    loss = tl.where((label >= 0) & (label < classes), loss, float("nan"))  # a wrong label shows
    tl.store(losses + pixel, tl.where(valid, loss, -1.0), mask=mask)
    tl.atomic_add(state + _VALID, tl.sum(valid.to(tl.int32), 0), sem="relaxed")
    above = valid & ~(loss <= threshold)
    tl.atomic_add(state + _ABOVE_THRESHOLD, tl.sum(above.to(tl.int32), 0), sem="relaxed")
    count_digits(state + _COUNTS, loss, valid, 0, 0)


@triton.jit
def _load_losses(losses, target, weight, pixel, pixels, classes, WEIGHTED: tl.constexpr):
    """(loss, weighted loss, whether it counts) of a tile."""
    loss = tl.load(losses + pixel, mask=pixel < pixels, other=-1.0)
    valid = ~(loss < 0)
    weighted = loss
    if WEIGHTED:
        label = tl.load(target + pixel, mask=valid, other=0)
        weighted *= tl.load(weight + label, mask=valid & (label >= 0) & (label < classes), other=1.0)
    return loss, weighted, valid


@triton.jit
def digit_kernel(
    state,
    losses,
    target,
    weight,
    pixels,
    classes,
    min_kept: tl.float64,  # as Python's int(min_kept * n)
    PASS: tl.constexpr,
    FALLBACK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A pass of the selection of a loss, or with `FALLBACK` of a weighted one."""
    selection = state + _COUNTS + FALLBACK * SELECTION
    _, rank, needed = _start(state, min_kept, FALLBACK)
    if needed:
        found, _ = next_digit(selection, rank, PASS)
        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        loss, weighted, valid = _load_losses(losses, target, weight, pixel, pixels, classes, FALLBACK)
        count_digits(selection, weighted, valid, found, PASS)


@triton.jit
def sum_kernel(
    sums,
    choice,
    state,
    losses,
    target,
    weight,
    pixels,
    classes,
    min_kept: tl.float64,
    threshold,
    WEIGHTED: tl.constexpr,
    FALLBACK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The cut, and each tile's sum of the losses above it; counts of these and of those that equal it."""
    k, rank, needed = _start(state, min_kept, FALLBACK)
    run = needed | (not FALLBACK)
    if run:
        cut = threshold
        if needed:
            found, _ = next_digit(state + _COUNTS + FALLBACK * SELECTION, rank, PASSES)
            cut = found.to(tl.float32, bitcast=True)
        elif k >= tl.load(state + _VALID):
            cut = -0.5  # all are kept
        program = tl.program_id(0)
        pixel = program * BLOCK + tl.arange(0, BLOCK)
        loss, weighted, valid = _load_losses(losses, target, weight, pixel, pixels, classes, WEIGHTED)
        key = weighted if FALLBACK else loss
        kept = valid & ~(key <= cut)  # NaN is kept, for the loss to show it
        tl.store(sums + program, tl.sum(tl.where(kept, weighted, 0.0), 0))
        tl.atomic_add(state + _KEPT + 2 * FALLBACK, tl.sum(kept.to(tl.int32), 0), sem="relaxed")
        tied = valid & (key == cut)
        tl.atomic_add(state + _KEPT + 2 * FALLBACK + 1, tl.sum(tied.to(tl.int32), 0), sem="relaxed")
        if program == 0:
            tl.store(choice + _CUT, cut)


@triton.jit
def finish_kernel(
    result,
    choice,
    state,
    sums,
    sums_of_fallback,
    tiles,
    min_kept: tl.float64,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The result from the tiles' sums, and what the backward pass multiplies by."""
    count = tl.load(state + _KEPT)
    missing, tied = 0, 1  # of the k largest, those that equal the last; all that do
    if count == 0:
        count, _, _ = _start(state, min_kept, True)
        missing = count - tl.load(state + _KEPT + 2 * WEIGHTED)
        tied = tl.maximum(tl.load(state + _KEPT + 2 * WEIGHTED + 1), 1)
        if WEIGHTED:
            sums = sums_of_fallback
            tl.store(choice + _BY_WEIGHTED, 1.0)
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, tiles, BLOCK):
        tile = begin + tl.arange(0, BLOCK)
        total += tl.load(sums + tile, mask=(tile < tiles) & (count > 0), other=0.0)
    divisor = tl.maximum(count, 1).to(tl.float32)
    extra = missing * tl.load(choice + _CUT)
    tl.store(result, (tl.sum(total, 0) + tl.where(missing > 0, extra, 0.0)) / divisor)
    tl.store(choice + _SHARE, 1 / divisor)
    tl.store(choice + _TIED_SHARE, missing / (tied * divisor))


@triton.jit
def _factor(losses, target, weight, choice, pixel, mask, label, classes, WEIGHTED: tl.constexpr):
    """What each pixel's loss counts in the result, its class's weight included; 0 where it is not kept."""
    loss = tl.load(losses + pixel, mask=mask, other=-1.0)
    cut = tl.load(choice + _CUT)
    if WEIGHTED:
        class_weight = tl.load(weight + label, mask=mask & (label >= 0) & (label < classes), other=0.0)
        key = tl.where(tl.load(choice + _BY_WEIGHTED) > 0, loss * class_weight, loss)
    else:
        class_weight, key = 1.0, loss
    counted = tl.where(key == cut, tl.load(choice + _TIED_SHARE), tl.where(key <= cut, 0.0, tl.load(choice + _SHARE)))
    return tl.where(mask & ~(loss < 0), class_weight * counted, 0.0)


@triton.jit
def backward_kernel(
    grad_logits,
    grad,
    logits,
    target,
    weight,
    losses,
    choice,
    pixels,
    height,
    width,
    classes,
    stride_class,
    stride_pixel,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the logits' gradient, gathered from the pixels that each of them is part of.

    `pixels`, `height` and `width` are the logits' own.
    """
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < pixels
    channel = tl.arange(0, BLOCK_C)[None, :]
    image, i, j = position(pixel, height, width)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for k in range((2 * FACTOR_Y - FACTOR_Y % 2) * (2 * FACTOR_X - FACTOR_X % 2)):
        y = window_start(i, FACTOR_Y) + k // (2 * FACTOR_X - FACTOR_X % 2)
        x = window_start(j, FACTOR_X) + k % (2 * FACTOR_X - FACTOR_X % 2)
        share_of = share(y, i, height, FACTOR_Y, tl.float32) * share(x, j, width, FACTOR_X, tl.float32)
        counts = inside & (share_of > 0)
        here = (image * (height * FACTOR_Y) + y) * (width * FACTOR_X) + x
        label = tl.load(target + here, mask=counts, other=0)
        factor = _factor(losses, target, weight, choice, here, counts, label, classes, WEIGHTED) * share_of
        counts = counts & (factor != 0)
        z = load_logits(
            logits, image, y, x, counts, height, width, classes, stride_class, stride_pixel, FACTOR_Y, FACTOR_X, BLOCK_C
        )  # (BLOCK_P, BLOCK_C)
        exp = tl.exp(z - tl.max(z, 1)[:, None])
        probability = exp / tl.sum(exp, 1)[:, None]
        total += factor[:, None] * (probability - tl.where(channel == label[:, None], 1.0, 0.0))
    offset = image * (classes * height * width) + (pixel % (height * width)) * stride_pixel
    mask = inside[:, None] & (channel < classes)
    tl.store(grad_logits + offset[:, None] + channel * stride_class, total * tl.load(grad), mask=mask)


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

    result, choice = logits.new_empty((), dtype=torch.float32), logits.new_zeros(4, dtype=torch.float32)
    losses = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    state = torch.zeros(_COUNTS.value + 2 * SELECTION.value, dtype=torch.int32, device=logits.device)
    block_p, block_c = _tile(classes, 2048)
    loss_kernel[(triton.cdiv(pixels, block_p),)](
        losses,
        state,
        logits,
        target,
        pixels,
        height,
        width,
        classes,
        *strides(logits, layout),
        cut,
        ignore_index,
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
    block_p, block_c = _tile(classes, 1024)
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
        classes,
        *strides(logits, layout),
        FACTOR_Y=factors[0],
        FACTOR_X=factors[1],
        WEIGHTED=weight is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return grad_logits


def _tile(classes: int, elements: int) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C): all classes of some pixels."""
    block_c = triton.next_power_of_2(classes)
    return max(16, min(1024, elements // block_c)), block_c
