"""`ddrsapc phantom` as a person runs it."""

import json

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra phantom is not installed")

from ddrsapc import ct
from ddrsapc.data import SliceDataset, check_folder
from ddrsapc.phantom import PhantomParameters, draw_case, make_case
from ddrsapc.phantom.writing import is_written, write_case
from tests.cli.outcomes import failed

SIZE = 32


@pytest.fixture(scope="module")
def case():
    return make_case(0, 1, size=SIZE)


@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_scans_are_read_back_equal_and_scored(command, tmp_path, case, file_format):
    out = tmp_path / "scans"
    code, printed, err = command("phantom", "--out", out, "--cases", 2, "--size", SIZE, "--format", file_format)
    assert (code, err) == (0, "")
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["train0c00000", "train0c00001"]
    image = out / "images" / ("train0c00001.nii.gz" if file_format == "nifti" else "train0c00001")
    volume = ct.read_volume(image)
    assert np.array_equal(volume.hu, case.hu)
    assert volume.affine == pytest.approx(case.affine, abs=1e-4)
    assert volume.spacing == pytest.approx(case.spacing, rel=1e-6)
    assert volume.meta.format == file_format
    labels = ct.read_mask(out / "labels" / "train0c00001.nii.gz", volume)
    assert np.array_equal(labels, case.labels)
    assert command("score", image, out / "labels" / "train0c00001.nii.gz")[0] == 0
    truth = json.loads((out / "truth" / "train0c00001.json").read_text())
    assert truth["coronary_mass_mg"] == pytest.approx(case.mass_mg)
    assert sum(lesion["mass_mg"] for lesion in truth["lesions"]) == pytest.approx(
        sum(item.mass_mg for item in case.draw.lesions)
    )
    mimics = json.loads((out / "truth" / "train0c00000.json").read_text())["mimics"]
    drawn = draw_case(0, 0, size=SIZE).mimics
    assert drawn
    assert [(item["site"], item["label"], item["mass_mg"]) for item in mimics] == [
        (item.site, 0, item.mass_mg) for item in drawn
    ]
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert len(list((out / "truth").iterdir())) == 2  # no density map unless it is asked for


def test_dicom_is_ct_image_storage(tmp_path, case):
    pydicom = pytest.importorskip("pydicom")
    write_case(case, tmp_path, "dicom")
    files = sorted((tmp_path / "images" / case.name).iterdir())
    assert len(files) == 40
    datasets = [pydicom.dcmread(file) for file in files]
    assert {data.SOPClassUID.name for data in datasets} == {"CT Image Storage"}
    assert len({data.SOPInstanceUID for data in datasets}) == 40
    assert len({data.SeriesInstanceUID for data in datasets}) == 1
    assert all(data.PatientID == case.name and data.KVP == 120 and data.SliceThickness == 3 for data in datasets)
    (info,) = ct.list_series(tmp_path / "images" / case.name)
    assert "simulated" in str(info)
    assert not case.draw.has_contrast
    assert not any("ContrastBolusAgent" in data for data in datasets)


def test_dicom_names_the_contrast(tmp_path):
    case = make_case(0, 1, size=SIZE, parameters=PhantomParameters(contrast_rate=1.0))
    assert case.draw.has_contrast
    write_case(case, tmp_path, "dicom")
    assert ct.read_volume(tmp_path / "images" / case.name).meta.contrast_agent == "simulated"


@pytest.mark.parametrize("file_format", ["nifti", "dicom", "npy"])
def test_another_case_of_the_same_name_replaces_the_first(tmp_path, case, file_format):
    other = make_case(0, 1, size=SIZE, parameters=PhantomParameters(contrast_rate=1.0))
    assert other.name == case.name
    write_case(case, tmp_path, file_format)
    write_case(other, tmp_path, file_format)
    image = next((tmp_path / "images").iterdir())
    written = np.load(image) if file_format == "npy" else ct.read_volume(image).hu
    assert np.array_equal(written, other.hu)
    assert not np.array_equal(written, case.hu)
    assert json.loads(next((tmp_path / "truth").iterdir()).read_text())["blood_hu"] > 100
    assert len(list((tmp_path / "images").iterdir())) == 1  # nothing stays of the first


@pytest.mark.parametrize("file_format", ["nifti", "npy"])
def test_the_density_map_is_written_where_it_is_asked_for(command, tmp_path, case, file_format):
    arguments = ["phantom", "--out", tmp_path, "--cases", 2, "--size", SIZE, "--format", file_format]
    assert command(*arguments)[0] == 0
    printed = command(*arguments, "--density")[1]
    assert "done already" not in printed
    path = tmp_path / "truth" / ("train0c00001_density" + {"nifti": ".nii.gz", "npy": ".npy"}[file_format])
    if file_format == "npy":
        written = np.load(path)
    else:
        image = pytest.importorskip("SimpleITK").ReadImage(str(path))
        written = pytest.importorskip("SimpleITK").GetArrayFromImage(image)
        assert image.GetSpacing() == pytest.approx(case.spacing[::-1])
    assert written.dtype == np.float32
    assert np.array_equal(written, case.density)
    assert written.any()
    assert command(*arguments, "--density")[1].count("done already") == 2
    write_case(case, tmp_path, file_format)
    assert not path.exists()  # it would be of another run


def test_other_images_have_other_identifiers(case):
    pytest.importorskip("pydicom")
    from ddrsapc.phantom.dicom import slice_dataset  # noqa: PLC0415  # an extra

    other = make_case(0, 1, size=SIZE, parameters=PhantomParameters(contrast_rate=1.0))
    first, again, second = (slice_dataset(item, 3) for item in (case, make_case(0, 1, size=SIZE), other))
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert first[name].value == again[name].value
        assert first[name].value != second[name].value


def test_a_failure_while_replacing_leaves_no_truth_of_other_images(tmp_path, case, monkeypatch):
    write_case(case, tmp_path, "dicom")
    monkeypatch.setattr("ddrsapc.phantom.dicom.generate_uid", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_case(case, tmp_path, "dicom")
    assert not is_written(case.name, tmp_path, "dicom")
    assert [path.name for path in (tmp_path / "images").iterdir()] == [case.name]
    assert len(list((tmp_path / "images" / case.name).iterdir())) == 40


def test_npy_is_what_training_reads_and_a_second_run_goes_on(command, tmp_path, case):
    out = tmp_path / "train"
    arguments = ["phantom", "--out", out, "--size", SIZE, "--format", "npy"]
    assert command(*arguments, "--cases", 1)[0] == 0
    first = (out / "images" / "train0c00000.npy").stat().st_mtime_ns
    (out / "labels" / "train0c00001.npy").write_bytes(b"")  # as an earlier run may leave it: not yet the truth
    code, printed, _ = command(*arguments, "--cases", 2)
    assert code == 0
    assert printed.splitlines()[0] == "train0c00000: done already"
    assert (out / "images" / "train0c00000.npy").stat().st_mtime_ns == first
    report = check_folder(out)
    assert not report.problems
    assert [item.patient for item in report.cases] == ["train0c00000", "train0c00001"]  # each its own
    dataset = SliceDataset(report.cases)
    assert len(dataset) == 80
    assert np.array_equal(dataset[40 + 7].image.numpy(), case.hu[7])
    assert np.array_equal(dataset[40 + 7].label.numpy(), case.labels[7])


def test_what_cannot_be_done(command, tmp_path):
    out = tmp_path / "out"
    assert command("phantom", "--out", out, "--cases", 1, "--size", SIZE, "--format", "npy")[0] == 0
    again = ["phantom", "--out", out, "--cases", 1, "--format", "npy"]
    assert failed(command(*again, "--size", 64), "has cases of other settings")
    assert failed(command(*again, "--size", SIZE, "--seed", 1), "has cases of other settings")
    settings = json.loads((out / "phantom.json").read_text())
    (out / "phantom.json").write_text(json.dumps({**settings, "phantom": 0}))
    assert failed(command(*again, "--size", SIZE), "has cases of other settings")
    (out / "phantom.json").write_text("{")
    assert failed(command(*again, "--size", SIZE), "has cases of other settings")
    (out / "phantom.json").unlink()
    assert failed(command(*again, "--size", SIZE), "is not empty, and holds no simulated cases")
    for option, value in (("--size", 16), ("--cases", 0), ("--seed", -1), ("--split", "all"), ("--format", "png")):
        assert failed(command("phantom", "--out", tmp_path / "other", option, value), f"'{option}'")
    assert not (tmp_path / "other").exists()
    assert failed(command("phantom"), "--out")
    file = tmp_path / "file"
    file.write_text("")
    assert failed(command("phantom", "--out", file), "file")


def test_a_failure_leaves_nothing_half_written(case, tmp_path, monkeypatch):
    monkeypatch.setattr("ddrsapc.phantom.writing.truth_of", lambda case: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_case(case, tmp_path, "npy")
    assert not (tmp_path / "truth" / f"{case.name}.json").exists()
    monkeypatch.setattr("ddrsapc.phantom.dicom.generate_uid", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_case(case, tmp_path / "dicom", "dicom")
    assert not list((tmp_path / "dicom" / "images").iterdir())
    with pytest.raises(ValueError, match="format must be one of nifti, dicom, npy"):
        write_case(case, tmp_path, "png")
