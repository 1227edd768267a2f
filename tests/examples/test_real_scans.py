"""Real scans with networks that are no network: what is counted as false, the pictures, wrong inputs."""

import json

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


@pytest.mark.parametrize("name", ["totalseg_cta_pulmonary", "totalseg_dicom_j2k", "ct_small"])
def test_what_is_found_outside_the_heart_is_false(name, real_scans, test_data, tmp_path):
    (scan,) = [scan for scan in real_scans.real_scans(test_data) if scan.name == name]
    volume, heart = real_scans.read_volume(scan.path), real_scans.heart_of(scan)
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


def test_writes_figures_and_pictures(real_scans, test_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_scans.ddrsapc, "create_model", lambda *_, **__: CallsAllBright())
    monkeypatch.setattr(real_scans.ddrsapc, "optimize_for_inference", lambda model: model)
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(test_data))
    assert real_scans.main(["-o", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "real_scans.json").read_text(encoding="utf-8"))
    names = [scan["name"] for scan in summary["scans"]]
    assert names == ["totalseg_cta_pulmonary", "totalseg_cta_aorta", "totalseg_dicom_j2k", "ct_small"]
    assert {path.stem for path in tmp_path.glob("*.png")} == set(names)
    assert capsys.readouterr().out.count("mm3 false") == 4
    assert {"commit", "hardware", "command"} <= summary.keys()


@pytest.mark.parametrize("wrong", ["folder", "model", "weights"])
def test_wrong_input_is_one_line(wrong, real_scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(tmp_path / "no" if wrong == "folder" else tmp_path))
    command = ["-o", str(tmp_path / "out")]
    command += {"folder": [], "model": ["--model", "unet"], "weights": ["--weights", str(tmp_path / "no.safetensors")]}[
        wrong
    ]
    assert real_scans.main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out").exists()
