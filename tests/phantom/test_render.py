import math

import numpy as np
import pytest

from ddrsapc.phantom import PhantomParameters, draw_case, render
from ddrsapc.phantom.deposition import deposited
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.render import _lung_cloud

PLACE = Placement(65, 40, 1.0, 3.0, (0.0, 0.0, 0.0), 0.0, 1.0, ())
START, END = np.array([[-15.0, -3, -1]]), np.array([[15.0, 5, 1]])


@pytest.mark.parametrize(("radius", "widest"), [(1.0, 1.2), (2.2, 2.4), (6.0, 8.0)])
def test_a_vessel_of_the_lung_has_the_volume_of_a_truncated_cone(radius, widest):
    cloud = _lung_cloud(START, END, np.array([radius]), widest, (0.0, 20.0))
    half = radius / 2
    cone = math.pi / 3 * np.linalg.norm(END - START) * (radius**2 + radius * half + half**2)
    assert cloud.volumes.sum() == pytest.approx(cone, rel=0.01)


def test_a_wide_vessel_of_the_lung_is_full_and_without_stripes():
    box, share, _ = deposited(_lung_cloud(START, END, np.array([6.0]), 8.0, (0.0, 1.5)), PLACE, 0.0)
    whole = np.zeros((65, 65))
    whole[box] = share
    along = [whole[round(32 + 8 * t), round(32 + 30 * t)] for t in np.linspace(-0.4, 0.2, 13)]
    assert min(along) > 0.5, along  # grain, which interpolation and the point spread take away
    assert np.mean(along) == pytest.approx(1, abs=0.12)


def test_no_vessel_of_the_lung_is_too_wide_to_be_there(monkeypatch):
    wide = draw_case(0, size=64, parameters=PhantomParameters(lung_vessel_width=(2, 2)))
    cloud, radii = render._lung_cloud, []
    monkeypatch.setattr(render, "_lung_cloud", lambda *arguments: radii.extend(arguments[2]) or cloud(*arguments))
    render.render_slice(wide, 20)
    assert max(radii) > 8
