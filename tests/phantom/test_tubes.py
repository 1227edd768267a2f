import math

import numpy as np
import pytest

from ddrsapc.phantom.deposition import deposited
from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.placement import Placement, draw_placement
from ddrsapc.phantom.tubes import arc_cloud, arc_volume, ball_cloud, smooth_curve, tube_cloud

PLACE = Placement(128, 40, 0.5, 3.0, (0.0, 0.0, 0.0), 0.0, 1.0, ())
BEND = smooth_curve(np.array([(0, 0, 0), (8, 3, 2), (12, 12, 5), (10, 20, 12)], float))


def test_curves_are_even_and_their_directions_at_right_angles():
    steps = np.linalg.norm(np.diff(BEND.points, axis=0), axis=1)
    assert steps == pytest.approx(BEND.step, rel=0.02)
    assert BEND.points[[0, -1]] == pytest.approx(np.array([(0, 0, 0), (10, 20, 12)], float))
    tangent = np.gradient(BEND.points, axis=0)
    for across in BEND.across:
        assert np.linalg.norm(across, axis=1) == pytest.approx(1)
        assert np.abs((across * tangent).sum(1)).max() < 0.05 * BEND.step
    assert np.abs((BEND.across[0] * BEND.across[1]).sum(1)).max() < 1e-12


def test_volumes_are_exact():
    radius, thickness, span = 1.6, 1.5, 2.5
    arc = arc_cloud(BEND, start=3, length=12, radius=radius, thickness=thickness, middle=1.0, span=span, step=0.2)
    assert arc.volumes.sum() == pytest.approx(
        arc_volume(length=12, radius=radius, thickness=thickness, span=span), rel=0.002
    )
    # and inside the shell: no nearer to the line than the lumen, no farther than the wall
    distance = np.linalg.norm(arc.points[:, None] - BEND.points, axis=2).min(1)
    assert distance.min() > radius - 0.15
    assert distance.max() < radius + thickness + 0.15
    line = smooth_curve(np.array([(0, 0, 0.05), (0, 0, 9.95)]), 0.1)
    assert tube_cloud(line, 2.0, 0.1).volumes.sum() == pytest.approx(math.pi * 4 * 10, rel=1e-6)
    assert ball_cloud((1, 2, 3), (2, 3, 1), 0.2).volumes.sum() == pytest.approx(4 / 3 * math.pi * 6)


def test_points_between_two_levels_are_those_of_the_whole():
    whole = arc_cloud(BEND, start=0, length=28, radius=1.5, thickness=2, middle=0, span=3, step=0.2)
    part = arc_cloud(BEND, start=0, length=28, radius=1.5, thickness=2, middle=0, span=3, step=0.2, between=(9.0, 10.0))
    assert len(part.points) < len(whole.points)
    volumes = [c.volumes[(c.points[:, 2] >= 9) & (c.points[:, 2] < 10)] for c in (whole, part)]
    assert len(volumes[0]) > 100
    assert volumes[1].sum() == pytest.approx(volumes[0].sum(), rel=1e-12)


def test_deposited_volume_is_kept_and_where_the_points_are():
    cloud = ball_cloud((4.0, -7.0, 1.0), (3, 2, 4), 0.2)
    total, centre = 0.0, np.zeros(3)
    for z in range(PLACE.slices):
        found = deposited(cloud, PLACE, PLACE.slice_z(z), density=np.full(len(cloud.points), 100.0), margin=2)
        if found is None:
            continue
        (rows, columns), _, density = found
        mass = density * 0.5 * 0.5 * 3.0
        total += mass.sum()
        y = (np.arange(rows.start, rows.stop) - 63.5) * 0.5
        x = (np.arange(columns.start, columns.stop) - 63.5) * 0.5
        centre += ((mass.sum(0) * x).sum(), (mass.sum(1) * y).sum(), mass.sum() * PLACE.slice_z(z))
    assert total == pytest.approx(100 * cloud.volumes.sum(), rel=1e-12)
    assert centre / total == pytest.approx([4, -7, 1], abs=0.1)


def test_a_moving_cloud_keeps_volume_and_middle():
    cloud = ball_cloud((0, 0, 0), (1, 1, 1), 0.2)
    moved = cloud.moved(np.array([(-2.0, 0, 0), (0, 0, 0), (2.0, 0, 0)]))
    assert moved.volumes.sum() == pytest.approx(cloud.volumes.sum())
    assert np.ptp(moved.points[:, 0]) == pytest.approx(np.ptp(cloud.points[:, 0]) + 4)


def test_placements_there_and_back():
    parameters = PhantomParameters()
    for seed in range(5):
        place = draw_placement(parameters, 96, np.random.default_rng(seed))
        x, y = place.frame_grid(12, np.arange(96.0))
        rows, columns = np.array([10, 40, 80]), np.array([20, 50, 90])
        points = np.stack([x[rows, columns], y[rows, columns], np.full(3, place.frame_z(12))], axis=1).astype(float)
        back = place.to_scan(points)
        expected = np.stack([(columns - 47.5) * place.pixel_mm, (rows - 47.5) * place.pixel_mm], axis=1)
        assert back[:, :2] == pytest.approx(expected, abs=0.1)  # the deformation is enlarged from a coarse grid
        assert back[:, 2] == pytest.approx(place.slice_z(12))
