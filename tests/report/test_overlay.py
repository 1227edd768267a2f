"""Slices as pictures."""

import importlib
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddrsapc.report.overlay import IGNORED, PALETTE, WINDOW, crop_around, legend, panel, png_bytes, stack

RED, GREEN, YELLOW, VIOLET = (255, 0, 0), (0, 255, 0), (255, 255, 0), (0x5F, 0x58, 0x7D)


@pytest.fixture
def slices():
    """HU and labels (20, 30)."""
    hu = np.random.default_rng(0).integers(-300, 1000, (20, 30)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[5, 6], labels[5, 7], labels[6, 6], labels[19, 29] = 1, 2, 3, IGNORED
    return hu, labels


def colours_of(picture):
    return {tuple(rgb) for rgb in np.asarray(picture).reshape(-1, 3).tolist()}


def test_the_papers_colours():
    rgb = [tuple(PALETTE[label].tolist()) for label in (0, 1, 2, 3, IGNORED)]
    assert rgb == [(0, 0, 0), RED, GREEN, YELLOW, VIOLET]
    assert len({tuple(rgb) for rgb in PALETTE[:9].tolist()}) == 9


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_a_panel_shows_every_pixel(slices, of):
    hu, labels = slices
    low, high = WINDOW
    grey = ((np.clip(hu, low, high) - low) / (high - low) * 255).astype(np.uint8)
    expected = np.where((labels > 0)[..., None], PALETTE[labels], grey[..., None])
    picture = np.asarray(panel(of(hu), of(labels)))
    assert np.array_equal(picture, expected)
    assert np.array_equal(np.asarray(panel(of(hu), of(labels), 3)), expected.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(np.asarray(panel(of(hu)))[..., 1], grey)
    half = np.asarray(panel(of(hu), of(labels), opacity=0.5)).astype(int)
    assert np.abs(half - (grey[..., None] + expected.astype(int)) / 2).max() <= 1


def test_true_proportions_and_sizes(slices):
    hu, labels = slices
    assert panel(hu, labels, 2, spacing=(0.9, 0.6)).size == (60, 60)
    assert panel(hu, labels, 2, spacing=(0.5, 1.0)).size == (120, 40)
    smooth = np.asarray(panel(hu, labels, 4, smooth=True))
    assert smooth.shape == (80, 120, 3)
    assert colours_of(smooth[20:24, 24:28]) == {RED}
    grey = smooth[40:60, 40:60, 0]
    assert not np.array_equal(grey, grey[::4, ::4].repeat(4, 0).repeat(4, 1))  # interpolated


def test_no_labelled_pixel_is_lost_where_a_slice_is_made_smaller():
    labels = np.zeros((100, 100), np.uint8)
    labels[[41, 60, 11, 20], [57, 70, 30, 41]] = 1  # odd and even places
    red = np.asarray(panel(np.full((100, 100), -500), labels, 0.5))[..., 0]
    assert red.shape == (50, 50)
    assert red[[20, 30, 5, 10], [28, 35, 15, 20]].min() > 50
    assert np.count_nonzero(red) == 4


def test_crops():
    marked = np.zeros((512, 400), bool)
    how = {"least": 96, "margin": 16}
    assert crop_around(marked, 288, **how) == (slice(0, 512), slice(0, 400), 1)
    marked[300, 200] = True
    assert crop_around(marked, 288, **how) == (slice(252, 348), slice(152, 248), 3)
    assert crop_around(torch.from_numpy(marked), 600, **how) == (slice(250, 350), slice(150, 250), 6)
    marked[0, 0] = True
    assert crop_around(marked, 288, **how) == (slice(0, 333), slice(0, 333), 1)


def test_legends_name_every_colour():
    names = {1: "LAD", 3: "RCA", IGNORED: "does not count"}
    for across in (False, True):
        colours = colours_of(legend(names, across=across))
        assert {RED, YELLOW, VIOLET} <= colours
        assert GREEN not in colours
    assert legend(names).height == 18 * 4
    assert legend(names, across=True).height == 18


def test_stacks_and_bytes():
    red, green = Image.new("RGB", (4, 2), RED), Image.new("RGB", (3, 5), GREEN)
    stacked = Image.open(io.BytesIO(png_bytes(stack([red, green]))))
    assert stacked.size == (4, 7)
    assert (stacked.getpixel((3, 1)), stacked.getpixel((0, 2)), stacked.getpixel((3, 2))) == (RED, GREEN, (255,) * 3)


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "ddrsapc.report.overlay")
    with pytest.raises(ImportError, match=r'PIL is missing; install it with: pip install "ddrsapc\[ct\]"'):
        importlib.import_module("ddrsapc.report.overlay")
