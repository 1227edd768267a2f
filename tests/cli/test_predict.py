"""`ddrsapc predict` as a person runs it."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from highdicom.sr import srread
from PIL import Image

import ddrsapc
from ddrsapc.ct import read_mask, read_volume
from ddrsapc.hub import save_pretrained
from ddrsapc.hub.errors import WeightsNotFoundError
from ddrsapc.hub.loading import named_spec
from ddrsapc.inference import predict
from ddrsapc.scoring import score_volume
from tests.cli.outcomes import failed
from tests.ct.series_files import write_series
from tests.training.small import small_network


def scan_of(seed):
    """Tissue with dense blocks, (Z, H, W)."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 15, (6, 48, 44)).astype(np.int16)
    for value in (250, 500, 750):
        z, y, x = rng.integers(0, (3, 40, 36))
        hu[z : z + 3, y : y + 7, x : x + 7] = value
    return hu


def write_nifti(path, hu):
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((0.5, 0.5, 3.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def weights(tmp_path):
    save_pretrained(small_network(), tmp_path / "network")
    return tmp_path / "network" / "model.safetensors"


def summary_of(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_without_a_name_the_pretrained_default_is_asked_for(command, tmp_path, monkeypatch):
    asked = []

    def refuse(source, options):
        asked.append(named_spec(source))
        raise WeightsNotFoundError("not today")

    monkeypatch.setattr("ddrsapc.cli.predict.open_weights", refuse)
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    assert failed(command("predict", scan, "-o", tmp_path / "out"), "not today")
    assert [spec.name for spec in asked] == ["ddr_sapc_u.cac_phantom"]
    assert not (tmp_path / "out").exists()


def test_a_nifti_scan(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    code, out, _ = command("predict", scan, "-o", tmp_path / "out", "--model", "unet", "--weights", weights)
    assert code == 0
    assert out.startswith("p01: Agatston ")
    written = json.loads((tmp_path / "out" / "p01" / "score.json").read_text())
    calcified = sorted(
        {z for lesion in written["lesions"] for z in range(lesion["slices"][0], lesion["slices"][1] + 1)}
    )
    assert names_in(tmp_path / "out") == [
        *("p01/contact_sheet.png", "p01/lesions.csv", "p01/mask.nii.gz"),
        *(f"p01/overlays/{z:02}.png" for z in calcified),
        *("p01/report.html", "p01/score.json", "p01/scores.csv", "summary.csv"),
    ]
    volume = read_volume(scan)
    expected = predict(ddrsapc.create_model("unet", weights=weights), volume)
    assert expected.any()
    assert np.array_equal(read_mask(tmp_path / "out" / "p01" / "mask.nii.gz", volume), expected)
    score = score_volume(volume.hu, expected, volume.spacing)
    assert written["agatston"] == pytest.approx(score.agatston)
    assert written["prediction"]["network"] == "unet"
    assert written["prediction"]["weights_sha256"] == ddrsapc.hub.verify_weights(weights).sha256
    with (tmp_path / "out" / "p01" / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["agatston"]) for row in rows) == pytest.approx(score.agatston)


def test_a_dicom_series_becomes_a_seg_and_a_structured_report(command, tmp_path, weights):
    write_series(tmp_path / "series", scan_of(1), spacing=(3.0, 0.5, 0.5))
    arguments = ["predict", tmp_path / "series", "-o", tmp_path / "out", "--model", f"local-dir:{weights.parent}"]
    code, _, err = command(*arguments)
    assert code == 0, err
    volume = read_volume(tmp_path / "series")
    labels = read_mask(tmp_path / "out" / "series" / "mask.dcm", volume)
    assert np.array_equal(labels, predict(ddrsapc.create_model("unet", weights=weights), volume))
    (total,) = srread(tmp_path / "out/series/scores.dcm").content.get_image_measurement_groups()
    score = json.loads((tmp_path / "out/series/score.json").read_text())
    assert total.get_measurements()[0].value == pytest.approx(score["agatston"])


def test_many_scans_go_on_where_they_stopped_and_name_what_failed(command, tmp_path, weights):
    scans = [write_nifti(tmp_path / f"p{i}.nii", scan_of(i)) for i in range(4)]
    scans[1].write_bytes(b"no NIfTI")
    arguments = ["predict", *scans, "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    code, out, err = command(*arguments)
    assert code == 2
    assert out.count("Agatston") == 3
    table, last = err.splitlines()
    assert table.startswith(f"p1  {scans[1]}: ")
    assert last.startswith("error: 1 of 4 scans failed, as listed")
    assert sorted(os.listdir(tmp_path / "out")) == ["p0", "p2", "p3", "summary.csv"]
    rows = summary_of(tmp_path / "out")
    assert [row["name"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert [bool(row["agatston"]) for row in rows] == [True, False, True, True]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("p*/**/*")}
    write_nifti(scans[1], scan_of(1))
    code, out, _ = command(*arguments)
    assert code == 0
    assert out.count("done already") == 3
    assert "p1: Agatston" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    rows = summary_of(tmp_path / "out")
    assert not any(row["error"] for row in rows)
    written = json.loads((tmp_path / "out" / "p2" / "score.json").read_text())
    assert float(rows[2]["agatston"]) == written["agatston"]
    assert float(rows[2]["agatston_LAD"]) == written["vessels"]["LAD"]["agatston"]


def test_results_of_other_weights_are_not_mixed_in(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    arguments = ["predict", scan, "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    assert command(*arguments)[0] == 0
    code, _, err = command(*arguments, "--threshold", "200")
    assert code == 2
    assert "has other results (of another options); give another output" in err
    for more in (["--mask", ".nrrd"], ["--preset", "canon"]):
        assert "of another options" in command(*arguments, *more)[2]
    (tmp_path / "other").mkdir()
    arguments[1] = write_nifti(tmp_path / "other" / "p01.nii.gz", scan_of(5))
    assert "has other results (of another scan)" in command(*arguments)[2]
    (tmp_path / "out" / "p01" / "score.json").unlink()
    assert "holds no results" in command(*arguments)[2]


def test_nothing_is_half_written(command, tmp_path, weights, monkeypatch):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    arguments = ["predict", scan, "-o", tmp_path / "out", "--model", "unet", "--weights", weights]

    def stop(error):
        def stopped(*_):
            raise error

        monkeypatch.setattr("ddrsapc.cli.predict.write_atomically", stopped)

    stop(OSError(28, "No space left on device"))
    code, _, err = command(*arguments)
    assert (code, "No space left" in err) == (2, True)
    stop(KeyboardInterrupt())
    assert command(*arguments)[0] == 130
    assert os.listdir(tmp_path / "out") == []


def test_wrong_calls(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    output = ["-o", tmp_path / "out"]
    for arguments, message in (
        ([tmp_path / "absent", *output, "--model", "unet", "--weights", weights], "there is no such file"),
        ([scan, *output, "--model", "unet"], "no pretrained weights for unet;"),
        ([scan, *output, "--model", "unett"], "no pretrained weights for unett"),
        ([scan, *output, "--model", "unet", "--weights", tmp_path / "absent.safetensors"], "there is no such file"),
        ([scan, *output, "--model", "local-dir:x", "--weights", weights], "two sources of weights"),
        ([scan, scan, *output, "--model", "unet", "--weights", weights], "two scans are called p01"),
        ([scan, *output, "--model", "unet", "--weights", weights, "--device", "abacus"], "abacus"),
        ([scan], "--output"),
    ):
        assert failed(command("predict", *arguments), message)


def test_a_network_of_other_classes_names_them_by_number(command, tmp_path):
    torch.manual_seed(0)
    save_pretrained(small_network(num_classes=2), tmp_path / "two")
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    assert command("predict", scan, "-o", tmp_path / "out", "--model", f"local-dir:{tmp_path / 'two'}")[0] == 0
    written = json.loads((tmp_path / "out" / "p01" / "score.json").read_text())
    assert list(written["vessels"]) == ["class 1"]


def test_a_scan_of_any_other_failure_does_not_stop_the_others(command, tmp_path, weights):
    """A picture without a spacing, an odd file, and a scan that is fine."""
    Image.fromarray(np.full((40, 40), 1100, np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "b.nii.gz").write_bytes(b"")
    scan = write_nifti(tmp_path / "c.nii.gz", scan_of(0))
    scans = [tmp_path / "a.png", tmp_path / "b.nii.gz", scan]
    code, out, err = command("predict", *scans, "-o", tmp_path / "out", "--model", "unet", "--weights", weights)
    assert code == 2
    assert "c: Agatston" in out
    assert "2 of 3 scans failed" in err
    assert err.startswith("a.png  ")
    assert "has no spacing, so nothing in it can be measured; give it with --spacing" in err
    assert sorted(os.listdir(tmp_path / "out")) == ["c", "summary.csv"]


def test_a_seg_that_cannot_be_written_becomes_a_nifti(command, tmp_path):
    """Two classes have no codes; the prediction is not lost."""
    save_pretrained(small_network(num_classes=2), tmp_path / "two")
    write_series(tmp_path / "series", scan_of(1), spacing=(3.0, 0.5, 0.5))
    arguments = ["predict", tmp_path / "series", "-o", tmp_path / "out", "--model", f"local-dir:{tmp_path / 'two'}"]
    code, _, err = command(*arguments)
    assert code == 0
    assert "warning: series: the mask is written as .nii.gz, without a structured report" in err
    assert "series/mask.nii.gz" in names_in(tmp_path / "out")
    assert command(*arguments[:-3], tmp_path / "seg", *arguments[-2:], "--mask", ".dcm")[0] == 2


def test_a_folder_of_scans_in_folders(command, tmp_path, weights):
    """A study as archives lay it out: patient/series/slices, and images beside."""
    scans = tmp_path / "scans"
    write_series(scans / "p1" / "first", scan_of(1), spacing=(3.0, 0.5, 0.5))
    write_series(scans / "p1" / "second", scan_of(2), spacing=(3.0, 0.5, 0.5))
    write_nifti(scans / "p2.nii.gz", scan_of(3))
    (scans / "readme.txt").write_text("scans")
    code, out, err = command(
        "predict", scans, "-o", tmp_path / "out", "--model", "unet", "--weights", weights, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert [(entry["name"], entry["status"]) for entry in found] == [
        *(("p2", "done"), ("p1_first", "done"), ("p1_second", "done")),
    ]
    assert found[0]["score"]["agatston"] == json.loads((tmp_path / "out/p2/score.json").read_text())["agatston"]
    assert (tmp_path / "out" / "p1_second" / "mask.dcm").is_file()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_the_mass_and_the_tube_voltage_are_given(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    arguments = ["predict", scan, "--model", "unet", "--weights", weights]
    code, _, err = command(*arguments, "-o", tmp_path / "a", "--mass-factor", "0.8", "--kvp", "100")
    assert code == 0
    assert (
        err == "warning: p01: the threshold of 130 HU is for 120 kVp, this scan has 100 kVp; give a threshold for it\n"
    )
    score = json.loads((tmp_path / "a" / "p01" / "score.json").read_text())
    assert score["mass_mg"] > 0
    assert command(*arguments, "-o", tmp_path / "b", "--kvp", "100", "--threshold", "150")[2] == ""


def test_contrast_is_warned_of(command, tmp_path, weights):
    def edit(dataset, z):
        dataset.ContrastBolusAgent = "ISOVUE 370"

    write_series(tmp_path / "series", scan_of(1), spacing=(3.0, 0.5, 0.5), edit=edit)
    arguments = ["predict", tmp_path / "series", "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    code, _, err = command(*arguments)
    assert code == 0
    warning = "the file names a contrast agent (ISOVUE 370); scores are defined without contrast"
    assert err == f"warning: series: {warning}\n"
    assert json.loads((tmp_path / "out" / "series" / "score.json").read_text())["warnings"] == [warning]
    assert warning in (tmp_path / "out" / "series" / "report.html").read_text(encoding="utf-8")


def test_a_picture_is_measured_with_the_spacing_that_is_given(command, tmp_path, weights):
    Image.fromarray((scan_of(0)[1] + 1024).astype(np.uint16)).save(tmp_path / "a.png")
    arguments = ["predict", tmp_path / "a.png", "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    assert failed(command(*arguments), "give it with --spacing")
    code, out, err = command(*arguments, "--spacing", "3", "0.5", "0.5")
    assert code == 0, err
    assert "a.png: Agatston" in out


def test_two_processes_share_the_scans(command, tmp_path, weights, monkeypatch):
    """What another process is at is left to it; what it finished meanwhile is done already."""
    scans = [write_nifti(tmp_path / f"p{i}.nii", scan_of(i)) for i in range(2)]
    output = tmp_path / "out"
    output.mkdir()
    arguments = ["predict", *scans, "-o", output, "--model", "unet", "--weights", weights]
    code = "import sys; from pathlib import Path; from ddrsapc.files import lock; file = lock(Path(sys.argv[1])); "
    waiting = [sys.executable, "-c", code + "print(flush=True); input()", output / ".p0.lock"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        code, out, err = command(*arguments)
        assert (code, out.count("Agatston")) == (2, 1)
        assert "p0  another process is at this scan" in err
        other.communicate(b"\n")
    assert command(*arguments)[0] == 0
    assert [row["error"] for row in summary_of(output)] == ["", ""]
    assert names_in(output) == [name for name in names_in(output) if not name.startswith(".")]


def test_the_summary_has_every_scan_of_the_output(command, tmp_path, weights):
    arguments = ["-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    for name in ("=a", "b"):
        assert command("predict", write_nifti(tmp_path / f"{name}.nii", scan_of(0)), *arguments)[0] == 0
    (tmp_path / "c.nii").write_bytes(b"")
    assert failed(command("predict", tmp_path / "c.nii", *arguments), "c.nii: ")
    rows = summary_of(tmp_path / "out")
    assert [row["name"] for row in rows] == ["'=a", "b", "c"]  # no spreadsheet takes the name for a formula
    assert rows[0]["agatston"] == rows[1]["agatston"] != rows[2]["agatston"] == ""
    assert "c.nii: " in rows[2]["error"]


def test_json_whatever_happens(command, tmp_path, weights, monkeypatch):
    arguments = ["-o", tmp_path / "out", "--model", "unet", "--weights", weights, "--json"]
    code, out, err = command("predict", tmp_path / "absent.nii", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert [entry["status"] for entry in json.loads(out)] == ["failed"]
    scans = [write_nifti(tmp_path / f"p{i}.nii", scan_of(i)) for i in range(2)]
    whole = ddrsapc.cli.predict.predict_labels

    def stopped(network, volume, **options):
        if volume.meta.files[0].name == "p1.nii":
            raise KeyboardInterrupt
        return whole(network, volume, **options)

    monkeypatch.setattr("ddrsapc.cli.predict.predict_labels", stopped)
    code, out, err = command("predict", *scans, *arguments)
    assert (code, err) == (130, "stopped; the same command goes on\n")
    assert [entry["name"] for entry in json.loads(out)] == ["p0"]
    assert [row["name"] for row in summary_of(tmp_path / "out")] == ["p0"]


def test_what_a_killed_process_left_is_removed_and_what_is_lost_is_said(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    left = tmp_path / "out" / ".p01.0123abcd.part"
    left.mkdir(parents=True)
    (left / "mask.nii.gz").write_bytes(b"half")
    arguments = ["predict", scan, "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    assert command(*arguments)[0] == 0
    assert not left.exists()
    (tmp_path / "out" / "p01" / "report.html").unlink()
    assert failed(command(*arguments), "has lost its report.html; remove the folder, and it is made again")


def test_a_full_disk_ends_it_before_more_work_is_lost(command, tmp_path, weights, monkeypatch):
    scans = [write_nifti(tmp_path / f"p{i}.nii", scan_of(i)) for i in range(3)]
    tried = []

    def full(*_, **__):
        tried.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddrsapc.cli.predict.write_report", full)
    arguments = ["predict", *scans, "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    code, _, err = command(*arguments)
    assert (code, len(tried)) == (2, 1)
    assert "No space left on device; make room, and the same command goes on" in err
    assert str(tmp_path / "out") in err
    assert os.listdir(tmp_path / "out") == []


def test_a_mask_is_no_scan(command, tmp_path, weights):
    """Whoever gives a folder with masks beside the scans would have patients without calcium."""
    write_nifti(tmp_path / "scans" / "p01.nii.gz", scan_of(0))
    write_nifti(tmp_path / "scans" / "p01_label.nii.gz", (scan_of(0) > 200).astype(np.uint8))
    arguments = ["predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    code, out, err = command(*arguments)
    assert (code, out.count("Agatston")) == (2, 1)
    assert "has values from 0 to 1, as masks and scaled images have; expected HU" in err


def test_other_values_under_the_same_header_are_another_scan(command, tmp_path, weights):
    write_nifti(tmp_path / "p01.mhd", scan_of(0))
    arguments = ["predict", tmp_path / "p01.mhd", "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    assert command(*arguments)[0] == 0
    values = np.fromfile(tmp_path / "p01.raw", np.int16)
    values[:500] = 700
    values.tofile(tmp_path / "p01.raw")
    assert failed(command(*arguments), "has other results (of another scan)")


def test_remarks_are_kept(command, tmp_path, weights):
    scan = write_nifti(tmp_path / "p01.nii.gz", scan_of(0))
    arguments = ["predict", scan, "-o", tmp_path / "out", "--model", "unet", "--weights", weights, "--kvp", "80"]
    assert command(*arguments)[0] == 0
    found = json.loads(command(*arguments, "--json")[1])
    assert "this scan has 80 kVp" in found[0]["score"]["warnings"][0]
    assert "this scan has 80 kVp" in summary_of(tmp_path / "out")[0]["warnings"]
    assert "80 kVp" in (tmp_path / "out" / "p01" / "report.html").read_text()
