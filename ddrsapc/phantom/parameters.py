"""What the phantom is drawn from: every number with its unit and source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

__all__ = ["PHANTOM_VERSION", "SPLITS", "PhantomParameters", "Split"]

PHANTOM_VERSION = 1
"""Of what the code makes of parameters and seed: raised with every change of the bytes."""

Split = Literal["train", "val", "test", "shifted"]
SPLITS: tuple[Split, ...] = get_args(Split)

_COCA = "COCA's segmentations, published table of volumes per vessel"
_QRM = "scan of the QRM cardiac calcification insert, Canon Aquilion ONE, FC12, 120 kVp"
_CTA = "read off one CT angiogram"
_CHOICE = "our choice"


def _span(low: float, high: float, unit: str, source: str, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """A field (low, high), both in [least, most], that is drawn from uniformly."""
    return field(
        default=(low, high), metadata={"kind": "span", "unit": unit, "source": source, "within": (least, most)}
    )


def _rate(value: float, of: str, source: str) -> Any:
    """A field in [0, 1]."""
    return field(default=value, metadata={"kind": "rate", "unit": of, "source": source})


def _volume(mean: float, sd: float, source: str = _COCA) -> Any:
    """A field (mean, SD) of a log-normal, both positive."""
    return field(default=(mean, sd), metadata={"kind": "volume", "unit": "mm3 (mean, SD)", "source": source})


def _curve(values: Sequence[float], unit: str, source: str) -> Any:
    """A field of numbers from 0."""
    return field(default=tuple(values), metadata={"kind": "curve", "unit": unit, "source": source})


@dataclass(frozen=True, kw_only=True)
class PhantomParameters:
    """Everything that cases are drawn from. Two numbers (low, high) are the ends of a uniform distribution.

    Unit and source of a field stand in its metadata.

    Raises:
        ValueError: for a value out of its range, naming the field.
    """

    # the scan
    slices: int = field(default=40, metadata={"kind": "count", "unit": "per case", "source": _CHOICE})
    slice_mm: float = field(
        default=3.0, metadata={"kind": "length", "unit": "mm", "source": "calcium scoring protocols"}
    )
    field_of_view: tuple[float, float] = _span(160, 400, "mm", "spec", least=50, most=800)
    usual_field_of_view: float = field(
        default=220.0, metadata={"kind": "length", "unit": "mm, the mode", "source": _CHOICE}
    )
    shift: tuple[float, float] = _span(-25, 25, "mm, along x and y", "spec", least=-200, most=200)
    shift_z: tuple[float, float] = _span(-8, 8, "mm", _CHOICE, least=-200, most=200)
    rotation: tuple[float, float] = _span(-15, 15, "degrees", "spec", least=-180, most=180)
    scale: tuple[float, float] = _span(0.85, 1.2, "times the frame's size", "spec", least=0.3, most=3)
    deformation: tuple[float, float] = _span(1.0, 3.0, "mm per wave, of 3", "spec: several mm", least=0, most=4)
    vessel_jitter: tuple[float, float] = _span(-6, 6, "mm", _CTA + " (+-6 mm)", least=-30, most=30)

    # tissue, HU at 120 kVp
    blood: tuple[float, float] = _span(25, 43, "HU", "spec", least=-1000, most=3000)
    myocardium: tuple[float, float] = _span(43, 48, "HU", "spec", least=-1000, most=3000)
    fat: tuple[float, float] = _span(-95, -72, "HU", "spec", least=-1000, most=3000)
    lung: tuple[float, float] = _span(-870, -790, "HU", "spec: -830", least=-1000, most=3000)
    muscle: tuple[float, float] = _span(50, 60, "HU", "spec", least=-1000, most=3000)
    trabecular: tuple[float, float] = _span(130, 260, "HU", "spec: 200", least=-1000, most=3000)
    cortical: tuple[float, float] = _span(700, 1200, "HU", "spec", least=-1000, most=3000)
    contrast_rate: float = _rate(0.125, "of cases", "spec: 10-15 %")
    contrast: tuple[float, float] = _span(150, 450, "HU of the blood", "spec", least=-1000, most=3000)
    calcium_hu: float = field(default=40.0, metadata={"kind": "hu", "unit": "HU at 0 mg/ml", "source": "spec"})
    calcium_slope: float = field(default=1.4, metadata={"kind": "length", "unit": "HU per mg/ml", "source": _QRM})

    # lesions
    positive_rate: float = _rate(0.85, "of cases with coronary calcium", _CHOICE)
    lm_rate: float = _rate(0.2, "of the positive cases", "spec")
    lad_rate: float = _rate(0.75, "of the positive cases", "spec")
    lcx_rate: float = _rate(0.4, "of the positive cases", "spec")
    rca_rate: float = _rate(0.5, "of the positive cases", "spec")
    lm_volume: tuple[float, float] = _volume(220, 248)
    lad_volume: tuple[float, float] = _volume(272, 439)
    lcx_volume: tuple[float, float] = _volume(224, 363)
    rca_volume: tuple[float, float] = _volume(630, 1061)
    blooming: float = field(
        default=1.35,
        metadata={
            "kind": "length",
            "unit": "labelled volume over a lesion's own",
            "source": "1.32 measured by examples/phantom_figures.py; the published volumes are of segmentations",
        },
    )
    lumen_radius: tuple[float, float] = _span(1.2, 2.0, "mm", "spec", least=0.1, most=10)
    thickness: tuple[float, float] = _span(0.8, 2.5, "mm", "spec", least=0.1, most=10)
    length: tuple[float, float] = _span(2, 27, "mm", "spec", least=0.5, most=100)
    arc: tuple[float, float] = _span(120, 180, "degrees around the vessel", "spec: half-annular", least=10, most=180)
    density_median: float = field(default=350.0, metadata={"kind": "length", "unit": "mg/ml", "source": "spec"})
    density_sigma: float = field(
        default=0.45, metadata={"kind": "length", "unit": "of the logarithm", "source": _CHOICE}
    )
    density: tuple[float, float] = _span(150, 900, "mg/ml, what is outside is drawn again", "spec", least=1, most=3000)

    # what is as bright and is no coronary calcium
    aortic_wall_rate: float = _rate(0.45, "of cases", "spec")
    ostium_rate: float = _rate(0.3, "of the arcs of the aortic wall, 3-8 mm from the RCA's ostium", _CHOICE)
    aortic_valve_rate: float = _rate(0.11, "of cases", "spec")
    mitral_annulus_rate: float = _rate(0.2, "of cases", "spec")
    lymph_node_rate: float = _rate(0.12, "of cases", _CHOICE)
    pericardium_rate: float = _rate(0.04, "of cases", _CHOICE)
    stent_rate: float = _rate(0.04, "of cases", _CHOICE)
    lead_rate: float = _rate(0.04, "of cases", _CHOICE)
    aortic_wall_volume: tuple[float, float] = _volume(1525, 3921)
    aortic_valve_volume: tuple[float, float] = _volume(963, 2147)
    mitral_annulus_volume: tuple[float, float] = _volume(834.5, 1060)

    # the image chain
    motion_rate: float = _rate(0.2, "of cases, of the RCA", "spec")
    motion: tuple[float, float] = _span(3, 8, "mm", _CHOICE, least=0, most=50)
    psf_sigma: tuple[float, float] = _span(0.55, 0.8, "mm", _QRM + "; range in the spec", least=0.05, most=5)
    sharp_rate: float = _rate(0.15, "of cases with a sharp kernel", _CHOICE)
    undershoot: tuple[float, float] = _span(
        0.15, 0.35, "of the peak, subtracted at 2.2 sigma", _CHOICE, least=0, most=1
    )
    noise_sd: tuple[float, float] = _span(15, 25, "HU", _QRM + " 21.6; range in the spec", least=0, most=200)
    noise_frequency: tuple[float, float] = _span(
        0.85, 1.2, "times the spectrum's frequencies", _CHOICE, least=0.2, most=5
    )
    streak_sd: tuple[float, float] = _span(0, 6, "HU at the field's middle", _CHOICE, least=0, most=100)
    noise_frequencies: tuple[float, ...] = _curve([0.025 + 0.05 * i for i in range(15)], "line pairs per mm", _QRM)
    noise_power: tuple[float, ...] = _curve(
        (0.358, 0.865, 0.858, 0.964, 0.993, 1.0, 0.878, 0.81, 0.621, 0.459, 0.314, 0.204, 0.098, 0.046, 0.019),
        "relative power at these", _QRM,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for item in fields(self):
            _CHECKS[item.metadata["kind"]](item.name, getattr(self, item.name), item.metadata)
        if not self.field_of_view[0] <= self.usual_field_of_view <= self.field_of_view[1]:
            raise ValueError(
                f"usual_field_of_view must be within field_of_view {self.field_of_view}, "
                f"got {self.usual_field_of_view!r}"
            )
        if len(self.noise_frequencies) != len(self.noise_power):
            raise ValueError("noise_frequencies and noise_power must be equally many")
        if list(self.noise_frequencies) != sorted(set(self.noise_frequencies)):
            raise ValueError(f"noise_frequencies must ascend, got {self.noise_frequencies!r}")
        if not any(self.noise_power):
            raise ValueError("noise_power must not be 0 at all frequencies")

        rates = (self.lm_rate, self.lad_rate, self.lcx_rate, self.rca_rate)
        if self.positive_rate and sum(rates) <= 1:
            raise ValueError(
                f"lm_rate, lad_rate, lcx_rate and rca_rate must sum to more than 1, got {rates}: they are rates among "
                "positive cases, each of which has a vessel; set positive_rate for fewer cases"
            )

    def shifted(self) -> PhantomParameters:
        """The parameters of the split `shifted`: other noise, field of view, kernel and contrast."""
        return replace(
            self,
            field_of_view=(300.0, 480.0),
            usual_field_of_view=360.0,
            noise_sd=(26.0, 36.0),
            noise_frequency=(1.2, 1.6),
            sharp_rate=0.7,
            undershoot=(0.3, 0.5),
            psf_sigma=(0.5, 0.6),
            contrast_rate=0.5,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_span(name: str, value: Any, metadata: Any) -> None:
    least, most = metadata["within"]
    two = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not (two and least <= value[0] <= value[1] <= most):
        raise ValueError(f"{name} must be (low, high) with {least:g} <= low <= high <= {most:g}, got {value!r}")


def _check_rate(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")


def _check_volume(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    two = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not (two and min(value) > 0):
        raise ValueError(f"{name} must be (mean, SD) in mm3, both positive, got {value!r}")


def _check_curve(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (isinstance(value, tuple) and len(value) >= 2 and all(_is_number(v) and v >= 0 for v in value)):
        raise ValueError(f"{name} must be two or more numbers of at least 0, got {value!r}")


def _check_count(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_length(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def _check_hu(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not _is_number(value):
        raise ValueError(f"{name} must be a finite number of HU, got {value!r}")


_CHECKS = {
    "span": _check_span,
    "rate": _check_rate,
    "volume": _check_volume,
    "curve": _check_curve,
    "count": _check_count,
    "length": _check_length,
    "hu": _check_hu,
}
