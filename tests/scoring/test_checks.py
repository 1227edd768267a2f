"""What cannot be scored is a one-line error with a way out."""

import math

import numpy as np
import pytest

from ddrsapc.scoring import score_volume

pytest.importorskip("SimpleITK")

SHAPE = (3, 4, 5)
HU, LABELS, SPACING = np.full(SHAPE, 150.0), np.ones(SHAPE, np.uint8), (3.0, 0.5, 0.5)


def with_value(array, value):
    changed = array.copy()
    changed[1, 2, 3] = value
    return changed


@pytest.mark.parametrize(
    ("hu", "labels", "message"),
    [
        (HU, LABELS[:2], r"one shape \(Z, H, W\), got hu \(3, 4, 5\), labels \(2, 4, 5\)"),
        (HU[0], LABELS[0], r"got hu \(4, 5\).*hu\[None\]"),
        (HU[None], LABELS[None], r"one shape \(Z, H, W\)"),
        (HU[:0], LABELS[:0], "at least one voxel"),
        (HU[:, :, :0], LABELS[:, :, :0], "at least one voxel"),
        (with_value(HU, math.nan), LABELS, "NaN or infinite.*-1024"),
        (with_value(HU, -math.inf), LABELS, "NaN or infinite.*-1024"),
        (HU, with_value(LABELS.astype(np.int16), -1), r"labels from 0, got \[-1\]"),
        (HU, with_value(LABELS, 4), r'labels \[4\] have no name; pass vessels=\{..., 4: "unknown"\}'),
    ],
)
def test_bad_volume(hu, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        score_volume(hu, labels, SPACING)
    assert "\n" not in str(caught.value)


def test_bad_type():
    with pytest.raises(TypeError, match=r"integer labels, got float64; labels.astype\(np.uint8\)"):
        score_volume(HU, LABELS.astype(float), SPACING)
    with pytest.raises(TypeError, match="integer labels, got bool"):
        score_volume(HU, LABELS > 0, SPACING)
    with pytest.raises(TypeError, match="numbers as hu, got complex128"):
        score_volume(HU + 0j, LABELS, SPACING)


@pytest.mark.parametrize(
    "spacing",
    [
        (0.5, 0.5),
        (3, 1, 0.5, 0.5),
        3.0,
        (0, 0.5, 0.5),
        (-3, 0.5, 0.5),
        (3, math.nan, 0.5),
        (3, 0.5, math.inf),
        (50.1, 0.5, 0.5),
        (0.003, 0.0005, 0.0005),
    ],
)
def test_bad_spacing(spacing):
    with pytest.raises(ValueError, match=r"spacing \(z, y, x\) of 0.01 to 50 mm each, got .*slice centres"):
        score_volume(HU, LABELS, spacing)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 3], "3 finite slice_positions in mm, one per slice, got 2"),
        ([[0, 3, 6]], "one per slice, got 3"),
        ([0, 3, math.nan], "got 3, 2 of them finite"),
        ([0, 6, 3], "turn back or repeat at slices 1 and 2, 6 and 3 mm; sort the slices"),
        ([6, 3, 5], "turn back or repeat at slices 1 and 2, 3 and 5 mm"),
        ([0, 3, 3], "repeat at slices 1 and 2, 3 and 3 mm"),
        ([3, 3, 3], "repeat at slices 0 and 1"),
        ([0, 3, 3.001], "slices 0 and 1 are 3 mm apart, 1 and 2 0.001 mm; slices are missing or series mixed"),
        ([0, 60, 120], "0.01 to 50 mm apart, got 60 to 60 mm"),
        ([0, 0.003, 0.006], "got 0.003 to 0.003 mm; are they in mm"),
    ],
)
def test_bad_positions(positions, message):
    with pytest.raises(ValueError, match=message) as caught:
        score_volume(HU, LABELS, SPACING, slice_positions=positions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"preset": "GE"}, "unknown preset 'GE'; known are literature, ge, terarecon, philips, canon, siemens"),
        ({"threshold": math.nan}, "threshold to be a finite number, got nan"),
        ({"min_area": -1}, "min_area to be a finite number from 0, got -1"),
        ({"mass_factor": 0}, "mass_factor to be a finite number above 0, got 0"),
        ({"kvp": -120}, "kvp to be a finite number above 0"),
        ({"vessels": {}}, "labels from 1 with names that differ"),
        ({"vessels": {0: "none", 1: "LAD"}}, "labels from 1 with names that differ"),
        ({"vessels": {1: "LAD", 2: "LAD"}}, "labels from 1 with names that differ"),
        ({"vessels": {1: ""}}, "labels from 1 with names that differ"),
        ({"vessels": {True: "LAD"}}, "labels from 1 with names that differ"),
    ],
)
def test_bad_option(option, message):
    with pytest.raises(ValueError, match=message):
        score_volume(HU, LABELS, SPACING, **option)
