"""Calcium scores of a labelled cardiac CT: Agatston, volume and mass, by vessel and by lesion."""

from ddrsapc.scoring.agreement import (
    RISK_CATEGORIES,
    BlandAltman,
    LesionDetection,
    ScoreAgreement,
    bland_altman,
    detect_lesions,
    intraclass_correlation,
    score_agreement,
    weighted_kappa,
)
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
    "RISK_CATEGORIES",
    "UNKNOWN",
    "VESSELS",
    "BlandAltman",
    "CalciumScore",
    "Lesion",
    "LesionDetection",
    "MinimumSize",
    "ScoreAgreement",
    "ScoreSettings",
    "TubeVoltageWarning",
    "VesselScore",
    "agatston_weight",
    "bland_altman",
    "cac_drs",
    "detect_lesions",
    "intraclass_correlation",
    "lesion_voxels",
    "mass_factor_from_rods",
    "risk_category",
    "score_agreement",
    "score_volume",
    "weighted_kappa",
]
