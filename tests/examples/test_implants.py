"""Calcium in a real scan, where it lies and what is counted."""

import json

import numpy as np
import pytest
import torch

from ddrsapc.models import InputConfig

pytest.importorskip("scipy", reason="the extra phantom is not installed")
pytest.importorskip("SimpleITK", reason="the extra ct is not installed")
pytest.importorskip("PIL", reason="the extra ct is not installed")


class CallsDense(torch.nn.Module):
    """Calls voxels of 530 to 620 HU in the left half of a slice's columns LAD, the others RCA."""

    in_chans = 1
    input_config = InputConfig(hu_window=(-1000.0, 1000.0), mean=0.0, std=1.0)

    def forward(self, x):
        dense = ((x > 1530 / 2000) & (x < 1620 / 2000)).float()
        right = torch.arange(x.shape[-1]) < x.shape[-1] / 2  # of the patient: the slice's left
        return torch.cat([0.5 + 0 * dense, dense * ~right, -dense, dense * right], 1)


@pytest.fixture(scope="module")
def implants(example):
    return example("implants")


@pytest.fixture(scope="module")
def heart(implants, test_data):
    return implants.read_heart(test_data)


def test_the_heart_is_the_masks(heart):
    assert heart.mm == 1.5
    z, y, x = heart.centroid
    assert (z, y, x) == pytest.approx((47, 47.5, 63.5), abs=0.5)
    chamber, septum = (heart.hu[heart.blood].mean(), heart.hu[~heart.blood & (heart.hu > -100)].mean())
    assert chamber > 300 > septum


@pytest.mark.parametrize("contrast", [False, True])
def test_calcium_is_where_it_was_put(implants, heart, contrast):
    place = (44, -22, 17)
    hu, calcium = implants.implant(heart, place, contrast=contrast)
    assert hu.shape == (306, 366)
    rows, columns = np.nonzero(calcium)
    row, column = (3 * (heart.centroid[axis] + mm / 1.5 + 0.5) - 0.5 for axis, mm in ((1, -22), (2, 44)))
    assert (rows.mean(), columns.mean()) == pytest.approx((row, column), abs=0.5)
    assert 2.0 < np.sqrt(calcium.sum() * 0.25 / np.pi) < 2.6  # mm: the disc and some of its blur
    assert 550 < hu[calcium].max() <= 600
    assert (hu > 300).mean() > 0.1 if contrast else (hu > 300).mean() < 0.02


def test_no_calcium_outside_the_scan(implants, heart):
    assert implants.implant(heart, (0, 0, 400), contrast=True) is None
    assert implants.implant(heart, (400, 0, 0), contrast=True) is None


def test_counts_and_pictures(implants, heart, test_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(implants.ddrsapc, "create_model", lambda *_, **__: CallsDense())
    monkeypatch.setattr(implants.ddrsapc, "optimize_for_inference", lambda model: model)
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(test_data))
    monkeypatch.setattr(implants, "COURSES", {name: points[2:4] for name, points in implants.COURSES.items()})
    assert implants.main(["-o", str(tmp_path)]) == 0
    plain, contrasted = json.loads((tmp_path / "implants.json").read_text(encoding="utf-8"))["scans"]
    assert (plain["contrast"], contrasted["contrast"]) == (False, True)
    called = [(disc["site"], disc["called"]) for disc in plain["discs"] if disc["site"] in implants.LABELS]
    assert called == [
        *[("LM", "LAD")], *[("LAD", "LAD")] * 2, *[("LCX", "LAD")] * 2, *[("RCA", "RCA")] * 2
    ]  # fmt: skip
    other = [disc["other_mm2"] for disc in plain["discs"]]
    assert plain["other, mm2 a slice"] == pytest.approx(np.mean(other), abs=0.06)
    assert np.mean([disc["other_mm2"] for disc in contrasted["discs"]]) > np.mean(other) + 5  # lumen
    assert (plain["on arteries"], plain["found"], plain["called by their vessel"]) == (7, 7, 5)
    assert plain["LM and LAD called LAD"] == [3, 3]
    assert plain["elsewhere"] == plain["elsewhere, called coronary"] == sum(map(len, implants.ELSEWHERE.values()))
    assert (tmp_path / "implants.png").exists()
    assert "7 of 7 on arteries found, 5 called by their vessel" in capsys.readouterr().out


def test_false_is_what_is_called_outside_the_heart(implants):
    hu, mask = np.full((5, 30, 30), 40.0), np.zeros((5, 30, 30), bool)
    hu[0:2, 4:6, 4:8] = hu[0:2, 20:22, 20:22] = hu[2:4, 20:22, 20:22] = 580  # in both slices of a slab
    mask[1, 20:22, 20:22] = True  # of one: inside in the first slab, not in the second
    blood = np.zeros_like(mask)
    blood[2:4] = True
    heart = implants.RealHeart(hu, blood, mask, np.array([0.0, 0.0, 0.0]), 1.5)
    whole = implants.false_outside(CallsDense(), heart, contrast=True)
    dark = implants.false_outside(CallsDense(), heart, contrast=False)
    voxel = 1.5**3
    # edges between fine pixels are below 530 HU
    assert 0.4 < dark / (2 * 2 * 4 * voxel) <= 1
    assert 0.4 < (whole - dark) / (2 * 2 * 2 * voxel) <= 1


def test_no_place_counts_twice(implants, heart, monkeypatch):
    places = []
    implant = implants.implant
    monkeypatch.setattr(implants, "find", lambda _, hu: np.zeros(hu.shape, np.uint8))
    monkeypatch.setattr(implants, "implant", lambda *given, **how: places.append(given[1]) or implant(*given, **how))
    summary, _ = implants.evaluate(CallsDense(), heart, contrast=False)
    discs = [(disc["site"], tuple(disc["place"])) for disc in summary["discs"]]
    assert len({place for _, place in discs}) == len(discs) == summary["on arteries"] + summary["elsewhere"]
    assert (
        len(places)
        == len(set(map(tuple, places)))
        < sum(map(len, [*implants.COURSES.values(), *implants.ELSEWHERE.values()]))
    )
    assert ("LM", (14, 10, 32)) in discs
    assert summary["found"] == 0


@pytest.mark.parametrize("wrong", ["folder", "weights"])
def test_wrong_input_is_one_line(wrong, implants, test_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDRSAPC_TEST_DATA", str(tmp_path if wrong == "folder" else test_data))
    weights = ["--weights", str(tmp_path / "no.safetensors")] if wrong == "weights" else []
    assert implants.main(["-o", str(tmp_path / "out"), *weights]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()
