"""How well predicted calcium agrees with the truth: scores of patients, and lesions one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddrsapc.scoring.checks import checked_volumes
from ddrsapc.scoring.rules import VESSELS, risk_category
from ddrsapc.scoring.volume import lesion_voxels, score_volume

__all__ = [
    "RISK_CATEGORIES",
    "BlandAltman",
    "LesionDetection",
    "ScoreAgreement",
    "bland_altman",
    "detect_lesions",
    "intraclass_correlation",
    "score_agreement",
    "weighted_kappa",
]

RISK_CATEGORIES = ("zero", "minimal", "mild", "moderate", "severe")
"""What `risk_category` gives, in order."""


@dataclass(frozen=True)
class BlandAltman:
    """Differences of two measurements of the same things, and the limits that 95 % of them lie within."""

    bias: float
    """Mean of first minus second; NaN without a measurement."""
    sd: float
    """Of the differences, with n - 1; NaN below two."""
    lower: float
    """bias - 1.96 sd."""
    upper: float
    """bias + 1.96 sd."""


@dataclass(frozen=True)
class ScoreAgreement:
    """Agreement of predicted and true scores of patients; NaN where undefined, in JSON null."""

    scans: int
    icc: float
    """ICC(2,1), see `intraclass_correlation`; NaN below two scans, and where all scores are the same."""
    differences: BlandAltman
    """Predicted minus true."""
    kappa: float
    """Linearly weighted, of the risk categories; NaN where both have all scans in the same one."""
    categories: tuple[tuple[int, ...], ...]
    """Scans by true and predicted category, `RISK_CATEGORIES` each."""

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and dictionaries, as JSON has them."""
        return _without_nan(asdict(self))


@dataclass(frozen=True)
class LesionDetection:
    """Lesions found and missed, in one scan or the sum of several, see `detect_lesions`."""

    scans: int
    true: int
    """Lesions of the truth."""
    found: int
    """Those with a voxel that was predicted as their vessel."""
    predicted: int
    """Lesions of the prediction."""
    false: int
    """Those without a voxel of true coronary calcium of any vessel."""

    @property
    def sensitivity(self) -> float:
        """Fraction of the true lesions that were found; NaN where there are none."""
        return self.found / self.true if self.true else math.nan

    @property
    def false_per_scan(self) -> float:
        """False positive lesions per scan; NaN without a scan."""
        return self.false / self.scans if self.scans else math.nan

    @classmethod
    def total(cls, parts: Iterable[LesionDetection]) -> LesionDetection:
        """The sum over scans; all zero for none."""
        rows = [(part.scans, part.true, part.found, part.predicted, part.false) for part in parts]
        return cls(*(sum(column) for column in zip((0,) * 5, *rows, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Numbers, as JSON has them."""
        return _without_nan({**asdict(self), "sensitivity": self.sensitivity, "false_per_scan": self.false_per_scan})


def intraclass_correlation(ratings: ArrayLike) -> float:
    """ICC(2,1), called ICC(A,1) too: absolute agreement of single measurements, subjects and raters random.

    Args:
        ratings: (subjects, raters).

    Returns:
        At most 1; NaN below two subjects or raters, and where what it divides by is zero, as for equal ratings.

    Raises:
        ValueError: for another shape, NaN or infinity.

    Source:
        Shrout and Fleiss, Psychological Bulletin 86 (1979) 420; McGraw and Wong, Psychological Methods 1 (1996) 30.
    """
    x = np.asarray(ratings, dtype=np.float64)  # (n, k)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"expected finite ratings (subjects, raters), got shape {x.shape}")
    n, k = x.shape
    if n < 2 or k < 2:
        return math.nan
    x = x - x[0, 0]  # changes nothing, but that equal ratings are zero to the last bit
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    between = k * float(((rows - mean) ** 2).sum()) / (n - 1)
    raters = n * float(((columns - mean) ** 2).sum()) / (k - 1)
    error = float(((x - rows[:, None] - columns + mean) ** 2).sum()) / ((n - 1) * (k - 1))
    spread = between + (k - 1) * error + k * (raters - error) / n
    return (between - error) / spread if spread > 0 else math.nan


def bland_altman(first: ArrayLike, second: ArrayLike) -> BlandAltman:
    """Bias and 95 % limits of agreement of two measurements of the same things.

    Args:
        first: (n,).
        second: (n,).

    Raises:
        ValueError: for other shapes, NaN or infinity.

    Source:
        Bland and Altman, Lancet 327 (1986) 307.
    """
    one, other = _pairs(first, second)
    difference = one - other  # (n,)
    bias = float(difference.mean()) if len(difference) else math.nan
    sd = float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    return BlandAltman(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd)


def weighted_kappa(counts: ArrayLike) -> float:
    """Cohen's kappa with linear weights: a disagreement counts by how many categories it is off.

    Args:
        counts: (k, k), how often the first rater chose the row and the second the column; ordered categories.

    Returns:
        At most 1, 0 as by chance; NaN where chance alone would agree fully, or nothing was counted.

    Raises:
        ValueError: for another shape, or negative counts.

    Source:
        Cohen, Psychological Bulletin 70 (1968) 213.
    """
    observed = np.asarray(counts, dtype=np.float64)  # (k, k)
    if observed.ndim != 2 or observed.shape[0] != observed.shape[1] or not (observed >= 0).all():
        raise ValueError(f"expected counts of at least 0, (k, k), got shape {observed.shape}")
    total, order = observed.sum(), np.arange(len(observed))
    off = np.abs(order[:, None] - order)  # the weights' scale cancels
    by_chance = float((off * np.outer(observed.sum(1), observed.sum(0))).sum())
    return 1 - total * float((off * observed).sum()) / by_chance if by_chance > 0 else math.nan


def score_agreement(predicted: ArrayLike, true: ArrayLike) -> ScoreAgreement:
    """The agreement of Agatston scores.

    Args:
        predicted: of each scan, (n,).
        true: likewise; they may be none.

    Raises:
        ValueError: for other shapes, or scores that are negative, NaN or infinite.
    """
    one, other = _pairs(predicted, true)
    counts = np.zeros((len(RISK_CATEGORIES),) * 2, np.intp)
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        counts[RISK_CATEGORIES.index(risk_category(b)), RISK_CATEGORIES.index(risk_category(a))] += 1
    return ScoreAgreement(
        scans=len(one),
        icc=intraclass_correlation(np.stack([one, other], axis=1)),
        differences=bland_altman(one, other),
        kappa=weighted_kappa(counts),
        categories=tuple(map(tuple, counts.tolist())),
    )


def detect_lesions(
    hu: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    prediction: ArrayLike | Tensor,
    spacing: Sequence[float],
    *,
    vessels: Mapping[int, str] = VESSELS,
) -> LesionDetection:
    """Which lesions of a scan were found, and which are none.

    Lesions are those that `score_volume` counts: of one vessel, 130 HU and more, 1 mm2 and more in a slice. A true one
    is found if a voxel of it was predicted as its vessel. A predicted one is false if none of its voxels has a true
    label, of whichever vessel and however small: calcium in the wrong vessel is missed there, but it is calcium.

    Args:
        hu: Hounsfield units (Z, H, W).
        truth: labels (Z, H, W).
        prediction: labels (Z, H, W).
        spacing: (z, y, x) in mm.
        vessels: names by label.

    Raises:
        ValueError: as `score_volume`.
        TypeError: as `score_volume`.
        ImportError: without SimpleITK, which is in the extra `ct`.
    """
    hu, truth = checked_volumes(hu, truth)
    hu, prediction = checked_volumes(hu, prediction)
    label_of = {name: label for label, name in vessels.items()}

    def touched(labels: NDArray[Any], others: NDArray[Any], *, same: bool) -> tuple[int, int]:
        """Lesions of `labels`, and how many of them have a voxel in `others`, of the same vessel or of any."""
        score = score_volume(hu, labels, spacing, vessels=vessels)
        vessel = np.array([0, *(label_of[lesion.vessel] for lesion in score.lesions)])  # by number, from 1
        hit = np.zeros(len(vessel), bool)
        for z, ((y, x), numbers) in lesion_voxels(hu, labels, score).items():
            there = others[z, y, x]
            hit[numbers[there == vessel[numbers] if same else there > 0]] = True
        return len(score.lesions), int(hit.sum())

    true, found = touched(truth, prediction, same=True)
    predicted, real = touched(prediction, truth, same=False)
    return LesionDetection(scans=1, true=true, found=found, predicted=predicted, false=predicted - real)


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError(f"expected finite numbers (n,) twice, got shapes {one.shape} and {other.shape}")
    return one, other


def _without_nan(value: Any) -> Any:
    """As JSON has it, which knows no NaN: null; tuples are lists."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
