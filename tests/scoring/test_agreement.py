import json
import math

import numpy as np
import pytest

from ddrsapc.scoring import (
    RISK_CATEGORIES,
    LesionDetection,
    bland_altman,
    detect_lesions,
    intraclass_correlation,
    risk_category,
    score_agreement,
    weighted_kappa,
)

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Table 2 of the paper; its mean squares are 11.24 between targets, 32.49 between judges, 1.02 of the residual."""


def test_icc_of_shrout_and_fleiss():
    assert round(intraclass_correlation(SHROUT_FLEISS), 2) == 0.29
    by_paper = (11.24 - 1.02) / (11.24 + 3 * 1.02 + 4 * (32.49 - 1.02) / 6)
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(by_paper, abs=1e-3)


def test_icc_is_of_agreement_not_of_consistency():
    first = np.arange(10.0)
    assert intraclass_correlation(np.stack([first, first], 1)) == 1
    assert intraclass_correlation(np.stack([first, first + 5], 1)) == pytest.approx(1 / (1 + 25 / 2 / (110 / 12)))
    assert intraclass_correlation(np.stack([first, -first], 1)) < 0


@pytest.mark.parametrize("ratings", [np.zeros((0, 2)), [[1, 2]], [[1], [2]], [[0.1, 0.1]] * 3, [[1, 0], [0, 1]]])
def test_icc_that_is_undefined(ratings):
    assert math.isnan(intraclass_correlation(ratings))


def test_icc_of_scores_that_differ_by_rater_alone_is_zero():
    assert intraclass_correlation([[0, 100]] * 4) == 0


def test_bland_altman_by_hand():
    found = bland_altman([10, 20, 33], [11, 18, 28])  # -1, 2, 5: mean 2, SD 3
    assert (found.bias, found.sd) == (2, 3)
    assert (found.lower, found.upper) == pytest.approx((2 - 1.96 * 3, 2 + 1.96 * 3))


def test_kappa_by_hand():
    counts = [[4, 1, 0], [1, 2, 1], [0, 0, 1]]
    # off by one: 3 of 10; by chance: (5 x 3 + 4 x (5 + 2) + 1 x 3) / 100 off by one, (5 x 2 + 1 x 5) / 100 by two
    assert weighted_kappa(counts) == pytest.approx(1 - 0.3 / (0.46 + 2 * 0.15))
    assert weighted_kappa(np.diag([3, 0, 2])) == 1
    assert weighted_kappa([[1, 1], [1, 1]]) == 0
    assert math.isnan(weighted_kappa([[7, 0], [0, 0]]))
    assert math.isnan(weighted_kappa(np.zeros((3, 3))))


def test_agreement_of_scores():
    predicted, true = [0, 12, 90, 500, 0.5], [0, 8, 110, 450, 0]
    found = score_agreement(predicted, true)
    counts = np.zeros((5, 5), int)
    for row, column in ((0, 0), (1, 2), (3, 2), (4, 4), (0, 1)):
        counts[row, column] += 1
    assert found.categories == tuple(map(tuple, counts.tolist()))
    assert found.kappa == weighted_kappa(counts)
    assert found.differences == bland_altman(predicted, true)
    assert found.differences.bias == pytest.approx((0 + 4 - 20 + 50 + 0.5) / 5)
    assert found.icc == intraclass_correlation(np.stack([predicted, true], 1)) > 0.98
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["categories"] == counts.tolist()


def test_categories_are_those_of_the_scores():
    assert [risk_category(score) for score in (0, 1, 11, 101, 401)] == list(RISK_CATEGORIES)


@pytest.mark.parametrize(
    ("scores", "bias"),
    [([], None), ([5.0], 0.0), ([0.0] * 3, 0.0)],
    ids=["no scan", "one scan", "constant"],
)
def test_scores_that_say_nothing_of_agreement(scores, bias):
    found = score_agreement(scores, scores)
    assert math.isnan(found.icc)
    assert math.isnan(found.kappa)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (content["scans"], content["icc"], content["kappa"]) == (len(scores), None, None)
    assert content["differences"]["bias"] == bias
    assert content["differences"]["sd"] == (0.0 if len(scores) > 1 else None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_agreement([1, 2], [1]), "finite numbers"),
        (lambda: score_agreement([math.nan], [1]), "finite numbers"),
        (lambda: score_agreement([-1], [1]), "at least 0"),
        (lambda: intraclass_correlation([1, 2]), "subjects, raters"),
        (lambda: weighted_kappa([[1, 2]]), "k, k"),
        (lambda: weighted_kappa([[1, -1], [0, 0]]), "at least 0"),
    ],
)
def test_what_cannot_be_compared(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestLesions:
    """Squares of 3 x 3 pixels of 1 mm."""

    @pytest.fixture(autouse=True)
    def _extra(self):
        pytest.importorskip("SimpleITK")

    def draw(self, *squares):
        """Labels, and HU of 300 wherever one of all squares is."""
        labels = np.zeros((4, 30, 30), np.uint8)
        for z, y, x, label in squares:
            labels[z, y : y + 3, x : x + 3] = label
        return labels

    def detect(self, truth, prediction, hu=300):
        return detect_lesions(np.full(truth.shape, hu, np.int16), truth, prediction, (3, 1, 1))

    def test_perfect(self):
        labels = self.draw((0, 0, 0, 1), (1, 2, 2, 1), (3, 20, 20, 3))  # the first two touch across slices
        found = self.detect(labels, labels)
        assert found == LesionDetection(scans=1, true=2, found=2, predicted=2, false=0)
        assert (found.sensitivity, found.false_per_scan) == (1, 0)

    def test_found_missed_false_and_mistaken(self):
        truth = self.draw((0, 0, 0, 1), (0, 10, 10, 2), (2, 20, 20, 3))
        prediction = self.draw((0, 2, 2, 1), (0, 10, 10, 3), (3, 3, 3, 1))  # one pixel of LAD; LCX as RCA; nothing
        found = self.detect(truth, prediction)
        assert found == LesionDetection(scans=1, true=3, found=1, predicted=3, false=1)
        assert found.sensitivity == pytest.approx(1 / 3)

    def test_a_lesion_in_two_pieces_is_found_once(self):
        truth = self.draw((1, 5, 5, 2), (1, 5, 8, 2), (1, 5, 11, 2))
        prediction = self.draw((1, 5, 5, 2), (1, 5, 11, 2))
        assert self.detect(truth, prediction) == LesionDetection(scans=1, true=1, found=1, predicted=2, false=0)

    def test_what_no_score_counts_is_no_lesion(self):
        labels = self.draw((1, 5, 5, 2))
        assert self.detect(labels, labels, hu=129) == LesionDetection(scans=1, true=0, found=0, predicted=0, false=0)

    def test_true_calcium_too_small_to_count_makes_no_false_lesion(self):
        truth, prediction = np.zeros((1, 9, 9), np.uint8), np.zeros((1, 9, 9), np.uint8)
        truth[0, 4, 4], prediction[0, 3:6, 3:6] = 1, 1
        found = detect_lesions(np.full((1, 9, 9), 300), truth, prediction, (3, 0.5, 0.5))
        assert found == LesionDetection(scans=1, true=0, found=0, predicted=1, false=0)

    def test_other_shapes(self):
        labels = self.draw()
        with pytest.raises(ValueError, match="one shape"):
            self.detect(labels, labels[:2])


def test_lesions_of_several_scans():
    scans = [
        LesionDetection(scans=1, true=2, found=1, predicted=4, false=3),
        LesionDetection(scans=1, true=0, found=0, predicted=0, false=0),
    ]
    total = LesionDetection.total(scans)
    assert total == LesionDetection(scans=2, true=2, found=1, predicted=4, false=3)
    assert (total.sensitivity, total.false_per_scan) == (0.5, 1.5)
    assert total.to_dict()["false_per_scan"] == 1.5


def test_no_scans():
    none = LesionDetection.total([])
    assert none.scans == none.true == 0
    assert (none.to_dict()["sensitivity"], none.to_dict()["false_per_scan"]) == (None, None)
    scan = LesionDetection(scans=1, true=0, found=0, predicted=0, false=0)
    assert math.isnan(scan.sensitivity)
    assert scan.false_per_scan == 0
