"""Input that cannot be scored is an error that says why, and the way out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = [
    "check_labels_named",
    "check_number",
    "check_vessels",
    "checked_spacing",
    "checked_volumes",
    "slice_geometry",
]

_MIN_MM, _MAX_MM = 0.01, 50.0  # below: metres taken for millimetres

UNEVEN = 1.5
"""The longest step between slices may be this many times the shortest; a missing slice makes it 2."""


def checked_volumes(hu: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """HU and labels as arrays (Z, H, W); copied only where they are no arrays or CPU tensors.

    Raises:
        ValueError: for other shapes, no voxels, NaN or infinity.
        TypeError: for HU that are no numbers, or labels that are no integers.
    """
    hu, labels = np.asarray(hu), np.asarray(labels)
    if hu.shape != labels.shape or hu.ndim != 3:
        raise ValueError(
            f"expected hu and labels of one shape (Z, H, W), got hu {hu.shape}, labels {labels.shape}; "
            "one slice is a volume as hu[None], labels[None]"
        )
    if not hu.size:
        raise ValueError(f"expected at least one voxel, got the shape {hu.shape}")
    if hu.dtype.kind not in "iuf":
        raise TypeError(f"expected numbers as hu, got {hu.dtype}")
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"expected integer labels, got {labels.dtype}; labels.astype(np.uint8) makes them so, logits need an argmax"
        )
    if hu.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in hu):
        raise ValueError("hu has NaN or infinite values; set those outside the scan to air, -1024 HU")
    return hu, labels


def check_labels_named(found: Sequence[int], vessels: Mapping[int, str]) -> None:
    """Check that every label is a vessel's.

    Raises:
        ValueError: naming those that are not.
    """
    unnamed = [label for label in found if label not in vessels]
    if any(label < 0 for label in unnamed):
        raise ValueError(f"expected labels from 0, got {unnamed[:5]}; set those that are to be ignored to 0")
    if unnamed:
        raise ValueError(
            f'labels {unnamed[:5]} have no name; pass vessels={{..., {unnamed[0]}: "unknown"}}, or set them to 0'
        )


def check_vessels(vessels: Mapping[int, str]) -> None:
    """Check the vessels' names.

    Raises:
        ValueError: unless labels from 1 have names that differ.
    """
    labels_ok = all(isinstance(label, int) and not isinstance(label, bool) and label > 0 for label in vessels)
    names = list(vessels.values())
    names_ok = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    if not (vessels and labels_ok and names_ok):
        raise ValueError(f'expected vessels as labels from 1 with names that differ, {{1: "LAD"}}, got {dict(vessels)}')


def check_number(name: str, value: float | None, *, least: float = -math.inf, above: float = -math.inf) -> None:
    """Check an option; None is fine.

    Raises:
        ValueError: unless it is finite, at least `least` and above `above`.
    """
    if value is not None and not (math.isfinite(value) and value >= least and value > above):
        bound = f" above {above:g}" if above > -math.inf else f" from {least:g}" if least > -math.inf else ""
        raise ValueError(f"expected {name} to be a finite number{bound}, got {value}")


def checked_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    """The spacing (z, y, x) in mm.

    Raises:
        ValueError: unless it is three numbers that a CT can have.
    """
    sides = np.asarray(spacing, dtype=np.float64)
    if sides.shape != (3,) or not ((sides >= _MIN_MM) & (sides <= _MAX_MM)).all():  # not NaN either
        raise ValueError(
            f"expected a spacing (z, y, x) of {_MIN_MM:g} to {_MAX_MM:g} mm each, got {spacing}; "
            "z is the distance of slice centres"
        )
    return float(sides[0]), float(sides[1]), float(sides[2])


def slice_geometry(
    num_slices: int, increment: float, positions: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the slices are and how much of the z axis each stands for.

    With positions, a slice stands for half the way to either neighbour; the first and the last one for the whole way
    to their only neighbour, as slices of equal distance do. A single slice stands for `increment`.

    Args:
        num_slices: Z.
        increment: in mm, of slices of equal distance.
        positions: in mm along the slices' normal, (Z,), ascending or descending; None: of equal distance.

    Returns:
        Offsets from the first slice and increments, both in mm, (Z,).

    Raises:
        ValueError: for other positions, and for steps so uneven that a slice is missing or there twice.
    """
    if positions is None:
        return np.arange(num_slices, dtype=np.float64) * increment, np.full(num_slices, increment, np.float64)
    places: NDArray[np.float64] = np.asarray(positions, dtype=np.float64)
    if places.shape != (num_slices,) or not np.isfinite(places).all():
        raise ValueError(
            f"expected {num_slices} finite slice_positions in mm, one per slice, got {places.size}, "
            f"{np.isfinite(places).sum()} of them finite"
        )
    if num_slices == 1:
        return np.zeros(1), np.full(1, increment, np.float64)
    steps: NDArray[np.float64] = np.diff(places)  # (Z - 1,)
    if not ((steps > 0).all() or (steps < 0).all()):
        at = int(np.flatnonzero(steps * np.sign(places[-1] - places[0]) <= 0)[0])
        raise ValueError(
            f"slice_positions turn back or repeat at slices {at} and {at + 1}, {places[at]:g} and {places[at + 1]:g} mm"
            "; sort the slices along their normal and drop duplicates"
        )
    steps = np.abs(steps)
    if steps.max() > UNEVEN * steps.min():
        wide, narrow = int(steps.argmax()), int(steps.argmin())
        raise ValueError(
            f"slices {wide} and {wide + 1} are {steps[wide]:g} mm apart, {narrow} and {narrow + 1} {steps[narrow]:g} mm"
            "; slices are missing or series mixed: complete the series, or score the parts on either side and add them"
        )
    if steps.min() < _MIN_MM or steps.max() > _MAX_MM:
        raise ValueError(
            f"expected slice_positions {_MIN_MM:g} to {_MAX_MM:g} mm apart, got {steps.min():g} to {steps.max():g} mm; "
            "are they in mm?"
        )
    around = np.concatenate([steps[:1], steps, steps[-1:]])  # (Z + 1,)
    increments: NDArray[np.float64] = (around[:-1] + around[1:]) / 2
    return places - places[0], increments
