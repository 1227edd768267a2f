"""Scores of a volume: `score_volume`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
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
from ddrsapc.scoring.components import import_simpleitk
from ddrsapc.scoring.lesions import find_calcifications, find_lesions, lesion_of_calcification
from ddrsapc.scoring.result import CalciumScore, Lesion, ScoreSettings, VesselScore
from ddrsapc.scoring.rules import (
    PRESETS,
    THRESHOLD_HU,
    THRESHOLD_KVP,
    VESSELS,
    MinimumSize,
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
    its slice, 8-connected, is large enough. HU and labels are not changed. It takes the memory of some slices, and
    about 1 KB for each lesion.

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

    slices_of = _slices_by_label(labels)
    check_labels_named(sorted(slices_of), vessels)
    lesions: list[Lesion] = []
    for label, name in vessels.items():
        lesions += find_lesions(
            partial(
                find_calcifications,
                *(hu, labels, label, slices_of.get(label, ())),
                threshold=threshold,
                least=least,
                pixel_area=y_mm * x_mm,
            ),
            shape=labels.shape[1:],
            vessel=name,
            first_number=len(lesions) + 1,
            increments=increments,
            offsets=offsets,
            pixel_mm=(y_mm, x_mm),
            mass_factor=mass_factor,
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
    hu, labels = checked_volumes(hu, labels)
    settings = score.settings
    slices_of = _slices_by_label(labels)
    first_number = 1
    by_slice: dict[int, NDArray[np.int32]] = {}  # y, x and number, (3, n)
    for label in settings.vessels:
        calcifications = partial(
            find_calcifications,
            *(hu, labels, label, slices_of.get(label, ())),
            threshold=settings.threshold_hu,
            least=MinimumSize(settings.min_area_mm2, settings.min_pixels),
            pixel_area=settings.pixel_spacing_mm[0] * settings.pixel_spacing_mm[1],
        )
        lesion_of = lesion_of_calcification(calcifications(), labels.shape[1:])  # (calcifications,)
        for found in calcifications():
            z, y, x = found.voxels
            voxels = np.stack([y, x, first_number + lesion_of[found.number - 1]]).astype(np.int32)
            for start, stop in pairwise([*np.flatnonzero(np.diff(z, prepend=-1)).tolist(), len(z)]):
                at, part = int(found.slices[z[start]]), voxels[:, start:stop]
                by_slice[at] = np.concatenate([by_slice[at], part], axis=1) if at in by_slice else part
        first_number += int(lesion_of.max(initial=-1)) + 1
    return {z: (part[:2], part[2]) for z, part in sorted(by_slice.items())}


def _slices_by_label(labels: NDArray[np.integer[Any]]) -> dict[int, list[int]]:
    """The slices that have each label but 0; few of a scan's, and to search the others would take longest."""
    slices_of: dict[int, list[int]] = {}
    for z in np.flatnonzero(labels.any(axis=(1, 2))).tolist():
        for label in np.unique(labels[z]).tolist():
            if label:
                slices_of.setdefault(label, []).append(z)
    return slices_of


def _sum(lesions: Sequence[Lesion], mass_factor: float | None) -> VesselScore:
    """What lesions add up to."""
    return VesselScore(
        agatston=sum((lesion.agatston for lesion in lesions), 0.0),
        volume_mm3=sum((lesion.volume_mm3 for lesion in lesions), 0.0),
        mass_mg=None if mass_factor is None else sum((lesion.mass_mg or 0.0 for lesion in lesions), 0.0),
    )
