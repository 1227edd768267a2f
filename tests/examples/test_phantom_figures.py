"""The page of slices and its figures."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra phantom is not installed")


@pytest.fixture
def figures(example):
    return example("phantom_figures")


def test_distances_of_histograms(figures):
    first = np.repeat(np.arange(0, 50, 5), 4).astype(np.int16)
    assert figures.hu_distances(first, first, -100, 200) == {"total_variation": 0, "earth_mover_hu": 0}
    assert figures.hu_distances(first, first + 100, -100, 200) == {"total_variation": 1, "earth_mover_hu": 100}


def test_the_spectrum_of_white_noise_is_flat(figures):
    noise = np.random.default_rng(0).normal(0, 3, (60, 64, 64))
    spectrum = figures.radial_spectrum(noise, 0.5, np.arange(0.1, 0.95, 0.1))
    assert spectrum == pytest.approx(1 / 8, rel=0.05)


def test_patches_of_the_insert_are_plastic_and_each_of_its_own(figures):
    patches = figures.simulated_insert()
    assert patches.shape[1:] == (48, 48)
    assert len({patch.tobytes() for patch in patches}) == len(patches) == 48
    assert patches.max() < 75 + 6 * 21.6  # no calcium
    assert patches.mean((1, 2)) == pytest.approx(75, abs=5)


def test_blooming_grows_with_contrast(figures):
    plain, contrasted = figures.blooming(3, size=96), figures.blooming(3, contrast_hu=300, size=96)
    assert 1.2 < plain < 1.7  # of the coarse pixels too
    assert contrasted > 1.4 * plain


def test_a_page_without_real_scans(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SIMULATED", ((0, 0, 20),))
    monkeypatch.setattr(figures, "REPEATS", 1)
    monkeypatch.setattr(sys, "argv", ["phantom_figures.py", "--out", str(tmp_path / "out")])
    figures.main()
    assert (tmp_path / "out" / "phantom.jpg").read_bytes()[:2] == b"\xff\xd8"
    written = json.loads((tmp_path / "out" / "phantom.json").read_text())
    assert set(written["calibration"]) == {"L800", "M800", "L400", "M400", "L200", "M200"}
