"""The difficulty gate: what a small U-Net makes of the phantom, and the figures that the documentation has."""

import json

import pytest

from ddrsapc.phantom.parameters import PHANTOM_VERSION

pytest.importorskip("scipy", reason="the extra phantom is not installed")


@pytest.fixture
def difficulty(example):
    return example("phantom_difficulty")


@pytest.fixture
def measured(root):
    """What `examples/phantom_difficulty.py` wrote when it was run last; it takes an hour."""
    return json.loads((root / "docs/results/phantom/difficulty.json").read_text(encoding="utf-8"))


def test_a_small_network_learns_it_and_does_not_solve_it(measured):
    assert all(0.5 <= iou <= 0.8 for iou in measured["iou"][1:]), measured["iou"]


def test_it_was_measured_on_this_phantom_as_the_example_does(measured, difficulty):
    assert measured["phantom_version"] == PHANTOM_VERSION, "run examples/phantom_difficulty.py again"
    settings = {"size": difficulty.SIDE, "batch_size": difficulty.BATCH_SIZE, "test_slices": difficulty.TESTED}
    assert {key: measured[key] for key in settings} == settings
    assert measured["steps"] == {"courses": difficulty.COURSES[0], "calcium": difficulty.CALCIUM[0]}


def test_the_page_has_the_figures(measured, root):
    page = " ".join((root / "docs/phantom.md").read_text(encoding="utf-8").split())
    lad, lcx, rca = (f"{iou:.2f}" for iou in measured["iou"][1:])
    assert f"comes to {lad}, {lcx} and {rca} (LAD, LCX, RCA)" in page


def test_trains_both_lessons_and_writes(difficulty, tmp_path, monkeypatch):
    for name, value in {"SIDE": 32, "BATCH_SIZE": 2, "COURSES": (1, 1e-3), "CALCIUM": (2, 1e-3), "TESTED": 3}.items():
        monkeypatch.setattr(difficulty, name, value)
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["phantom_difficulty.py", "-o", str(tmp_path)])
    difficulty.main()
    written = json.loads((tmp_path / "difficulty.json").read_text())
    assert len(written["iou"]) == 4
    assert written["steps"] == {"courses": 1, "calcium": 2}
    assert (tmp_path / "calcium" / "last.safetensors").is_file()
