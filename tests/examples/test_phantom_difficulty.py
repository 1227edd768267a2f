"""The difficulty gate: what a small U-Net makes of the phantom, and the figures that the documentation has."""

import json

import pytest

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
    settings = difficulty.settings()
    assert {key: measured[key] for key in settings} == settings, "run examples/phantom_difficulty.py again"


def test_the_page_has_the_figures(measured, root):
    page = " ".join((root / "docs/phantom.md").read_text(encoding="utf-8").split())
    lad, lcx, rca = (f"{iou:.2f}" for iou in measured["iou"][1:])
    assert f"comes to {lad}, {lcx} and {rca} (LAD, LCX, RCA)" in page


def test_trains_both_lessons_and_writes(difficulty, tmp_path, monkeypatch):
    for name, value in {"SIDE": 32, "BATCH_SIZE": 2, "COURSES": (1, 1e-3), "CALCIUM": (2, 1e-3), "TESTED": 3}.items():
        monkeypatch.setattr(difficulty, name, value)
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", lambda *_: None)
    assert difficulty.main(["-o", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "difficulty.json").read_text())
    assert len(written["iou"]) == 4
    assert written["courses"]["steps"] == 1
    assert (tmp_path / "calcium" / "last.safetensors").is_file()
    for lesson, steps in {"courses": 1, "calcium": 2}.items():
        run = written["runs"][lesson]
        assert run["config"]["optimizer"] == "adamw"
        assert run["train_images"] == 2 * steps
        assert "Ohem" in run["criterion"]
        assert run["input"]["hu_window"] == [-200.0, 800.0]


def test_an_output_that_is_no_folder_is_one_line(difficulty, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert difficulty.main(["-o", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
