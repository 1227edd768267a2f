"""Real scans with networks that are no network: what is counted as false, the pictures, wrong inputs."""

import json
import shutil

import numpy as np
import pytest
import torch

from ddrsapc.models import InputConfig

pytest.importorskip("SimpleITK", reason="the extra ct is not installed")
pytest.importorskip("pydicom", reason="the extra ct is not installed")


class CallsAllBright(torch.nn.Module):
    """Calls every voxel of 130 HU and more LCX."""

    in_chans = 1
    input_config = InputConfig(hu_window=(-1000.0, 1000.0), mean=0.0, std=1.0)

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        bright = (x >= (130 + 1000) / 2000 - 1e-6) * self.scale
        return torch.cat([0.5 - 0 * bright, -bright, bright, -bright], 1)


@pytest.fixture
def real_scans(example):
    return example("real_scans")


@pytest.mark.parametrize(
    "name", ["totalseg_cta_pulmonary", "totalseg_cta_pulmonary_fine", "totalseg_dicom_j2k", "ct_small"]
)
def test_what_is_found_outside_the_heart_is_false(name, real_scans, test_data, tmp_path):
    (scan,) = [scan for scan in real_scans.real_scans(test_data) if scan.name == name]
    volume, heart = scan.read()
    found, labels = real_scans.evaluate(CallsAllBright(), scan, volume, heart)
    assert np.array_equal(labels > 0, volume.hu >= 130)
    voxel = np.prod(found.spacing)
    everything = (volume.hu >= 130).sum() * voxel
    assert found.vessels_mm3 == pytest.approx({"LAD": 0, "LCX": everything, "RCA": 0})
    if scan.heart is None:
        assert found.false_mm3 == pytest.approx(everything)
    else:  # chambers full of contrast are not false, ribs are
        assert 0.1 * everything < found.false_mm3 < 0.9 * everything
    picture = np.asarray(real_scans.picture(found, volume, labels, heart)).astype(int)
    green = (picture[..., 1] > picture[..., 0] + 60) & (picture[..., 1] > picture[..., 2] + 60)
    assert green.sum() > 300  # LCX
    blue = (picture[..., 2] > picture[..., 0] + 60) & (picture[..., 2] > picture[..., 1] + 40)
    assert (blue.sum() > 300) == (scan.heart is not None)


@pytest.mark.parametrize(
    ("pixels", "shown"),
    [
        ([0] * 10, [0, 3, 6, 9]),
        ([0, 0, 0, 0, 5, 0, 0, 0, 0, 0], [0, 3, 4, 6]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [5, 6, 7, 8]),
        ([0, 3], [0, 1]),
        ([7], [0]),
    ],
)
def test_slices_with_most_are_shown_and_others(real_scans, pixels, shown):
    assert real_scans.slices_to_show(np.array(pixels)) == shown


def test_writes_figures_and_pictures(real_scans, test_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_scans.ddrsapc, "create_model", lambda *_, **__: CallsAllBright())
    monkeypatch.setattr(real_scans.ddrsapc, "optimize_for_inference", lambda model: model)
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(test_data))
    assert real_scans.main(["-o", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "real_scans.json").read_text(encoding="utf-8"))
    names = [scan["name"] for scan in summary["scans"]]
    chest = ["totalseg_cta_pulmonary", "totalseg_cta_aorta"]
    assert names == [*chest, *(f"{name}_fine" for name in chest), "totalseg_dicom_j2k", "ct_small"]
    assert {path.stem for path in tmp_path.glob("*.png")} == set(names)
    assert capsys.readouterr().out.count("mm3 false") == 6
    assert {"commit", "hardware", "command"} <= summary.keys()


def test_a_finer_scan_is_the_same_chest(real_scans, test_data):
    stored, fine = (
        scan
        for scan in real_scans.real_scans(test_data)
        if scan.name in ("totalseg_cta_pulmonary", "totalseg_cta_pulmonary_fine")
    )
    (volume, heart), (finer, finer_heart) = stored.read(), fine.read()
    assert finer.spacing == pytest.approx((3.0, 0.5, 0.5))
    assert finer.hu.shape == finer_heart.shape == (56, 306, 366)
    assert finer.hu.dtype == volume.hu.dtype
    block = finer.hu[20, 150:153, 180:183].mean()
    assert block == pytest.approx(volume.hu[40:42, 50, 60].mean(), abs=40)
    assert (
        np.corrcoef(finer.hu[:, 1::3, 1::3].ravel(), volume.hu.reshape(56, 2, 102, 122).mean(1).ravel())[0, 1] > 0.999
    )
    assert 1 <= finer_heart.sum() * 0.75 / (heart.sum() * 3.375) < 1.08  # what one of the slices has is in both
    outer = [
        [v.affine @ (*corner, 1) for corner in ((-0.5,) * 3, np.array(v.hu.shape[::-1]) - 0.5)] for v in (volume, finer)
    ]
    assert np.allclose(*outer)  # mm


@pytest.mark.parametrize("wrong", ["folder", "scans", "mask", "model", "weights"])
def test_wrong_input_is_one_line(wrong, real_scans, test_data, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data"
    if wrong == "mask":
        shutil.copytree(test_data, folder)
        mask = folder / "totalseg_cta" / "pulmonary_report_heart.nii.gz"
        mask.chmod(0o644)
        mask.write_bytes(mask.read_bytes()[:100])
        monkeypatch.setattr(real_scans.ddrsapc, "create_model", lambda *_, **__: CallsAllBright())
        monkeypatch.setattr(real_scans.ddrsapc, "optimize_for_inference", lambda model: model)
    elif wrong == "scans":
        folder.mkdir()
    elif wrong != "folder":
        folder = test_data
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(folder))
    command = ["-o", str(tmp_path / "out")]
    weights = ["--weights", str(tmp_path / "no.safetensors")]
    command += {"model": ["--model", "unet"], "weights": weights}.get(wrong, [])
    assert real_scans.main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out" / "real_scans.json").exists()
