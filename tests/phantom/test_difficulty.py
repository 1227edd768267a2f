"""Neither trivial nor hopeless."""

import numpy as np
import pytest

from ddrsapc.phantom import draw_case
from ddrsapc.phantom.canvas import Canvas
from ddrsapc.phantom.draws import slice_of_item
from ddrsapc.phantom.render import render_slice


@pytest.fixture(scope="module")
def slices():
    """HU, labels and the heart's inside of slices through calcium, where there is some."""
    found = []
    for index in range(40):
        draw = draw_case(0, index, split="test", size=256)
        z = slice_of_item(draw, 1.0)
        rendered, canvas = render_slice(draw, z), Canvas(draw.placement, z, np.zeros((256, 256), np.float32))
        heart = np.zeros(rendered.hu.shape, bool)
        ellipse = draw.anatomy.structures["heart"].at(canvas.z)
        if ellipse is not None and (depth := canvas.depth(ellipse.grown(5))) is not None:  # with the arteries on it
            heart[depth[0]] = depth[1] > 0
        found.append((rendered.hu, rendered.labels, heart, draw.anatomy.values["blood"] > 100))
    return found


def iou(slices):
    both = sum(((hu >= 130) & heart & (labels > 0)).sum() for hu, labels, heart, _ in slices)
    either = sum((((hu >= 130) & heart) | (labels > 0)).sum() for hu, labels, heart, _ in slices)
    return both / either


def test_a_threshold_in_the_heart_does_not_do(slices):
    assert iou(slices) < 0.4
    assert iou([item for item in slices if not item[3]]) < 0.7  # without contrast, any vessel


def test_calcium_is_rare_and_mostly_inside_the_heart(slices):
    fraction = np.array([(labels > 0).mean() for _, labels, _, _ in slices])
    assert 1e-5 < np.median(fraction[fraction > 0]) < 6e-4
    inside = sum((heart & (labels > 0)).sum() for _, labels, heart, _ in slices)
    assert inside > 0.9 * sum((labels > 0).sum() for _, labels, _, _ in slices)
    assert all((np.concatenate([labels.ravel() for _, labels, _, _ in slices]) == c).any() for c in (1, 2, 3))
