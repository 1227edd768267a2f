"""Scoring takes the memory of some slices, however many are labelled."""

import tracemalloc

import numpy as np
import pytest

import ddrsapc.scoring.lesions
from ddrsapc.scoring import score_volume

pytest.importorskip("SimpleITK")


def peak_of_scoring(depth):
    """Bytes at most, with all of `depth` slices labelled."""
    hu, labels = np.full((depth, 64, 64), 300, np.int16), np.ones((depth, 64, 64), np.uint8)
    labels[:, ::32] = labels[:, :, ::32] = 0
    tracemalloc.start()
    try:
        score = score_volume(hu, labels, (1.0, 0.5, 0.5))
        return tracemalloc.get_traced_memory()[1], score
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_scan(monkeypatch):
    monkeypatch.setattr(ddrsapc.scoring.lesions, "MAX_PIXELS", 4 * 64 * 64)
    (few, _), (many, score) = peak_of_scoring(16), peak_of_scoring(128)
    assert len(score.lesions) == 4
    assert score.volume_mm3 == 128 * 62 * 62 * 0.25
    assert many - few < 1.0 * 112 * 64 * 64  # less than a byte a voxel; 48 if all voxels were kept


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_it_does_not_matter_how_many_slices_are_looked_at_in_one_go(monkeypatch, at_once):
    """Lesions go on from one go to the next, over corners, and not over slices without a label."""
    hu, labels = np.full((9, 12, 12), 300, np.int16), np.zeros((9, 12, 12), np.uint8)
    for z, corner in ((0, 0), (1, 3), (2, 6), (4, 6), (5, 3), (6, 0), (7, 4)):  # touching corner to corner
        labels[z, corner : corner + 3, corner : corner + 3] = 1
    labels[1:3, 0:3, 9:] = labels[3, 0:3, 6:9] = labels[8, 0:3, 9:] = 1
    monkeypatch.setattr(ddrsapc.scoring.lesions, "MAX_PIXELS", at_once * 144)
    score = score_volume(hu, labels, (1.0, 1.0, 1.0))
    assert [(lesion.slices, lesion.volume_mm3) for lesion in score.lesions] == [
        ((0, 2), 27.0),
        ((1, 3), 27.0),
        ((4, 6), 27.0),
        ((7, 7), 9.0),
        ((8, 8), 9.0),
    ]
