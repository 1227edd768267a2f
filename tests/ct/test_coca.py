"""COCA's annotations and orCaScore's masks, invented: the data sets are not redistributable."""

import plistlib
import subprocess
import sys

import numpy as np
import pytest

from ddrsapc.ct import CTError, read_coca_plist, read_orcascore, read_volume
from tests.ct.series_files import phantom, write_series
from tests.ct.test_images import write


@pytest.fixture
def scan(tmp_path):
    """Files named from the head downwards, as COCA's are: the last name is the lowest slice, index 0."""
    hu = np.zeros((4, 24, 32), np.int16)
    hu[:, 8:16, 8:20] = 300
    hu[:, 10, 10] = 129
    hu[:, 11, 10] = 130
    files = write_series(tmp_path / "scan", hu)
    for z, file in enumerate(files):
        file.rename(file.with_name(f"IM-{4 - z:04d}.dcm"))
    return read_volume(tmp_path / "scan")


SQUARE = [(9.0, 9.0), (13.0, 9.0), (13.0, 13.0), (9.0, 13.0)]


def region(scan, z, points=SQUARE, name="Right Coronary Artery", shift=0.0):
    places = [(scan.affine @ (*point, z, 1))[:3] + np.array([0, 0, shift]) for point in points]
    return {
        "Name": name,
        "NumberOfPoints": len(points),
        "Point_px": [f"({x:f}, {y:f})" for x, y in points],
        "Point_mm": [f"({x:f}, {y:f}, {z:f})" for x, y, z in places],
    }


def plist(path, *images):
    path.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": index, "ROIs": rois} for index, rois in images]}))
    return path


def test_polygons_of_at_least_130_hu(scan, tmp_path):
    path = plist(
        tmp_path / "a.xml",
        (0, [region(scan, 0), {"Name": "", "Point_px": [], "Point_mm": []}]),
        (1, []),
        (2, [region(scan, 2, name="Left Coronary Artery")]),
        (3, [region(scan, 3, name="Left Circumflex Artery")]),
    )
    labels = read_coca_plist(path, scan)
    square = np.zeros((24, 32), bool)
    square[9:14, 9:14] = True
    square[10, 10] = False  # 129 HU; 130 counts
    assert labels.dtype == np.uint8
    for z, label in enumerate((3, 0, 1, 2)):
        assert np.array_equal(labels[z], square * label)


def test_points_beyond_the_edge_are_cut_off(scan, tmp_path):
    path = plist(tmp_path / "a.xml", (0, [region(scan, 0, [(-9, -9), (99, -9), (99, 99), (-9, 99)])]))
    assert np.array_equal(read_coca_plist(path, scan)[0] > 0, scan.hu[0] >= 130)


def test_without_point_mm_the_index_decides(scan, tmp_path):
    roi = region(scan, 1)
    del roi["Point_mm"]
    labels = read_coca_plist(plist(tmp_path / "a.xml", (1, [roi])), scan)
    assert np.flatnonzero(labels.any((1, 2))).tolist() == [1]


def test_the_other_order_is_noticed(scan, tmp_path):
    """`ImageIndex` counted from the first name, or points of another scan."""
    path = plist(tmp_path / "a.xml", (3, [region(scan, 0)]))
    with pytest.raises(CTError, match=r"a.xml: image 3: its points lie at z = 300 mm, the image IM-0001.dcm at 306 mm"):
        read_coca_plist(path, scan)
    with pytest.raises(CTError, match="its points lie at z = 301.5 mm"):
        read_coca_plist(plist(path, (0, [region(scan, 0, shift=1.5)])), scan)
    read_coca_plist(plist(path, (0, [region(scan, 0, shift=0.5)])), scan)


def test_what_is_no_annotation(scan, tmp_path):
    path = tmp_path / "a.xml"
    for rois, message in (
        ([region(scan, 0, name="Aorta")], "image 0: a region is called 'Aorta'; expected one of Left Coronary"),
        ([{"Name": "Right Coronary Artery", "Point_px": ["(1, x)"]}], "points that cannot be read"),
        ([{"Name": "Right Coronary Artery", "Point_px": ["(1, 2, 3)"]}], "points that cannot be read"),
        ([{"Name": "Right Coronary Artery", "Point_px": ["(1e999, 2)"]}], "points that are not finite"),
        ([5], "is no annotation of COCA"),
    ):
        with pytest.raises(CTError, match=message) as caught:
            read_coca_plist(plist(path, (0, rois)), scan)
        assert "\n" not in str(caught.value)
    with pytest.raises(CTError, match="image 4: the scan has images 0 to 3 only"):
        read_coca_plist(plist(path, (4, [region(scan, 0)])), scan)
    path.write_bytes(plistlib.dumps({"images": []}))
    with pytest.raises(CTError, match="is no annotation of COCA"):
        read_coca_plist(path, scan)
    for data in (b"", b"text", path.read_bytes()[:200]):
        path.write_bytes(data)
        with pytest.raises(CTError, match="a.xml: cannot be read as a plist"):
            read_coca_plist(path, scan)
    with pytest.raises(CTError, match="cannot be read as a plist"):
        read_coca_plist(tmp_path / "absent.xml", scan)
    image = read_volume(write(tmp_path / "scan.nii", phantom()))
    with pytest.raises(CTError, match="read the scan from its DICOM folder"):
        read_coca_plist(plist(path, (0, [])), image)


def test_orcascore(tmp_path):
    scan = read_volume(write(tmp_path / "scan.mhd", phantom()))
    labels = np.random.default_rng(0).integers(0, 5, scan.hu.shape).astype(np.uint8)
    path = write(tmp_path / "mask.mhd", labels)
    assert np.array_equal(read_orcascore(path, scan), np.where(labels == 4, 255, labels))
    assert np.array_equal(read_orcascore(path, scan, unknown=4), labels)
    with pytest.raises(CTError, match="has labels up to 5; orCaScore's are 0 to 4"):
        read_orcascore(write(tmp_path / "mask.mhd", labels + 1), scan)


def test_a_chain_of_brackets_does_no_harm(scan, tmp_path):
    """Python's own reader of literals gives up on it, in a process of its own in case it does not."""
    roi = {"Name": "Right Coronary Artery", "Point_px": ["(" * 100_000]}
    path = plist(tmp_path / "a.xml", (0, [roi]))
    code = (
        "import sys; from ddrsapc.ct import *\n"
        "try: read_coca_plist(sys.argv[1], read_volume(sys.argv[2]))\n"
        "except CTError as error: print(error)"
    )
    folder = scan.meta.files[0].parent
    command = [sys.executable, "-c", code, str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "points that cannot be read" in done.stdout
