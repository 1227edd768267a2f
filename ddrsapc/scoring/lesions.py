"""One vessel's calcifications, slice by slice, and the lesions that they form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.scoring.components import connected_components, merge_components
from ddrsapc.scoring.result import Lesion
from ddrsapc.scoring.rules import REFERENCE_INCREMENT_MM, MinimumSize, agatston_weight

__all__ = ["Calcifications", "find_calcifications", "find_lesions", "lesion_of_calcification"]


MAX_PIXELS = 1 << 21
"""Looked at in one go, 8 slices of 512 x 512: what is worked out for a pixel takes many times what the scan does."""


@dataclass(frozen=True, eq=False)
class Calcifications:
    """The voxels of some slices' calcifications, slice by slice and row by row."""

    slices: NDArray[np.intp]
    """(N,) ascending."""
    voxels: NDArray[np.intp]
    """Indices (z, y, x), (3, n); z counts `slices`."""
    number: NDArray[np.intp]
    """Which calcification, (n,); they are numbered from 1 over all slices, in the order of their first voxels."""
    hu: NDArray[np.float64]
    """(n,)"""
    weight: NDArray[np.intp]
    """Agatston's weight of the calcification, (n,)."""


def find_calcifications(
    hu: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    label: int,
    slices: Sequence[int],
    *,
    threshold: float,
    least: MinimumSize,
    pixel_area: float,
) -> Iterator[Calcifications]:
    """The calcifications of a label, some slices at a time; those that are too small are left out.

    Args:
        hu: (Z, H, W).
        labels: (Z, H, W).
        label: that counts.
        slices: to look at, ascending.
        threshold: the least HU.
        least: the least size.
        pixel_area: in mm2.
    """
    at_once = max(1, MAX_PIXELS // labels[0].size)
    last = 0
    for start in range(0, len(slices), at_once):
        part = np.array(slices[start : start + at_once])
        values = hu[part].astype(np.float64)  # (N, H, W)
        voxels, component = connected_components((labels[part] == label) & (values >= threshold))  # (3, n), (n,)
        values = values[tuple(voxels)]  # (n,)
        pixels = np.bincount(component)  # (components,)
        # a spacing from a float32 header may be a little short
        is_large = (pixels >= least.pixels) & (pixels * pixel_area >= least.area_mm2 * (1 - 1e-6))
        peak = np.full(len(pixels), -np.inf)
        np.maximum.at(peak, component, values)
        number, weight = last + np.cumsum(is_large), agatston_weight(peak)  # (components,)
        counted = is_large[component]  # (n,)
        component = component[counted]
        last += int(is_large.sum())
        yield Calcifications(part, voxels[:, counted], number[component], values[counted], weight[component])


def find_lesions(
    calcifications: Callable[[], Iterator[Calcifications]],
    *,
    shape: tuple[int, int],
    vessel: str,
    first_number: int,
    increments: NDArray[np.float64],
    offsets: NDArray[np.float64],
    pixel_mm: tuple[float, float],
    mass_factor: float | None,
) -> list[Lesion]:
    """The lesions that a vessel's calcifications form: those that touch in space, corners included.

    They are looked for twice: kept, all their voxels could take many times what the scan does.

    Args:
        calcifications: finds them.
        shape: of slices, (H, W).
        vessel: its name.
        first_number: of the lesions.
        increments: of the slices, mm, (Z,).
        offsets: of the slices from the first one, mm, (Z,).
        pixel_mm: (y, x).
        mass_factor: in mg/(ml HU), or None.
    """
    lesion_of = lesion_of_calcification(calcifications(), shape)  # (calcifications,)
    size = int(lesion_of.max(initial=-1)) + 1
    count, first, last = np.zeros(size, np.intp), np.full(size, len(offsets)), np.full(size, -1)
    peak = np.full(size, -np.inf)
    sums = np.zeros((10, size))  # added up voxel by voxel
    for found in calcifications():
        lesion, (z, y, x) = lesion_of[found.number - 1], found.voxels  # (n,)
        z = found.slices[z]
        volume = increments[z] * (pixel_mm[0] * pixel_mm[1])  # (n,)
        np.add.at(count, lesion, 1)
        np.minimum.at(first, lesion, z)
        np.maximum.at(last, lesion, z)
        np.maximum.at(peak, lesion, found.hu)
        for total, values in zip(
            sums,
            (
                *(z, y, x, offsets[z], y * pixel_mm[0], x * pixel_mm[1]),
                *(found.hu, volume, found.weight * volume, found.hu * volume),
            ),
            strict=True,
        ):
            np.add.at(total, lesion, values)
    centroids = sums[:6] / count  # (6, lesions): index, mm
    hu, volumes, weighted, hu_volume = sums[6:]  # (lesions,)
    means, agatston, mass = hu / count, weighted / REFERENCE_INCREMENT_MM, hu_volume / 1000  # mass: in HU ml
    return [
        Lesion(
            number=first_number + i,
            vessel=vessel,
            slices=(int(first[i]), int(last[i])),
            centroid_index=(float(centroids[0, i]), float(centroids[1, i]), float(centroids[2, i])),
            centroid_mm=(float(centroids[3, i]), float(centroids[4, i]), float(centroids[5, i])),
            peak_hu=float(peak[i]),
            mean_hu=float(means[i]),
            area_mm2=float(count[i] * (pixel_mm[0] * pixel_mm[1])),
            volume_mm3=float(volumes[i]),
            agatston=float(agatston[i]),
            mass_mg=None if mass_factor is None else float(mass_factor * mass[i]),
        )
        for i in range(size)
    ]


def lesion_of_calcification(calcifications: Iterator[Calcifications], shape: tuple[int, int]) -> NDArray[np.intp]:
    """The lesion of each calcification, from 0, (calcifications,), of slices (H, W)."""
    last = 0
    pairs = [np.zeros((0, 2), np.intp)]
    before, top = -2, np.zeros((shape[0] + 2, shape[1] + 2), np.intp)  # the slice before, one pixel wider on all sides
    for found in calcifications:
        z, y, x = found.voxels
        numbers = np.zeros((len(found.slices) + 1, *top.shape), np.intp)  # (N + 1, H + 2, W + 2)
        numbers[0] = top
        numbers[z + 1, y + 1, x + 1] = found.number
        is_next = np.diff(found.slices, prepend=before)[z] == 1  # (n,)
        z, y, x, number = z[is_next], y[is_next], x[is_next], found.number[is_next]
        last = int(found.number.max(initial=last))
        for dy in range(3):
            for dx in range(3):
                near = numbers[z, y + dy, x + dx]  # in the slice before
                keys = np.unique((near * (last + 1) + number)[near > 0])
                pairs.append(np.stack(np.divmod(keys, last + 1), axis=1))
        before, top = found.slices[-1], numbers[-1]
    return merge_components(last, np.unique(np.concatenate(pairs), axis=0))
