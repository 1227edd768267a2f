"""Truth beside prediction."""

import numpy as np
import torch

from ddrsapc.report.comparison import ComparedSlice, comparison
from ddrsapc.report.overlay import PALETTE


def test_the_crop_lies_around_what_counts():
    truth = torch.zeros(512, 400, dtype=torch.uint8)
    prediction = truth.clone()
    truth[0:200, 0:200] = 255  # does not count
    truth[300, 200], prediction[310, 210] = 1, 2
    shown = ComparedSlice("p01[7]", torch.zeros(512, 400), truth, prediction)
    assert shown.pixels == (1, 1)
    picture = np.asarray(comparison(shown, ["none", "LAD", "LCX"], 288))
    left, top, side = 220, 36, 96 * 3  # rows 257 to 352, columns 157 to 252, enlarged 3 x
    assert picture.shape == (top + side + 12, left + 3 * (side + 12), 3)
    for i, (label, row, column) in enumerate(((1, 43, 43), (2, 53, 53)), 1):
        panel = picture[top : top + side, left + i * (side + 12) :][:, :side]
        where = np.argwhere((panel == PALETTE[label]).all(-1)) // 3
        assert np.unique(where, axis=0).tolist() == [[row, column]]
