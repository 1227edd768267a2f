"""Scores of a volume: `score_volume`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddrsapc.scoring.checks import (
    check_labels_named,
    check_number,
    check_vessels,
    checked_spacing,
    checked_volumes,
    slice_geometry,
)
from ddrsapc.scoring.components import connected_components, connected_components_in_slices, import_simpleitk
from ddrsapc.scoring.result import CalciumScore, Lesion, ScoreSettings, VesselScore
from ddrsapc.scoring.rules import (
    PRESETS,
    REFERENCE_INCREMENT_MM,
    THRESHOLD_HU,
    THRESHOLD_KVP,
    VESSELS,
    MinimumSize,
    agatston_weight,
)

__all__ = ["TubeVoltageWarning", "lesion_voxels", "score_volume"]


class TubeVoltageWarning(UserWarning):
    """The tube voltage is not the one that the threshold of 130 HU is for."""


def score_volume(
    hu: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    spacing: Sequence[float],
    *,
    threshold: float = THRESHOLD_HU,
    min_area: float | None = None,
    preset: str = "literature",
    mass_factor: float | None = None,
    slice_positions: ArrayLike | None = None,
    kvp: float | None = None,
    vessels: Mapping[int, str] = VESSELS,
) -> CalciumScore:
    """Agatston, volume and mass score of the calcium in a labelled CT, by vessel and by lesion.

    A voxel counts if it has a vessel's label and `threshold` HU or more, and the calcification that it belongs to in
    its slice, 8-connected, is large enough. HU and labels are not changed.

    Args:
        hu: Hounsfield units (Z, H, W), array or CPU tensor of any real dtype.
        labels: integers (Z, H, W), 0 for none.
        spacing: (z, y, x) in mm; z is the distance of slice centres, never the slice thickness.
        threshold: the least HU of calcium. The weights' bands at 200, 300 and 400 HU stay.
        min_area: the least area in mm2 of a calcification in a slice, instead of the preset's size.
        preset: whose least size, a key of `PRESETS`.
        mass_factor: c in mg/(ml HU) of this scanner and protocol, as `mass_factor_from_rods` or DICOM's calcium scoring
            mass factor give it; without it there is no mass.
        slice_positions: in mm along the slices' normal, (Z,), where they are irregular; they replace z of the spacing,
            but for a single slice. Each slice stands for half the way to either neighbour, an outer one for the way
            to its only one. Where a slice seems to be missing, there is no score.
        kvp: tube voltage in kV.
        vessels: names by label; every label needs one.

    Raises:
        ValueError: for shapes, values, positions or options that cannot be scored; the message says the way out.
        TypeError: for labels that are no integers, or HU that are no numbers.
        ImportError: without SimpleITK, which is in the extra `ct`.

    Warns:
        TubeVoltageWarning: if `kvp` is not 120 and the threshold is 130 HU; nothing is rescaled.
    """
    import_simpleitk()  # missing, it fails on the first scan, not on the first calcified one
    hu, labels = checked_volumes(hu, labels)
    z_mm, y_mm, x_mm = checked_spacing(spacing)
    offsets, increments = slice_geometry(len(hu), z_mm, slice_positions)
    check_vessels(vessels)
    check_number("threshold", threshold)
    check_number("min_area", min_area, least=0)
    check_number("mass_factor", mass_factor, above=0)
    check_number("kvp", kvp, above=0)
    if preset not in PRESETS:
        raise ValueError(
            f"unknown preset {preset!r}; known are {', '.join(PRESETS)}; min_area gives a size of your own"
        )
    if kvp not in {None, THRESHOLD_KVP} and threshold == THRESHOLD_HU:
        warnings.warn(
            f"the threshold of {THRESHOLD_HU:g} HU is for {THRESHOLD_KVP:g} kVp, this scan has {kvp:g} kVp; "
            "give a threshold for it",
            TubeVoltageWarning,
            stacklevel=2,
        )
    least = PRESETS[preset] if min_area is None else MinimumSize(area_mm2=min_area)

    voxels, found, values = _labelled(hu, labels)
    check_labels_named(np.unique(found).tolist(), vessels)
    lesions: list[Lesion] = []
    for label, name in vessels.items():
        candidates = (found == label) & (values >= threshold)
        lesions += _lesions(
            voxels[:, candidates],
            values[candidates],
            least=least,
            increments=increments,
            offsets=offsets,
            pixel_mm=(y_mm, x_mm),
            mass_factor=mass_factor,
            vessel=name,
            first_number=len(lesions) + 1,
        )
    total = _sum(lesions, mass_factor)
    return CalciumScore(
        agatston=total.agatston,
        volume_mm3=total.volume_mm3,
        mass_mg=total.mass_mg,
        vessels={
            name: _sum([lesion for lesion in lesions if lesion.vessel == name], mass_factor)
            for name in vessels.values()
        },
        lesions=tuple(lesions),
        settings=ScoreSettings(
            threshold_hu=float(threshold),
            preset=preset if min_area is None else None,
            min_area_mm2=float(least.area_mm2),
            min_pixels=least.pixels,
            increment_mm=float(np.median(increments)),
            slice_positions_mm=None if slice_positions is None else tuple(np.asarray(slice_positions, float).tolist()),
            pixel_spacing_mm=(y_mm, x_mm),
            mass_factor_mg_per_ml_hu=None if mass_factor is None else float(mass_factor),
            kvp=None if kvp is None else float(kvp),
            vessels=dict(vessels),
        ),
    )


def lesion_voxels(
    hu: ArrayLike | Tensor, labels: ArrayLike | Tensor, score: CalciumScore
) -> dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The voxels that a score counted, and the lesions that they are in, by slice.

    Args:
        hu: Hounsfield units (Z, H, W), those that were scored.
        labels: integers (Z, H, W), those that were scored.
        score: what `score_volume` returned for them.

    Returns:
        Of each slice with calcium that counts, the voxels' indices (y, x), (2, n), and lesions' numbers, (n,).
    """
    voxels, found, values = _labelled(*checked_volumes(hu, labels))
    settings = score.settings
    least = MinimumSize(settings.min_area_mm2, settings.min_pixels)
    pixel_area = settings.pixel_spacing_mm[0] * settings.pixel_spacing_mm[1]
    first_number = 1
    by_slice: dict[int, NDArray[np.int32]] = {}  # y, x and number, (3, n)
    for label in settings.vessels:
        candidates = (found == label) & (values >= settings.threshold_hu)
        counted, lesion, _ = _counted(voxels[:, candidates], values[candidates], least, pixel_area)
        z, y, x = voxels[:, candidates][:, counted]
        all_of_label = np.stack([y, x, first_number + lesion]).astype(np.int32)
        starts = np.flatnonzero(np.diff(z, prepend=-1))  # of the slices
        for start, stop in pairwise([*starts.tolist(), len(z)]):
            at, part = int(z[start]), all_of_label[:, start:stop]
            by_slice[at] = np.concatenate([by_slice[at], part], axis=1) if at in by_slice else part
        first_number += int(lesion.max(initial=-1)) + 1
    return {z: (part[:2], part[2]) for z, part in sorted(by_slice.items())}


def _labelled(hu: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[np.float64]]:
    """The voxels with a label, (3, n) and sorted by z, their labels and their HU, (n,)."""
    slices = np.flatnonzero(labels.any(axis=(1, 2)))  # few of a scan's: to search the others would take longest
    voxels = np.stack(np.nonzero(labels[slices]))
    voxels[0] = slices[voxels[0]]
    return voxels, labels[tuple(voxels)], hu[tuple(voxels)].astype(np.float64)


def _counted(
    voxels: NDArray[np.intp], hu: NDArray[np.float64], least: MinimumSize, pixel_area: float
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Which of one vessel's candidates (3, n) count, (n,); the lesion, from 0, and the weight of those, (m,)."""
    component = connected_components_in_slices(voxels)  # (n,)
    pixels = np.bincount(component)  # (components,)
    # a spacing from a float32 header may be a little short
    large = (pixels >= least.pixels) & (pixels * pixel_area >= least.area_mm2 * (1 - 1e-6))
    weight = agatston_weight(_maxima(component, hu))
    counted = large[component]
    lesion = connected_components(voxels[:, counted])  # a component of a slice is in one lesion
    return counted, lesion, weight[component[counted]]


def _lesions(
    voxels: NDArray[np.intp],  # (3, n)
    hu: NDArray[np.float64],  # (n,)
    *,
    least: MinimumSize,
    increments: NDArray[np.float64],  # (Z,)
    offsets: NDArray[np.float64],  # (Z,)
    pixel_mm: tuple[float, float],
    mass_factor: float | None,
    vessel: str,
    first_number: int,
) -> list[Lesion]:
    """The lesions that one vessel's candidates form."""
    pixel_area = pixel_mm[0] * pixel_mm[1]
    counted, lesion, weight = _counted(voxels, hu, least, pixel_area)
    voxels, hu = voxels[:, counted], hu[counted]
    z, y, x = voxels
    voxel_volume = increments[z] * pixel_area  # (n,)
    count = np.bincount(lesion)  # (lesions,), as all that follow
    first, last = -_maxima(lesion, -z), _maxima(lesion, z)
    centroid = [np.bincount(lesion, axis) / count for axis in (z, y, x)]
    centroid_mm = [np.bincount(lesion, axis) / count for axis in (offsets[z], y * pixel_mm[0], x * pixel_mm[1])]
    peak, mean = _maxima(lesion, hu), np.bincount(lesion, hu) / count
    volume = np.bincount(lesion, voxel_volume)
    agatston = np.bincount(lesion, weight * voxel_volume) / REFERENCE_INCREMENT_MM  # area x weight x increment / 3 mm
    mass = np.bincount(lesion, hu * voxel_volume) / 1000  # in HU ml, times mg/(ml HU)
    return [
        Lesion(
            number=first_number + i,
            vessel=vessel,
            slices=(int(first[i]), int(last[i])),
            centroid_index=(float(centroid[0][i]), float(centroid[1][i]), float(centroid[2][i])),
            centroid_mm=(float(centroid_mm[0][i]), float(centroid_mm[1][i]), float(centroid_mm[2][i])),
            peak_hu=float(peak[i]),
            mean_hu=float(mean[i]),
            area_mm2=float(count[i] * pixel_area),
            volume_mm3=float(volume[i]),
            agatston=float(agatston[i]),
            mass_mg=None if mass_factor is None else float(mass_factor * mass[i]),
        )
        for i in range(len(count))
    ]


def _maxima(group: NDArray[np.intp], values: NDArray[Any]) -> NDArray[np.float64]:
    """The maximum of the values in each group; groups are numbered from 0."""
    maxima = np.full(group.max(initial=-1) + 1, -np.inf)
    np.maximum.at(maxima, group, values)
    return maxima


def _sum(lesions: Sequence[Lesion], mass_factor: float | None) -> VesselScore:
    """What lesions add up to."""
    return VesselScore(
        agatston=sum((lesion.agatston for lesion in lesions), 0.0),
        volume_mm3=sum((lesion.volume_mm3 for lesion in lesions), 0.0),
        mass_mg=None if mass_factor is None else sum((lesion.mass_mg or 0.0 for lesion in lesions), 0.0),
    )
