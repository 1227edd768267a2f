"""Neither trivial nor hopeless."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra phantom is not installed")


@pytest.fixture(scope="module")
def measures(example):
    return example("phantom_measures")


@pytest.fixture(scope="module")
def slices(measures):
    """HU, labels, the heart's inside and whether there is contrast, of slices through calcium where there is some."""
    return measures.threshold_slices(40, 256)


@pytest.fixture(scope="module")
def found(measures, slices):
    return measures.threshold(slices)


def test_a_threshold_in_the_heart_does_not_do_where_there_is_contrast(found):
    assert found["IoU of any vessel"] < 0.4  # the gate
    assert found["IoU of any vessel"] == pytest.approx(0.053, abs=0.002)


def test_a_threshold_in_a_known_heart_finds_calcium_without_contrast(found):
    """Not as hard as the gate sounds: what it is wrong in are some slices with calcium of valve, annulus or aorta."""
    assert (found["without contrast"], found["without contrast, with calcium"]) == (36, 27)
    assert found["IoU of any vessel, without contrast"] == pytest.approx(0.559, abs=0.005)
    assert found["median IoU of a slice"] == 1
    assert found["part of slices below 0.5"] == pytest.approx(3 / 27, abs=0.001)
    assert found["part of the calcium found"] > 0.99


def test_a_threshold_does_not_tell_the_vessel(found):
    """All of it called by one vessel's name."""
    assert found["IoU of one vessel, without contrast"] == pytest.approx([0.312, 0.110, 0.137], abs=0.005)


def test_the_counts_are_those_of_the_pixels(measures, slices):
    hu, labels, heart, _ = next(item for item in slices if (item[1] == 1).any())
    both, either = measures.overlap([(hu, labels, heart, False)], 1)[:, 0]
    bright, truth = set(np.flatnonzero((hu > 129) * heart)), set(np.flatnonzero(labels == 1))
    assert (both, either) == (len(bright & truth), len(bright | truth))


def test_calcium_is_rare_and_mostly_inside_the_heart(slices):
    fraction = np.array([(labels > 0).mean() for _, labels, _, _ in slices])
    assert 1e-5 < np.median(fraction[fraction > 0]) < 6e-4
    inside = sum((heart & (labels > 0)).sum() for _, labels, heart, _ in slices)
    assert inside > 0.9 * sum((labels > 0).sum() for _, labels, _, _ in slices)
    assert all((np.concatenate([labels.ravel() for _, labels, _, _ in slices]) == c).any() for c in (1, 2, 3))
