"""The main job: a real CT in, fine-tuning, IoU and a picture out."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddrsapc.hub

pydicom = pytest.importorskip("pydicom")
QRM = "qrm_cci_canon/qrm_insert_crop.nii.gz"


@pytest.fixture
def quickstart(example):
    return example("quickstart")


@pytest.fixture
def small():
    return pydicom.data.get_testdata_file("CT_small.dcm", download=False)


def ious(out):
    """{class name: (before, after)} of the printed table."""
    rows = re.findall(r"^(.+?)\s+([\d.]+|nan)\s+([\d.]+|nan)$", out, re.MULTILINE)
    return {name.strip(): (float(before), float(after)) for name, before, after in rows}


def test_runs_on_pydicoms_slice(quickstart, small, tmp_path, capsys):
    output = tmp_path / "new" / "overlay.png"
    assert quickstart.main([small, "--steps", "10", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "smoke test" in out
    assert set(ious(out)) == {"none", "bone 150-300 HU", "bone 300-600 HU", "bone over 600 HU", "mean, foreground"}
    colours = {tuple(pixel) for pixel in np.asarray(Image.open(output).convert("RGB")).reshape(-1, 3).tolist()}
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 0)} <= colours  # the legend
    assert [path.name for path in output.parent.iterdir()] == ["overlay.png"]


@pytest.mark.slow
def test_learns_the_inserts_of_the_phantom(quickstart, test_data, tmp_path, capsys):
    assert quickstart.main([str(test_data / QRM), "--output", str(tmp_path / "o.png")]) == 0
    table = ious(capsys.readouterr().out)
    assert set(table) == {"none", "200 mg/ml", "400 mg/ml", "800 mg/ml", "mean, foreground"}
    before, after = table["mean, foreground"]
    assert before < 0.1
    assert after > 0.25  # 0.35, 0.75, 0.53 seen with seeds 0 to 2


def test_it_begins_with_the_default_weights(quickstart):
    assert ddrsapc.hub.load_manifest()[f"{quickstart.MODEL}.cac_phantom"].default
    assert quickstart.MODEL == "ddr_sapc_u"


def test_the_six_inserts_are_found(quickstart, test_data):
    hu, pixel_area = quickstart.read_scan(test_data / QRM)
    assert hu.shape == (28, 210, 210)
    assert pixel_area == pytest.approx(0.488**2)
    labels, names = quickstart.label(hu, pixel_area)
    assert names[1:] == ("200 mg/ml", "400 mg/ml", "800 mg/ml")
    # (slice, row, column) of the large and the medium cylinder of each density, read off the scan
    for c, places in enumerate(
        [((12, 171, 149), (12, 150, 135)), ((12, 41, 141), (12, 63, 130)), ((12, 110, 30), (12, 111, 56))], 1
    ):
        for place in places:
            assert labels[place] == c
    slices, rows, columns = quickstart.region_of(labels)
    assert 12 in slices
    assert labels[:, rows, columns].count_nonzero() == labels.count_nonzero()


def test_the_default_is_the_test_data_else_pydicoms_slice(quickstart, monkeypatch, tmp_path):
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(tmp_path))
    assert quickstart.default_scan().name == "CT_small.dcm"
    (tmp_path / QRM).parent.mkdir()
    (tmp_path / QRM).touch()
    assert quickstart.default_scan() == tmp_path / QRM


def written(path, small, **changes):
    dataset = pydicom.dcmread(small)
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def bad_inputs(folder, small):
    """(what, argument, expected message)."""
    (folder / "empty").mkdir()
    (folder / "text.dcm").write_text("not a scan")
    truncated = folder / "truncated.dcm"
    truncated.write_bytes(Path(small).read_bytes()[:9000])
    tiny = {"Rows": 16, "Columns": 16, "PixelData": bytes(2 * 16 * 16)}
    air = {"PixelData": bytes(2 * 128 * 128)}
    return [
        (folder / "missing", "there is no such file"),
        (folder / "empty", "holds no DICOM files"),
        (folder / "text.dcm", "is no DICOM file"),
        (truncated, "cannot be read as DICOM"),
        (written(folder / "mr.dcm", small, Modality="MR"), "is no CT image but of modality MR"),
        (written(folder / "tiny.dcm", small, **tiny), "at least 64 x 64 pixels"),
        (written(folder / "air.dcm", small, **air), "neither calcium inserts nor bone"),
    ]


def test_bad_input_is_one_line_and_writes_nothing(quickstart, small, tmp_path, capsys):
    for scan, message in bad_inputs(tmp_path, small):
        output = tmp_path / "outputs" / "o.png"
        assert quickstart.main([str(scan), "--output", str(output)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert message in captured.err
        assert scan.name in captured.err
        assert captured.err.count("\n") == 1
        assert not captured.out
        assert not output.parent.exists()


def test_an_unwritable_output_is_found_before_training(quickstart, small, tmp_path, capsys):
    assert quickstart.main([small, "--output", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert quickstart.main([small, "--output", str(tmp_path / "file" / "o.png")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_teaches(root):
    command = [sys.executable, str(root / "examples" / "quickstart.py"), "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in ("--steps", "--output", "--seed", "smoke test", "path/to/series"):
        assert word in out
