import os

import pytest

from ddrsapc.cli.scan_folders import named_scans


@pytest.fixture
def tree(tmp_path):
    """Make files, DICOM where the name says so; the folder they are in."""

    def make(*names):
        for name in names:
            path = tmp_path / "scans" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(128) + b"DICM" if path.name.startswith("IM") else b"")
        return tmp_path / "scans"

    return make


def found(folder, *paths, output="nowhere"):
    scans = named_scans(paths or [folder], folder / output)
    return {name: path.relative_to(folder).as_posix() for name, path in scans.items()}


def test_folders_of_dicom_files_and_images_at_any_depth(tree):
    folder = tree(
        "a/IM1", "a/old/IM1", "b/c/IM1", "b/d/x.nii.gz", "b/d/y.mhd", "b/d/y.raw", ".hidden/IM1", "e/notes.txt"
    )
    assert found(folder) == {
        "a": "a",
        "a_old": "a/old",
        "b_c": "b/c",
        "b_d_x": "b/d/x.nii.gz",
        "b_d_y": "b/d/y.mhd",
    }


def test_a_medium_with_an_index(tree):
    folder = tree("DICOMDIR", "IMAGES/s1/IM1", "IMAGES/s2/1.dcm")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert found(folder) == {"IMAGES_s1": "IMAGES/s1", "IMAGES_s2": "IMAGES/s2"}


def test_what_is_named_is_a_scan_whatever_it_holds(tree):
    folder = tree("a/notes.txt", "x.nii.gz")
    assert found(folder, folder / "a", folder / "x.nii.gz", folder / "absent") == {
        "a": "a",
        "x": "x.nii.gz",
        "absent": "absent",
    }


def test_results_are_no_scans(tree):
    folder = tree("a/IM1", "results/a/mask.nii.gz", "results/a/mask.dcm")
    assert found(folder, output="results") == {"a": "a"}
    with pytest.raises(ValueError, match="is the folder of the scans; give another one"):
        found(folder, output=".")


def test_two_of_one_name(tree):
    folder = tree("a.nii.gz", "a.mha", "p/s.nii", "q/s.nii", "r_s.nii", "t/r/s.nii")
    with pytest.raises(ValueError, match=r"two scans are called a: .*a\.mha and .*a\.nii\.gz"):
        found(folder)
    with pytest.raises(ValueError, match="two scans are called s"):
        found(folder, folder / "p", folder / "q")
    with pytest.raises(ValueError, match="two scans are called r_s"):
        found(folder, folder / "r_s.nii", folder / "t")


def test_links_are_followed_once_and_have_their_own_names(tree):
    folder = tree("a/IM1", "store/4711/IM1")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(folder / "store" / "4711")
    assert sorted(found(folder).values()) == ["a", "b"]
    assert list(named_scans([folder / "b"], folder / "out")) == ["b"]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_folder_that_cannot_be_read_is_left_for_its_error(tree, monkeypatch):
    folder = tree("a/IM1", "b/IM1")
    listed = type(folder).iterdir

    def refused(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(folder), "iterdir", refused)
    assert found(folder) == {"a": "a", "b": "b"}
