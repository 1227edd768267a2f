import pytest

from ddrsapc.cli.scan_folders import find_scans


@pytest.fixture
def tree(tmp_path):
    """Make files, DICOM where the name says so; the folder they are in."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(128) + b"DICM" if path.suffix == ".dcm" else b"")
        return tmp_path

    return make


def test_folders_of_dicom_files_and_images_at_any_depth(tree):
    folder = tree("a/1.dcm", "a/old/1.dcm", "b/c/1.dcm", "b/d/x.nii.gz", "b/d/y.mhd", "b/d/y.raw", ".hidden/1.dcm")
    found = find_scans([folder])
    assert {name: path.relative_to(folder).as_posix() for name, path in found.items()} == {
        "a": "a",  # the scan is here, whatever lies below
        "b/c": "b/c",
        "b/d/x": "b/d/x.nii.gz",
        "b/d/y": "b/d/y.mhd",
    }


def test_what_is_named_is_a_scan_whatever_it_holds(tree):
    folder = tree("a/notes.txt", "x.nii.gz")
    assert find_scans([folder / "a", folder / "x.nii.gz", folder / "absent"]) == {
        "a": folder / "a",
        "x": folder / "x.nii.gz",
        "absent": folder / "absent",
    }


def test_results_would_lie_on_each_other(tree):
    folder = tree("a.nii.gz", "a.mha", "p/s.nii", "p/s/1.dcm", "q/p.nii", "r/p/t/1.dcm")
    with pytest.raises(ValueError, match="several scans are called 'a'"):
        find_scans([folder])
    with pytest.raises(ValueError, match="several scans are called 's'"):
        find_scans([folder / "p"])
    with pytest.raises(ValueError, match="a scan is called 'p' and another 'p/t'"):
        find_scans([folder / "q", folder / "r"])
