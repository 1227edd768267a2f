"""Where calcium is that is none of the coronary arteries'."""

import numpy as np

from ddrsapc.phantom import PhantomParameters, draw_case
from ddrsapc.phantom.render import case_clouds
from tests.phantom.depths import depth_at


def test_calcium_of_the_aorta_is_in_its_wall():
    parameters = PhantomParameters(aortic_wall_rate=1, ostium_rate=0)
    off = []
    for index in range(12):
        draw = draw_case(0, index, size=256, parameters=parameters)
        for item in draw.mimics:
            if item.site == "aortic wall":
                arc = item.shape
                middle, first, second = (part[0] for part in arc.curve.place(np.array([arc.start + arc.length / 2])))
                across = np.cos(arc.middle) * first + np.sin(arc.middle) * second
                wall = middle + (arc.radius + arc.thickness / 2) * across
                depths = [depth_at(draw, name, wall) for name in ("aorta", "descending_aorta")]
                off += [min(abs(depth) for depth in depths if depth is not None)] if any(depths) else []
    assert len(off) > 20
    assert max(off) < 2.5, max(off)
    assert np.median(off) < 1


def test_a_stent_of_the_rca_moves_with_it():
    stented = PhantomParameters(stent_rate=1, motion_rate=1, motion=(6, 6))
    moved = {}
    for index in range(20):
        draw = draw_case(0, index, size=64, parameters=stented)
        clouds = case_clouds(draw)[len(draw.lesions) :]
        for item, cloud in zip(draw.mimics, clouds, strict=True):
            if item.site == "stent":
                still = np.ptp(item.shape.cloud(0.3).points[:, :2], axis=0).sum()
                on_rca = item.shape.curve is draw.courses["RCA"]
                moved.setdefault(on_rca, []).append(np.ptp(cloud.points[:, :2], axis=0).sum() - still)
    assert min(moved[True]) > 4
    assert max(moved[False]) < 1
