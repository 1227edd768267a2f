"""`ddrsapc models` and `score` as a person runs them."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import ddrsapc
from ddrsapc.ct import read_volume, write_mask
from ddrsapc.scoring import score_volume
from tests.cli.outcomes import failed
from tests.ct.series_files import write_series


@pytest.fixture
def scan(tmp_path):
    """The block of 2.667 of the specification, and a larger one in the RCA: a scan and its mask as NIfTI."""
    hu = np.full((6, 40, 44), 30, np.int16)  # (Z, H, W)
    labels = np.zeros(hu.shape, np.uint8)
    hu[1:3, 10:14, 10:12], labels[1:3, 8:16, 8:14] = 400, 1
    hu[2:5, 20:30, 20:30], labels[2:5, 20:30, 20:30] = 250, 3
    for name, values in (("scan", hu), ("mask", labels)):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((0.5, 0.5, 0.5))
        image.SetOrigin((-10.0, 5.0, 100.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    return tmp_path, hu, labels


def test_models(command):
    code, out, _ = command("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ddrsapc.list_models()
    assert "13.42 M parameters" in out
    rows = json.loads(command("models", "ddr_sapc*", "--json")[1])
    assert [row["name"] for row in rows] == ["ddr_sapc", "ddr_sapc_u", "ddr_sapc_u_s"]
    assert rows[1]["parameters"] == 13_420_808
    assert command("models", "nothing*")[1] == "nothing matches 'nothing*'\n"
    assert command("models", "--pretrained")[0] == 0


def test_score(command, scan):
    folder, hu, labels = scan
    expected = score_volume(hu, labels, (0.5, 0.5, 0.5))
    output = folder / "score.json"
    code, out, err = command("score", folder / "scan.nii.gz", folder / "mask.nii.gz", "-o", output)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["LAD", "2.7", "2.0", "-"]
    assert out.splitlines()[4].split() == ["all", f"{expected.agatston:.1f}", f"{expected.volume_mm3:.1f}", "-"]
    assert f"{expected.category}, CAC-DRS {expected.cac_drs}, 2 lesion(s)" in out
    written = json.loads(output.read_text())
    assert written["agatston"] == pytest.approx(expected.agatston)
    assert written["vessels"]["LAD"]["agatston"] == pytest.approx(16 * 0.5 / 3)
    printed = json.loads(command("score", folder / "scan.nii.gz", folder / "mask.nii.gz", "--json")[1])
    assert printed == written


def test_options_of_score(command, scan):
    folder, hu, labels = scan
    arguments = ["score", folder / "scan.nii.gz", folder / "mask.nii.gz", "--json"]
    large = json.loads(command(*arguments, "--min-area", "5")[1])
    assert large["vessels"]["LAD"]["agatston"] == 0
    mass = json.loads(command(*arguments, "--mass-factor", "0.7", "--preset", "canon")[1])
    assert mass["mass_mg"] == pytest.approx(score_volume(hu, labels, (0.5,) * 3, mass_factor=0.7).mass_mg)
    assert mass["settings"]["preset"] == "canon"


@pytest.mark.parametrize(("factor", "is_taken"), [(0.72, True), (720.0, False)])
def test_the_mass_factor_of_the_file(command, tmp_path, factor, is_taken):
    hu = np.full((3, 40, 40), 30, np.int16)
    hu[1, 10:20, 10:20] = 300

    def calibrated(dataset, _):
        dataset.CalciumScoringMassFactorPatient = factor

    write_series(tmp_path / "scan", hu, spacing=(3.0, 0.5, 0.5), edit=calibrated)
    write_mask((hu >= 130).astype(np.uint8), read_volume(tmp_path / "scan"), tmp_path / "mask.nii.gz")
    code, out, err = command("score", tmp_path / "scan", tmp_path / "mask.nii.gz", "--json")
    assert code == 0
    mass = json.loads(out)["mass_mg"]
    assert mass == pytest.approx(0.72 * 300 * 75 / 1000) if is_taken else mass is None
    assert ("mass factor of 720 mg/(ml HU) is none; give it with --mass-factor" in err) is not is_taken


def test_a_slice_alone_is_remarked_upon(command, tmp_path):
    hu = np.full((1, 40, 40), 30, np.int16)
    hu[0, 10:20, 10:20] = 300
    write_series(tmp_path / "scan", hu, spacing=(3.0, 0.5, 0.5))
    write_mask((hu >= 130).astype(np.uint8), read_volume(tmp_path / "scan"), tmp_path / "mask.nii.gz")
    code, _, err = command("score", tmp_path / "scan", tmp_path / "mask.nii.gz")
    assert (code, err.count("one slice tells no distance")) == (0, 1)


def test_what_cannot_be_scored(command, scan):
    folder = scan[0]
    mask = folder / "mask.nii.gz"
    assert failed(command("score", folder / "absent", mask), "absent: there is no such file")
    assert failed(command("score", folder / "scan.nii.gz", folder / "absent.nii"), "there is no such file")
    assert failed(command("score", folder / "scan.nii.gz", mask, "-o", folder / "no" / "s.json"), "make it first")
    assert failed(command("score", folder / "scan.nii.gz", mask, "--preset", "acme"), "acme")
    assert failed(command("score", folder / "scan.nii.gz", mask, "-o", mask), "is to end in .json")
    for name in ("scan", "mask"):  # the patient's front to back becomes the order of the slices
        turned = sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{name}.nii.gz")), "LSP")
        sitk.WriteImage(turned, str(folder / f"coronal_{name}.nii.gz"))
    outcome = command("score", folder / "coronal_scan.nii.gz", folder / "coronal_mask.nii.gz")
    assert failed(outcome, "its slices are not axial")
    assert failed(command("score", folder / "scan.nii.gz", mask, "--series", "1"), "leave out series")
    image = sitk.ReadImage(str(mask))
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, str(folder / "moved.nii.gz"))
    assert failed(command("score", folder / "scan.nii.gz", folder / "moved.nii.gz"), "lies on another scan")
    (folder / "broken.nii.gz").write_bytes(mask.read_bytes()[:100])
    assert failed(command("score", folder / "scan.nii.gz", folder / "broken.nii.gz"), "broken.nii.gz")
    assert sorted(path.name for path in folder.iterdir()) == [
        "broken.nii.gz",
        "coronal_mask.nii.gz",
        "coronal_scan.nii.gz",
        "mask.nii.gz",
        "moved.nii.gz",
        "scan.nii.gz",
    ]


def test_the_real_scan_scores_as_published(command, test_data, tmp_path):
    """A mask of the large insert's density, on the QRM scan: the specification's vector by the command."""
    path = test_data / "qrm_cci_canon" / "qrm_insert_crop.nii.gz"
    image = sitk.ReadImage(str(path))
    region = sitk.ConnectedThreshold(image, seedList=[(30, 110, 12)], lower=130, upper=10_000, connectivity=1)
    sitk.WriteImage(sitk.Cast(region, sitk.sitkUInt8), str(tmp_path / "mask.nii.gz"))
    result = json.loads(command("score", path, tmp_path / "mask.nii.gz", "--json")[1])
    assert result["agatston"] == pytest.approx(402.93965, abs=1e-4)
    assert result["volume_mm3"] == pytest.approx(302.20474, abs=1e-4)
