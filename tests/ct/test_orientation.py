"""Slices as radiologists see them, however they are stored."""

import numpy as np
import pytest
import torch

from ddrsapc.ct import SliceOrientation

TO = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@pytest.mark.parametrize("code", ["LPS", "RPS", "LAI", "RAS", "PLS", "ARI", "PRS", "ALI"])
def test_slices_are_shown_upright_and_stored_again(code):
    """`code`: where a column, a row and a slice further lead."""
    axes = np.array([TO[letter] for letter in code]).T * [0.5, 0.7, 3.0]
    axes = axes @ np.array([[1, 0.01, 0], [-0.01, 1, 0], [0, 0, 1]])  # a little oblique
    affine = np.eye(4)
    affine[:3, :3] = axes
    rows, columns = np.indices((4, 5))
    places = torch.from_numpy(np.einsum("ij,jhw->ihw", axes, np.stack([columns, rows, 0 * rows])))  # x, y, z of each
    orientation = SliceOrientation.of(affine)
    upright = orientation.upright(places)
    assert (upright[0].diff(dim=1) > 0.4).all()  # columns lead to the left
    assert (upright[1].diff(dim=0) > 0.4).all()  # rows lead to the back
    assert torch.equal(orientation.as_stored(upright), places)
