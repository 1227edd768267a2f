"""Scores of real scans, equal to those of a published scorer."""

import numpy as np
import pytest

from ddrsapc.scoring import score_volume
from tests.scoring import reference

sitk = pytest.importorskip("SimpleITK")


@pytest.fixture(scope="module")
def phantom(test_data):
    """HU (28, 210, 210) around the inserts of a QRM phantom, the regions of 130 HU and more, and the spacing."""
    image = sitk.ReadImage(str(test_data / "qrm_cci_canon" / "qrm_insert_crop.nii.gz"))
    regions = sitk.GetArrayFromImage(sitk.ConnectedComponent(image >= 130, True))  # 26-connected
    return sitk.GetArrayFromImage(image), regions, image.GetSpacing()[::-1]


INSERTS = {"large, 800 mg/ml": ((12, 110, 30), 402.93965, 302.20474), "medium": ((12, 63, 130), 69.53805, 58.58342)}


@pytest.mark.parametrize("insert", INSERTS)
def test_equals_the_published_scorer(phantom, insert):
    """The insert is the 26-connected region of 130 HU and more around the index; what lies around it, up to 3 voxels
    away on each side, changes nothing, as voxels under 130 HU do not count."""
    hu, regions, spacing = phantom
    found_at, agatston, volume_mm3 = INSERTS[insert]
    region = regions == regions[found_at]
    whole = sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(region.astype(np.uint8)), [3, 3, 3]))
    for mask in (region.astype(np.uint8), whole):
        score = score_volume(hu, mask, spacing)
        assert score.agatston == pytest.approx(agatston, abs=1e-4)
        assert score.volume_mm3 == pytest.approx(volume_mm3, abs=1e-4)
        assert len(score.lesions) == 1


def test_wrong_rules_miss_the_published_score(phantom):
    hu, regions, spacing = phantom
    found_at, agatston, _ = INSERTS["large, 800 mg/ml"]
    labels = (regions == regions[found_at]).astype(np.uint8)
    box = np.s_[9:15, 100:122, 18:44]
    assert labels[box].sum() == labels.sum()
    hu, labels = hu[box], labels[box]
    assert reference.score(hu, labels, spacing).agatston == pytest.approx(agatston, abs=1e-4)
    for wrong in (
        {"steps": reference.FOUR},
        {"min_area": 0},
        {"peak_in": "lesion", "min_area": 0},
        {"rounded": round},
        {"count_mask": True, "min_area": 0},
        {"increments": [2.0] * 6},
    ):
        assert abs(reference.score(hu, labels, spacing, **wrong).agatston - agatston) > 0.01, wrong


def test_overlapping_slices_score_with_their_distance(test_data):
    """A series of 3 mm slices every 2 mm: the score is two thirds of what the thickness would make it."""
    files = (test_data / "totalseg_dicom_j2k").glob("*.dcm")
    slices = sorted((sitk.ReadImage(str(file)) for file in files), key=lambda image: image.GetOrigin()[2])
    positions = [image.GetOrigin()[2] for image in slices]  # axial: the normal is z
    thickness = float(slices[0].GetMetaData("0018|0050"))
    assert thickness == 3
    hu = np.concatenate([sitk.GetArrayFromImage(image) for image in slices])  # (8, H, W)
    x_mm, y_mm, _ = slices[0].GetSpacing()
    labels = (hu >= 130).astype(np.uint8)  # bones
    score = score_volume(hu, labels, (thickness, y_mm, x_mm), slice_positions=positions)
    assert score.settings.increment_mm == pytest.approx(2)
    assert score.agatston == pytest.approx(score_volume(hu, labels, (2, y_mm, x_mm)).agatston)
    by_thickness = score_volume(hu, labels, (thickness, y_mm, x_mm)).agatston
    assert score.agatston == pytest.approx(by_thickness * 2 / 3)
    assert score.agatston > 1000
