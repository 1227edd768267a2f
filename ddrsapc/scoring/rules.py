"""The rules of calcium scoring that are numbers: weights, least sizes, vessels and categories."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PRESETS",
    "UNKNOWN",
    "VESSELS",
    "MinimumSize",
    "agatston_weight",
    "cac_drs",
    "mass_factor_from_rods",
    "risk_category",
]

THRESHOLD_HU = 130.0
"""The least HU of calcium, at the tube voltage `THRESHOLD_KVP`."""
THRESHOLD_KVP = 120.0
REFERENCE_INCREMENT_MM = 3.0
"""The slice increment that the Agatston score was defined with."""

VESSELS: Mapping[int, str] = MappingProxyType({1: "LAD", 2: "LCX", 3: "RCA"})
"""The vessels by label in the paper's masks; LAD includes the left main artery."""

UNKNOWN = "unknown"
"""Name of a vessel that was not told: its calcium adds to the score, but is no further vessel in CAC-DRS's N."""


@dataclass(frozen=True)
class MinimumSize:
    """The least size of a calcification in a slice; a smaller one is taken for noise. Both conditions hold."""

    area_mm2: float = 0.0
    pixels: int = 1


PRESETS: Mapping[str, MinimumSize] = MappingProxyType(
    {
        "literature": MinimumSize(area_mm2=1.0),
        "ge": MinimumSize(area_mm2=1.0),
        "terarecon": MinimumSize(area_mm2=1.0),
        "philips": MinimumSize(area_mm2=0.5),
        "canon": MinimumSize(pixels=3),
        "siemens": MinimumSize(),
    }
)
"""The least sizes by vendor."""


def agatston_weight(peak_hu: NDArray[np.float64]) -> NDArray[np.intp]:
    """Agatston's weight of a calcification in a slice: 1 below 200 HU, 2 below 300, 3 below 400, 4 from 400.

    Args:
        peak_hu: the highest HU of each, of any shape; not rounded: 199.5 has weight 1.
    """
    return np.digitize(peak_hu, (200.0, 300.0, 400.0)) + 1


def risk_category(agatston: float) -> str:
    """The grade of a patient's Agatston score: zero, minimal (0, 10], mild (10, 100], moderate (100, 400], severe.

    Raises:
        ValueError: for a negative score or NaN.
    """
    return ("zero", "minimal", "mild", "moderate", "severe")[bisect_left((0, 10, 100, 400), _checked(agatston))]


def cac_drs(agatston: float, num_vessels: int) -> str:
    """CAC-DRS: A0 for 0, A1 (0, 100), A2 [100, 300), A3 from 300; N for the vessels with calcium. "A2/N3".

    Raises:
        ValueError: for a negative score or NaN.
    """
    grade = bisect_right((100, 300), agatston) + 1 if _checked(agatston) else 0
    return f"A{grade}/N{num_vessels}"


def mass_factor_from_rods(rod_hu: float, water_hu: float, rod_mg_ml: float = 200.0) -> float:
    """The mass factor c in mg/(ml HU) of a scan, from a calibration phantom in it: rod_mg_ml / (rod_hu - water_hu).

    Args:
        rod_hu: mean HU of the rod of calcium hydroxyapatite.
        water_hu: mean HU of the phantom's water.
        rod_mg_ml: the rod's density in mg/ml.

    Raises:
        ValueError: unless all are finite, the rod is brighter than water, and its density positive.
    """
    if not (math.isfinite(rod_hu) and math.isfinite(water_hu) and rod_hu > water_hu):
        raise ValueError(f"expected a rod brighter than water, got {rod_hu} HU and {water_hu} HU; are they swapped?")
    if not (math.isfinite(rod_mg_ml) and rod_mg_ml > 0):
        raise ValueError(f"expected the rod's density in mg/ml, got {rod_mg_ml}")
    return rod_mg_ml / (rod_hu - water_hu)


def _checked(agatston: float) -> float:
    if not agatston >= 0:  # NaN too
        raise ValueError(f"expected an Agatston score of at least 0, got {agatston}")
    return agatston
