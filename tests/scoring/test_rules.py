import math
from itertools import pairwise

import numpy as np
import pytest

from ddrsapc.scoring import (
    PRESETS,
    VESSELS,
    MinimumSize,
    agatston_weight,
    cac_drs,
    mass_factor_from_rods,
    risk_category,
)


def above(number):
    return math.nextafter(number, math.inf)


def below(number):
    return math.nextafter(number, -math.inf)


def test_weight_on_floats():
    peaks = np.array([130, 199, 199.5, below(200), 200, 299.5, 300, 399.5, 400, 3000])
    assert agatston_weight(peaks).tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("score", "category"),
    [
        (0, "zero"),
        (above(0), "minimal"),
        (0.5, "minimal"),
        (10, "minimal"),
        (above(10), "mild"),
        (10.5, "mild"),
        (100, "mild"),
        (above(100), "moderate"),
        (100.5, "moderate"),
        (400, "moderate"),
        (above(400), "severe"),
        (4000, "severe"),
    ],
)
def test_risk_category_at_the_bounds(score, category):
    assert risk_category(score) == category


@pytest.mark.parametrize(
    ("score", "grade"),
    [
        (0, "A0"),
        (above(0), "A1"),
        (below(100), "A1"),
        (99.5, "A1"),
        (100, "A2"),
        (299.5, "A2"),
        (below(300), "A2"),
        (300, "A3"),
    ],
)
def test_cac_drs_at_the_bounds(score, grade):
    assert cac_drs(score, 3) == f"{grade}/N3"


@pytest.mark.parametrize("score", [-1, math.nan])
def test_no_category_of_what_is_no_score(score):
    for grade in (risk_category, lambda agatston: cac_drs(agatston, 1)):
        with pytest.raises(ValueError, match="at least 0"):
            grade(score)


def test_presets():
    one = MinimumSize(area_mm2=1.0)
    assert dict(PRESETS) == {
        "literature": one,
        "ge": one,
        "terarecon": one,
        "philips": MinimumSize(area_mm2=0.5),
        "canon": MinimumSize(pixels=3),
        "siemens": MinimumSize(),
    }
    with pytest.raises(TypeError):
        PRESETS["mine"] = one
    assert dict(VESSELS) == {1: "LAD", 2: "LCX", 3: "RCA"}


def test_mass_factor_from_rods():
    assert mass_factor_from_rods(270, 5) == 200 / 265
    assert mass_factor_from_rods(540, 0, 400) == 400 / 540
    factors = [mass_factor_from_rods(hu, 0) for hu in (200, 250, 300)]
    assert all(a > b for a, b in pairwise(factors))
    for wrong in ((0, 270), (5, 5), (math.nan, 0), (math.inf, 0)):
        with pytest.raises(ValueError, match="brighter than water.*swapped"):
            mass_factor_from_rods(*wrong)
    with pytest.raises(ValueError, match="density in mg/ml, got 0"):
        mass_factor_from_rods(270, 0, 0)
