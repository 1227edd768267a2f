"""The n-th largest of many numbers without sorting or waiting: a radix select on the floats' bits, 8 of them at a time.

The bits of floats of at least 0, read as an integer, are in the floats' order. Each of four passes counts how the
candidates' next 8 bits are distributed, which tells those of the number looked for; the next pass keeps to the numbers
that share them. What a pass found is written down by its successor's first program, and worked out by all.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["PASSES", "SELECTION", "count_digits", "next_digit"]

PASSES = tl.constexpr(4)
SELECTION = tl.constexpr(10 + 4 * 256)
"""Integers of one selection: the bits found after 0 to 4 passes, as many ranks, four histograms."""
_RANKS = tl.constexpr(5)
_HISTOGRAMS = tl.constexpr(10)


@triton.jit
def count_digits(selection, value, counts, found, PASS: tl.constexpr):
    """Add those of a tile's numbers that start with the bits found so far to the pass's histogram."""
    key = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # NaN, of either sign, is above all
    if PASS > 0:
        counts = counts & ((key >> (32 - 8 * PASS)) == found)
    digit = (key >> (24 - 8 * PASS)) & 0xFF
    histogram = tl.histogram(digit, 256, mask=counts)
    bins = tl.arange(0, 256)
    tl.atomic_add(selection + _HISTOGRAMS + PASS * 256 + bins, histogram, mask=histogram > 0, sem="relaxed")


@triton.jit
def next_digit(selection, rank, PASS: tl.constexpr):
    """(bits, rank): what is found after `PASS` passes, and the rank among the numbers that share it.

    `rank` is that of the whole selection, 0 for the largest number.
    """
    found = 0
    if PASS > 0:
        if PASS > 1:
            found = tl.load(selection + PASS - 1)
            rank = tl.load(selection + _RANKS + PASS - 1)
        bins = tl.arange(0, 256)
        histogram = tl.load(selection + _HISTOGRAMS + (PASS - 1) * 256 + bins)
        above = tl.sum(histogram, 0) - tl.cumsum(histogram, 0)
        here = (above <= rank) & (rank < above + histogram)
        found = found * 256 + tl.sum(tl.where(here, bins, 0), 0)
        rank = rank - tl.sum(tl.where(here, above, 0), 0)
        if tl.program_id(0) == 0:
            tl.store(selection + PASS, found)
            tl.store(selection + _RANKS + PASS, rank)
    return found, rank
