"""Where the arteries run."""

import pytest

from ddrsapc.phantom import draw_case
from tests.phantom.depths import depth_at


@pytest.mark.parametrize("name", ["LM", "LAD", "LCX", "RCA"])
def test_the_arteries_run_within_the_pericardium(name):
    depths = [
        depth_at(draw, "heart", point)
        for draw in (draw_case(0, index, split="test", size=256) for index in range(12))
        for point in draw.courses[name].points[::12]
    ]
    seen = [depth for depth in depths if depth is not None]
    assert len(seen) > 20
    assert min(seen) > -1.5, min(seen)  # the curve between the points that are held inside, and a slice's thickness
