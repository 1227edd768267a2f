"""Calcium scores of a labelled cardiac CT: Agatston, volume and mass, by vessel and by lesion."""

from ddrsapc.scoring.result import RESEARCH_ONLY, CalciumScore, Lesion, ScoreSettings, VesselScore
from ddrsapc.scoring.rules import (
    PRESETS,
    UNKNOWN,
    VESSELS,
    MinimumSize,
    agatston_weight,
    cac_drs,
    mass_factor_from_rods,
    risk_category,
)
from ddrsapc.scoring.volume import TubeVoltageWarning, lesion_voxels, score_volume

__all__ = [
    "PRESETS",
    "RESEARCH_ONLY",
    "UNKNOWN",
    "VESSELS",
    "CalciumScore",
    "Lesion",
    "MinimumSize",
    "ScoreSettings",
    "TubeVoltageWarning",
    "VesselScore",
    "agatston_weight",
    "cac_drs",
    "lesion_voxels",
    "mass_factor_from_rods",
    "risk_category",
    "score_volume",
]
