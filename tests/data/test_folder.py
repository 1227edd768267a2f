import numpy as np
import pytest

from ddrsapc.data import DataError, check_folder, patient_by_pattern, patient_of


def test_a_sound_folder(add_pair, tmp_path):
    add_pair(tmp_path, "p1/a")
    add_pair(tmp_path, "p1/b", shape=(5, 48, 40))
    add_pair(tmp_path, "p2/a", shape=(64, 64))
    (tmp_path / "images" / ".hidden").write_text("")
    report = check_folder(tmp_path)
    assert report.problems == ()
    report.raise_for_problems()
    assert [(case.name, case.patient, case.shape) for case in report.cases] == [
        ("p1/a", "p1", (1, 48, 40)),
        ("p1/b", "p1", (5, 48, 40)),
        ("p2/a", "p2", (1, 64, 64)),
    ]
    assert report.cases[0].class_pixels == (48 * 40 - 36, 12, 12, 12)
    assert report.cases[1].class_pixels[3] == 60
    assert report.cases[0].hu_range[1] == 600
    summary = report.summary()
    assert "2 patients, 3 files, 7 slices; 0 problem(s)" in summary
    assert "HU -" in summary
    assert "2 of 48 x 40, 1 of 64 x 64" in summary
    assert "class 3: 84 pixels" in summary


def test_every_problem_is_listed_with_its_file(add_pair, tmp_path):
    hu, labels = np.full((48, 40), 40, np.int16), np.zeros((48, 40), np.uint8)
    bad = {
        "other_size": ({"label": np.zeros((48, 41), np.uint8)}, "labels", "is 48 x 41, but its image 48 x 40"),
        "float_label": ({"label": np.zeros((48, 40))}, "labels", "has labels of type float64; expected integers"),
        "outside": ({"label": labels + 7}, "labels", "has labels 7 outside the 4 classes 0 to 3"),
        "negative": ({"label": labels.astype(np.int16) - 1}, "labels", "has labels -1 outside"),
        "one_hot": ({"image": np.zeros((2, 2, 40, 40), np.int16)}, "images", "is 2 x 2 x 40 x 40; expected (H, W)"),
        "tiny": ({"image": hu[:20], "label": labels[:20]}, "images", "is 20 x 40; expected"),
        "nan": ({"image": np.where(np.eye(48, 40) > 0, np.nan, hu)}, "images", "not finite"),
        "inf": ({"image": np.where(np.eye(48, 40) > 0, np.inf, hu)}, "images", "not finite"),
        "scaled": ({"image": np.random.default_rng(0).random((48, 40))}, "images", "which are no HU"),
        "grey": ({"image": hu.astype(np.uint8)}, "images", "which are no HU"),
        "huge": ({"image": hu.astype(np.float32) * 1000}, "images", "which are no HU"),
        "standardised": ({"image": np.random.default_rng(0).normal(size=(48, 40))}, "images", "which are no HU"),
        "grey_float": ({"image": np.random.default_rng(0).uniform(0, 255, (48, 40))}, "images", "which are no HU"),
        "stored": ({"image": (hu + 1024).astype(np.uint16)}, "images", "which are no HU"),
        "slices_last": (
            {"image": np.zeros((48, 48, 5), np.int16)},
            "images",
            "looks like (H, W, Z); expected (Z, H, W)",
        ),
        "complex": ({"image": hu * 1j}, "images", "has values of type complex128"),
    }
    for name, (arrays, _, _) in bad.items():
        add_pair(tmp_path, name, **{"image": hu, "label": labels, **arrays})
    add_pair(tmp_path, "sound")
    (tmp_path / "images" / "torn.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "labels" / "torn.npy").write_bytes(b"\x93NUMPY")
    add_pair(tmp_path, "alone")
    (tmp_path / "labels" / "alone.npy").unlink()
    np.save(tmp_path / "labels" / "orphan.npy", labels)
    (tmp_path / "images" / "scan.dcm").write_bytes(b"")
    (tmp_path / "images" / "scan.txt").write_bytes(b"")
    np.savez(tmp_path / "images" / "sound.npz", hu)

    report = check_folder(tmp_path)
    assert [case.name for case in report.cases] == ["sound"]
    found = {(problem.file.parent.name, problem.file.name): problem.message for problem in report.problems}
    expected = {(kind, f"{name}.npy"): message for name, (_, kind, message) in bad.items()} | {
        ("images", "torn.npy"): "cannot be read",
        ("images", "alone.npy"): "has no partner labels/alone.*",
        ("labels", "orphan.npy"): "has no partner images/orphan.*",
        ("images", "scan.txt"): "is of a format without a reader; known are .npy, .npz, .png, and CT scans",
        ("images", "scan.dcm"): "lies directly in images/; give each DICOM series a folder there",
        ("images", "sound.npz"): "has the same name as sound.npy",
    }
    assert found.keys() == expected.keys()
    for key, message in expected.items():
        assert message in found[key], key
    with pytest.raises(DataError) as caught:
        report.raise_for_problems()
    text = str(caught.value)
    assert text.startswith(f"{len(expected)} problem(s) in {tmp_path}; mend")
    assert text.count("\n") == len(expected)
    for _, name in expected:
        assert name in text


def test_one_corrupt_file_among_1000(add_pair, tmp_path):
    hu, labels = np.full((32, 32), 40, np.int16), np.zeros((32, 32), np.uint8)
    for i in range(1000):
        add_pair(tmp_path, f"p{i:04d}", image=hu, label=labels)
    broken = tmp_path / "images" / "p0417.npy"
    broken.write_bytes(broken.read_bytes()[:-1])
    report = check_folder(tmp_path)
    assert len(report.cases) == 999
    ((file, message),) = report.problems
    assert file == broken
    assert "cannot be read" in message


def test_folders_may_be_links(add_pair, tmp_path):
    add_pair(tmp_path / "elsewhere", "p3/a")
    add_pair(tmp_path / "data", "p1/a")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "p3").symlink_to(tmp_path / "elsewhere" / kind / "p3")
    assert [case.name for case in check_folder(tmp_path / "data").cases] == ["p1/a", "p3/a"]


def test_values_that_look_odd_are_warned_of(add_pair, tmp_path):
    add_pair(tmp_path, "a")
    assert "warning: no value is below -200 HU" in check_folder(tmp_path).summary()
    add_pair(tmp_path, "b", image=np.full((48, 40), -900, np.int16))
    assert "warning" not in check_folder(tmp_path).summary()


def test_a_pattern_without_match_is_a_problem_of_each_file(add_pair, tmp_path):
    for name in ("p1-a", "x", "y"):
        add_pair(tmp_path, name)
    report = check_folder(tmp_path, patient=patient_by_pattern(r"p\d"))
    assert [case.patient for case in report.cases] == ["p1"]
    assert [problem.file.name for problem in report.problems] == ["x.npy", "y.npy"]


def test_missing_and_empty_folders(tmp_path):
    report = check_folder(tmp_path)
    assert {problem.file.name for problem in report.problems} == {"images", "labels"}
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="has no pairs; expected files in images/"):
        check_folder(tmp_path).raise_for_problems()


def test_the_classes_are_the_callers(add_pair, tmp_path):
    add_pair(tmp_path, "a", label=np.full((48, 40), 4, np.int32))
    assert check_folder(tmp_path).problems
    assert check_folder(tmp_path, num_classes=5).cases[0].class_pixels == (0, 0, 0, 0, 48 * 40)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("p01/0007", "p01"),
        ("p01/series2/0007", "p01"),
        ("p01_0007", "p01"),
        ("p01-s7", "p01"),
        ("p01", "p01"),
        ("x_y", "x_y"),
    ],
)
def test_patient_of(name, patient):
    assert patient_of(name) == patient


def test_patient_by_pattern():
    assert patient_by_pattern(r"^(\w{3})-")("abc-007") == "abc"
    assert patient_by_pattern(r"\d+")("abc-007") == "007"
    with pytest.raises(DataError, match=r"abc: the pattern '\\\\d\+' finds no patient"):
        patient_by_pattern(r"\d+")("abc")
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        patient_by_pattern("(")
