"""Rules that open scorers have wrong: here a scorer that has them gives another number than ours, which is by hand."""

import operator

import numpy as np
import pytest

from ddrsapc.scoring import score_volume
from tests.scoring import reference

pytest.importorskip("SimpleITK")

WATER = 40


def volume(*blocks, slices=1):
    """Water with blocks of ((z, y, x) slices, HU), labelled LAD where they are."""
    hu = np.full((slices, 16, 16), WATER, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    for block, value in blocks:
        hu[block], labels[block] = value, 1
    return hu, labels


CASES = {
    # 4 pixels of 0.25 mm2 in a diagonal are 1 mm2 x weight 1; as four components each is under 1 mm2
    "4-connectivity": (
        volume(*[(np.s_[:, 5 + i, 5 + i], 150) for i in range(4)]),
        (3.0, 0.5, 0.5),
        1.0,
        {"steps": reference.FOUR},
    ),
    # 2 x 2 pixels of 1 mm2 at the threshold itself
    "> 130": (volume((np.s_[:, 5:7, 5:7], 130)), (3.0, 1.0, 1.0), 4.0, {"reaches": operator.gt}),
    # 3 pixels are 0.75 mm2
    "no minimum area": (volume((np.s_[:, 5, 5:8], 450)), (3.0, 0.5, 0.5), 0.0, {"min_area": 0}),
    # 4 mm2 x 4 in one slice and 4 mm2 x 1 in the next, which touches it
    "weight from the lesion's maximum": (
        volume((np.s_[0, 5:7, 5:7], 450), (np.s_[1, 5:7, 5:7], 150), slices=2),
        (3.0, 1.0, 1.0),
        20.0,
        {"peak_in": "lesion"},
    ),
    # the same two side by side in a slice
    "weight from the slice's maximum": (
        volume((np.s_[:, 5:7, 5:7], 450), (np.s_[:, 5:7, 10:12], 150)),
        (3.0, 1.0, 1.0),
        20.0,
        {"peak_in": "slice"},
    ),
    # slices 3 mm thick every 2 mm: 2 slices x 4 mm2 x 1 x 2/3
    "slice thickness as the increment": (
        volume((np.s_[:, 5:7, 5:7], 150), slices=2),
        (2.0, 1.0, 1.0),
        16 / 3,
        {"increments": [3.0, 3.0]},
    ),
    # three of 4 x 0.6 x 0.6 mm2 = 1.44
    "rounding per lesion": (
        volume(*[(np.s_[:, 5:7, x : x + 2], 150) for x in (1, 6, 11)]),
        (3.0, 0.6, 0.6),
        4.32,
        {"rounded": round},
    ),
    # 4 of the 16 labelled pixels are calcium
    "mask voxels under 130 HU": (
        volume((np.s_[:, 4:8, 4:8], 129), (np.s_[:, 5:7, 5:7], 150)),
        (3.0, 1.0, 1.0),
        4.0,
        {"count_mask": True},
    ),
    # 4 mm2 x (1 + 2 + 3)
    "integer bands": (
        volume(*[(np.s_[:, 5:7, x : x + 2], peak) for x, peak in ((1, 199.5), (6, 299.5), (11, 399.5))]),
        (3.0, 1.0, 1.0),
        24.0,
        {"weight_of": reference.integer_bands},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_rule_gives_another_score(name):
    (hu, labels), spacing, by_hand, wrong = CASES[name]
    assert score_volume(hu, labels, spacing).agatston == pytest.approx(by_hand)
    assert reference.score(hu, labels, spacing).agatston == pytest.approx(by_hand)
    assert abs(reference.score(hu, labels, spacing, **wrong).agatston - by_hand) > 0.3


def test_a_score_up_to_1_is_not_graded_zero():
    hu, labels = volume((np.s_[:, 5:7, 5:7], 150))
    score = score_volume(hu, labels, (0.5, 1.0, 1.0))
    assert score.agatston == pytest.approx(4 * 0.5 / 3)
    assert score.agatston < 1
    assert score.category == "minimal"
    assert score.cac_drs == "A1/N1"
