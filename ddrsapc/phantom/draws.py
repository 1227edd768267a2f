"""What is drawn for a case, before anything is rendered."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddrsapc.phantom.anatomy import Anatomy, draw_anatomy
from ddrsapc.phantom.imaging import Acquisition, draw_acquisition
from ddrsapc.phantom.lesions import draw_lesions
from ddrsapc.phantom.mimics import draw_mimics
from ddrsapc.phantom.parameters import SPLITS, PhantomParameters, Split
from ddrsapc.phantom.placement import Placement, draw_placement
from ddrsapc.phantom.tubes import Curve
from ddrsapc.phantom.vessels import Deposit, draw_courses

__all__ = [
    "SEEDS",
    "CaseDraw",
    "check_arguments",
    "draw_case",
    "parameters_or_default",
    "slice_of_item",
    "whole_number",
]

MIN_SIZE = 32
SEEDS = 2**32
"""How many seeds there are: NumPy splits a larger one in two, and the second half would stand where the split does."""
_SLICE_KEY = 900  # of the stream that chooses a slice
_NOISE_KEY = 1000  # the streams of the slices begin here


@dataclass(frozen=True, eq=False)
class CaseDraw:
    """What was drawn for a case; nothing is rendered yet."""

    seed: int
    index: int
    split: Split
    parameters: PhantomParameters
    placement: Placement
    anatomy: Anatomy
    courses: dict[str, Curve]
    """Centrelines of LM, LAD, LCX and RCA in the scan's mm: from its middle, x left, y back, z up."""
    lesions: tuple[Deposit, ...]
    """Of the coronary arteries."""
    mimics: tuple[Deposit, ...]
    """All other calcium and metal."""
    acquisition: Acquisition

    @property
    def name(self) -> str:
        """Split, seed and index, as "train0c00012"; every case is a patient of its own."""
        return f"{self.split}{self.seed}c{self.index:05d}"

    @property
    def has_contrast(self) -> bool:
        """Whether the blood of the left heart is brighter than any without contrast."""
        return self.anatomy.values["blood"] > self.parameters.blood[1]

    def slice_rng(self, z: int) -> np.random.Generator:
        """Of what is random in one slice alone: texture and noise."""
        return np.random.Generator(np.random.PCG64(_sequence(self.seed, self.index, self.split, _NOISE_KEY + z)))


def draw_case(
    seed: int,
    index: int = 0,
    *,
    split: Split = "train",
    size: int = 512,
    parameters: PhantomParameters | None = None,
) -> CaseDraw:
    """Draw a case without rendering it.

    Args:
        seed: of the set of cases, at least 0.
        index: of the case in its split, at least 0.
        split: "train", "val", "test" or "shifted"; no two have a case in common.
        size: pixels per side of a slice, at least 32.
        parameters: what is drawn from, None for the defaults; those of "shifted" are made of them by
            `PhantomParameters.shifted`.

    Returns:
        How the case lies in the scan (`placement`, with the pixel's size in mm), its anatomy, arteries, lesions, what
        looks like them, and how it is scanned: all that `make_case` renders for the same arguments.

    Raises:
        ValueError: for arguments out of their ranges.
    """
    seed, index, size = check_arguments(seed, index, split, size)
    parameters = parameters_or_default(parameters)
    if split == "shifted":
        parameters = parameters.shifted()
    streams = [np.random.Generator(np.random.PCG64(child)) for child in _sequence(seed, index, split).spawn(6)]
    placement = draw_placement(parameters, size, streams[0])
    anatomy = draw_anatomy(parameters, streams[1])
    courses = draw_courses(parameters, placement, anatomy, streams[2])
    return CaseDraw(
        seed=seed,
        index=index,
        split=split,
        parameters=parameters,
        placement=placement,
        anatomy=anatomy,
        courses=courses,
        lesions=draw_lesions(parameters, courses, streams[3]),
        mimics=draw_mimics(parameters, placement, anatomy, courses, streams[4]),
        acquisition=draw_acquisition(parameters, streams[5]),
    )


def slice_of_item(draw: CaseDraw, calcium: float) -> int:
    """Which slice of a case stands for it: with the chance `calcium` one through a lesion, else any."""
    rng = np.random.Generator(np.random.PCG64(_sequence(draw.seed, draw.index, draw.split, _SLICE_KEY)))
    chance, place = rng.random(2)
    slices: Sequence[int] = range(draw.placement.slices)
    if chance < calcium:
        ranges = [item.shape.z_range for item in draw.lesions]
        through = [z for z in slices if any(low <= draw.placement.slice_z(z) <= high for low, high in ranges)]
        slices = through or slices
    return int(slices[int(place * len(slices))])


def _sequence(seed: int, index: int, split: Split, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((seed, SPLITS.index(split), index), spawn_key=key)


def check_arguments(seed: int, index: int, split: str, size: int) -> tuple[int, int, int]:
    """Seed, index and size as plain numbers; arguments of `make_case` that are out of their ranges are refused.

    Raises:
        ValueError: naming the argument.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return (
        whole_number("seed", seed, 0, below=SEEDS),
        whole_number("index", index, 0, below=SEEDS),
        whole_number("size", size, MIN_SIZE),
    )


def whole_number(name: str, value: Any, least: int, *, below: int | None = None) -> int:
    """A whole number, NumPy's and torch's included, as an int.

    Raises:
        ValueError: for anything else, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if below is not None and number >= below:
        raise ValueError(f"{name} must be below {below}, got {number}")
    return number


def parameters_or_default(parameters: PhantomParameters | None) -> PhantomParameters:
    """The defaults for None.

    Raises:
        ValueError: for anything but `PhantomParameters`.
    """
    if parameters is not None and not isinstance(parameters, PhantomParameters):
        raise ValueError(f"parameters must be PhantomParameters or None, got {parameters!r}")
    return PhantomParameters() if parameters is None else parameters
