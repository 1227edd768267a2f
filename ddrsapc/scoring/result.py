"""What a calcium score consists of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ddrsapc.scoring.rules import UNKNOWN, cac_drs, risk_category

__all__ = ["RESEARCH_ONLY", "CalciumScore", "Lesion", "ScoreSettings", "VesselScore"]

RESEARCH_ONLY = "For research only; not a medical device."


@dataclass(frozen=True)
class Lesion:
    """A calcification in space: the counted voxels of one vessel that touch, corners included."""

    number: int
    """From 1, over all vessels."""
    vessel: str
    slices: tuple[int, int]
    """First and last slice, from 0."""
    centroid_index: tuple[float, float, float]
    """(z, y, x) in voxels, from 0."""
    centroid_mm: tuple[float, float, float]
    """(z, y, x) from the centre of the first voxel; z along the slice positions where they were given."""
    peak_hu: float
    mean_hu: float
    area_mm2: float
    """Sum over the slices."""
    volume_mm3: float
    agatston: float
    mass_mg: float | None


@dataclass(frozen=True)
class VesselScore:
    """The scores of one vessel: sums over its lesions."""

    agatston: float
    volume_mm3: float
    mass_mg: float | None
    """None without a mass factor."""


@dataclass(frozen=True)
class ScoreSettings:
    """Everything that a score depends on besides HU and labels."""

    threshold_hu: float
    preset: str | None
    """None where the caller gave the least area."""
    min_area_mm2: float
    min_pixels: int
    increment_mm: float
    """Distance of neighbouring slices' centres; the median where positions were given."""
    slice_positions_mm: tuple[float, ...] | None
    """As given; None: all slices have the same increment."""
    pixel_spacing_mm: tuple[float, float]
    """(y, x)."""
    mass_factor_mg_per_ml_hu: float | None
    kvp: float | None
    vessels: Mapping[int, str]
    """Names by label."""
    connectivity_in_slice: int = 8
    connectivity_of_lesions: int = 26


@dataclass(frozen=True)
class CalciumScore:
    """The calcium score of a patient."""

    agatston: float
    volume_mm3: float
    mass_mg: float | None
    """None without a mass factor."""
    vessels: Mapping[str, VesselScore]
    """By name; every vessel that has a label, without calcium too."""
    lesions: tuple[Lesion, ...]
    """By vessel."""
    settings: ScoreSettings

    @property
    def category(self) -> str:
        """The grade of the Agatston score, see `risk_category`."""
        return risk_category(self.agatston)

    @property
    def cac_drs(self) -> str:
        """CAC-DRS, as "A2/N3": A by the Agatston score, N the number of named vessels with calcium.

        N is at most 3 with the default vessels, as the left main artery counts with LAD; CAC-DRS knows 4. Calcium
        of the vessel `UNKNOWN` is in one of the others: it makes an N of 1 where it is the only one.
        """
        named = sum(vessel.agatston > 0 for name, vessel in self.vessels.items() if name != UNKNOWN)
        return cac_drs(self.agatston, max(named, int(self.agatston > 0)))

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries, as JSON has them; units are in the keys."""
        content = {
            "note": RESEARCH_ONLY,
            **asdict(self),
            "category": self.category,
            "cac_drs": self.cac_drs,
        }
        read: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))  # tuples to lists, labels to strings
        return read
