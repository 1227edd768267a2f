"""Cross-entropy over the difficult pixels: a map of losses, a selection of the cut, a sum; nothing waits for the host.

A pixel's probability is below a cut where its loss is above the cut's logarithm: the selection is on the losses. No two
programs add floats to the same number, so the result is deterministic. Where no loss is above the cut, those that equal
the last of the k largest share its part evenly, so that their gradients do not depend on an order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ddrsapc.kernels.triton.bilinear import position, share, window_start
from ddrsapc.kernels.triton.logits import load_logits, logits_offset
from ddrsapc.kernels.triton.select import PASSES, SELECTION, count_digits, next_digit

__all__ = ["COUNTS", "backward_kernel", "digit_kernel", "finish_kernel", "loss_kernel", "sum_kernel"]

# Integers of the state: counts, then a selection among the losses, then one among the weighted losses.
_VALID = tl.constexpr(0)
_ABOVE_THRESHOLD = tl.constexpr(1)
_KEPT = tl.constexpr(2)  # above the cut; then those that equal it
COUNTS = tl.constexpr(6)  # the last two as _KEPT, of the fallback

# Floats that the backward pass reads.
_CUT = tl.constexpr(0)
_SHARE = tl.constexpr(1)  # of a loss above the cut in the result
_TIED_SHARE = tl.constexpr(2)  # of one that equals it
_BY_WEIGHTED = tl.constexpr(3)  # 1 where weighted losses are compared with the cut


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
    threshold,
    ignore_index,
    CLASSES: tl.constexpr,
    LAST: tl.constexpr,
    FACTOR_Y: tl.constexpr,
    FACTOR_X: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the losses, -1 where a pixel is ignored; counts of them and of those above the threshold's."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = pixel < pixels
    label = tl.load(target + pixel, mask=mask, other=0)
    valid = mask & (label != ignore_index)
    z = load_logits(
        logits, pixel, valid, height, width, CLASSES, LAST, FACTOR_Y, FACTOR_X, BLOCK_C
    )  # (BLOCK_P, BLOCK_C)
    top = tl.max(z, 1)
    true = tl.sum(tl.where(tl.arange(0, BLOCK_C)[None, :] == label[:, None], z, 0.0), 1)
    loss = tl.log(tl.sum(tl.exp(z - top[:, None]), 1)) - (true - top)
    loss = tl.where(loss <= 0, 0.0, loss)
    loss = tl.where((label >= 0) & (label < CLASSES), loss, float("nan"))  # a wrong label shows
    tl.store(losses + pixel, tl.where(valid, loss, -1.0), mask=mask)
    tl.atomic_add(state + _VALID, tl.sum(valid.to(tl.int32), 0), sem="relaxed")
    above = valid & ~(loss <= threshold)
    tl.atomic_add(state + _ABOVE_THRESHOLD, tl.sum(above.to(tl.int32), 0), sem="relaxed")
    count_digits(state + COUNTS, loss, valid, 0, 0)


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
    selection = state + COUNTS + FALLBACK * SELECTION
    _k, rank, needed = _start(state, min_kept, FALLBACK)
    if needed:
        found, _rank = next_digit(selection, rank, PASS)
        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        _loss, weighted, valid = _load_losses(losses, target, weight, pixel, pixels, classes, FALLBACK)
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
            found, _rank = next_digit(state + COUNTS + FALLBACK * SELECTION, rank, PASSES)
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
    by_weighted = 0.0
    if count == 0:
        count, _rank, _needed = _start(state, min_kept, True)
        missing = count - tl.load(state + _KEPT + 2 * WEIGHTED)
        tied = tl.maximum(tl.load(state + _KEPT + 2 * WEIGHTED + 1), 1)
        if WEIGHTED:
            sums = sums_of_fallback
            by_weighted = 1.0
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, tiles, BLOCK):
        tile = begin + tl.arange(0, BLOCK)
        total += tl.load(sums + tile, mask=(tile < tiles) & (count > 0), other=0.0)
    divisor = tl.maximum(count, 1).to(tl.float32)
    extra = missing * tl.load(choice + _CUT)
    tl.store(result, (tl.sum(total, 0) + tl.where(missing > 0, extra, 0.0)) / divisor)
    tl.store(choice + _BY_WEIGHTED, by_weighted)
    tl.store(choice + _SHARE, 1 / divisor)
    tl.store(choice + _TIED_SHARE, missing / (tied * divisor))


@triton.jit
def _factor(losses, weight, choice, pixel, mask, label, classes, WEIGHTED: tl.constexpr):
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
    CLASSES: tl.constexpr,
    LAST: tl.constexpr,
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
        if FACTOR_Y == 1 and FACTOR_X == 1:
            here, counts, part = pixel, inside, 1.0
        else:
            y = window_start(i, FACTOR_Y) + k // (2 * FACTOR_X - FACTOR_X % 2)
            x = window_start(j, FACTOR_X) + k % (2 * FACTOR_X - FACTOR_X % 2)
            here = (image * (height * FACTOR_Y) + y) * (width * FACTOR_X) + x
            part = share(y, i, height, FACTOR_Y, tl.float32) * share(x, j, width, FACTOR_X, tl.float32)
            counts = inside & (part > 0)
        label = tl.load(target + here, mask=counts, other=0)
        factor = part * _factor(losses, weight, choice, here, counts, label, CLASSES, WEIGHTED)
        z = load_logits(
            logits, here, counts & (factor != 0), height, width, CLASSES, LAST, FACTOR_Y, FACTOR_X, BLOCK_C
        )  # (BLOCK_P, BLOCK_C)
        exp = tl.exp(z - tl.max(z, 1)[:, None])
        probability = exp / tl.sum(exp, 1)[:, None]
        total += factor[:, None] * (probability - tl.where(channel == label[:, None], 1.0, 0.0))
    size = height * width
    offset = logits_offset(pixel // size, pixel % size, size, CLASSES, LAST, BLOCK_C)
    tl.store(grad_logits + offset, total * tl.load(grad), mask=inside[:, None] & (channel < CLASSES))
