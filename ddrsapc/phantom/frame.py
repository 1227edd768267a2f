"""The heart's frame: where things lie, in mm from its centroid, read off one CT angiogram (+-6 mm).

x grows to the patient's left, y to the back, z to the head. Tables go from caudal to cranial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["COURSES", "STRUCTURES", "Ellipse", "Structure"]


class Ellipse(NamedTuple):
    """In a slice: middle, half axes and the turn of the first from x towards y; mm and degrees."""

    x: float
    y: float
    a: float
    b: float
    turn: float = 0.0

    def grown(self, mm: float) -> Ellipse:
        """Its half axes longer by so many mm."""
        return self._replace(a=max(self.a + mm, 0.1), b=max(self.b + mm, 0.1))


@dataclass(frozen=True)
class Structure:
    """A stack of ellipses, interpolated between its levels, ending in round caps of `cap` mm."""

    levels: NDArray[np.float64]
    """(n, 6): z, x, y, a, b, turn; ascending z."""
    cap: float

    def at(self, z: float) -> Ellipse | None:
        """The ellipse at a level; None where there is nothing of it."""
        first, last = float(self.levels[0, 0]), float(self.levels[-1, 0])
        beyond = max(first - z, z - last, 0.0)
        if beyond >= self.cap:
            return None
        inside = min(max(z, first), last)
        high = min(max(int(np.searchsorted(self.levels[:, 0], inside)), 1), len(self.levels) - 1)
        low, up = self.levels[high - 1].tolist(), self.levels[high].tolist()
        part = (inside - low[0]) / (up[0] - low[0])
        x, y, a, b, turn = (p + part * (q - p) for p, q in zip(low[1:], up[1:], strict=True))
        shrink = (1 - (beyond / self.cap) ** 2) ** 0.5
        return Ellipse(x, y, a * shrink, b * shrink, turn)


def _structure(*levels: tuple[float, ...], cap: float = 6.0) -> Structure:
    rows = sorted((*level, *([0.0] * (6 - len(level)))) for level in levels)
    return Structure(np.array(rows, np.float64), cap)


STRUCTURES: dict[str, Structure] = {
    # the pericardial sac, fat and all, tilted: 143 mm high, 135 wide and 117 deep
    "heart": _structure(
        (-50, 30, -22, 26, 24, -20),
        (-42, 24, -14, 36, 33, -20),
        (-33, 16, -9, 54, 40, -20),
        (-24, 8, -7, 64, 45, -22),
        (-6, 0, -3, 64, 50, -24),
        (0, -2, 0, 64, 51, -22),
        (12, -6, 3, 60, 54, -15),
        (21, -8, 6, 56, 55, -8),
        (30, -11, 7, 51, 51),
        (39, -14, 8, 43, 47),
        (50, -16, 6, 34, 38),
        (70, -18, 8, 30, 34),
        cap=12,
    ),
    "left_ventricle": _structure(
        (-42, 30, -16, 25, 21, -30),
        (-33, 27, -8, 40, 30, -35),
        (-24, 28, -4, 44, 33, -35),
        (-12, 29, -2, 43, 34, -38),
        (0, 30, -2, 40, 33, -38),
        (12, 26, 8, 28, 28),
        (21, 24, 9, 20, 22),
        cap=8,
    ),
    "left_cavity": _structure(
        (-36, 28, -12, 18, 10, -38),
        (-24, 26, -6, 31, 18, -38),
        (-12, 26, -3, 31, 20, -38),
        (0, 26, -1, 29, 19, -38),
        (12, 18, 6, 18, 15),
        cap=7,
    ),
    "right_ventricle": _structure(
        (-42, 12, -33, 28, 14, -20),
        (-33, 14, -33, 42, 17, -20),
        (-24, 10, -32, 46, 18, -15),
        (-12, -4, -28, 48, 20, -10),
        (0, -4, -31, 50, 19),
        (12, 4, -34, 44, 16),
        (21, 14, -29, 27, 17, -15),
        (30, 17, -19, 15, 24, -15),
        (36, 14, -14, 15, 24, -15),
        (44, 10, -8, 14, 24),
        (52, 9, 3, 12, 22, -10),
    ),
    "pulmonary_trunk": _structure((52, -8, 24, 34, 10, -15), (60, -22, 28, 42, 10, -5), (66, -25, 28, 40, 9)),
    "right_atrium": _structure(
        (-33, -32, -3, 14, 19),
        (-24, -42, 0, 18, 27),
        (-12, -46, 0, 19, 32),
        (0, -46, -3, 20, 36),
        (12, -46, -11, 19, 32),
        (21, -46, -12, 18, 28),
        (30, -46, -12, 13, 24),
        (38, -43, -16, 8, 14),
    ),
    "superior_vena_cava": _structure((24, -48, 12, 10, 10), (44, -43, 12, 10, 10), (80, -36, 10, 11, 11)),
    "inferior_vena_cava": _structure((-80, -36, 20, 12, 12), (-45, -38, 20, 12, 12), (-24, -40, 28, 12, 12)),
    "left_atrium": _structure(
        (-8, -21, 34, 16, 15),
        (0, -20, 35, 31, 21),
        (12, -21, 37, 35, 22),
        (21, -21, 37, 35, 23),
        (30, -20, 36, 33, 22),
        (40, -24, 33, 24, 18),
    ),
    "left_appendage": _structure((26, 18, 27, 9, 12, 20), (42, 18, 29, 8, 11, 20)),
    "aorta": _structure(
        (8, -20, 2, 9, 9), (21, -12, 0, 17, 17), (30, -14, 0, 17, 17), (44, -16, 0, 15.5, 15.5), (80, -20, -2, 16, 16)
    ),
    "descending_aorta": _structure(
        (-80, 0, 50, 12, 12),
        (-42, 2, 54, 12.5, 12.5),
        (-24, 5, 57, 13, 13),
        (0, 13, 62, 13, 13),
        (40, 15, 63, 13, 13),
        (80, 14, 64, 13, 13),
    ),
    "oesophagus": _structure(
        (-80, 18, 22, 9, 7),
        (-42, 4, 36, 8, 6),
        (-24, -8, 44, 8, 6),
        (0, -8, 61, 9, 5),
        (21, -6, 63, 9, 4.5),
        (44, -6, 56, 8, 5),
        (80, -10, 50, 8, 6),
    ),
    "left_bronchus": _structure((46, 12, 46, 11, 6, 10), (56, -8, 44, 18, 7, 5), (62, -14, 42, 8, 7)),
    "right_bronchus": _structure((46, -46, 44, 10, 6, -10), (56, -34, 43, 15, 7, -5), (62, -24, 42, 8, 7)),
    "liver": _structure(
        (-85, -52, 8, 98, 84, 0),
        (-60, -56, 6, 90, 78, 0),
        (-48, -58, 2, 80, 70, 0),
        (-40, -62, 0, 64, 58, 0),
        (-33, -70, 0, 44, 40, 0),
        (-28, -76, 0, 24, 22, 0),
        cap=5,
    ),
    "left_dome": _structure(
        (-85, 58, 34, 62, 58), (-60, 58, 33, 50, 46), (-50, 56, 32, 36, 34), (-45, 54, 32, 20, 20), cap=4
    ),
    "spleen": _structure((-85, 84, 62, 26, 36, 25), (-60, 78, 60, 17, 27, 25), (-52, 74, 58, 9, 16, 25), cap=4),
}

COURSES: dict[str, NDArray[np.float64]] = {
    # x, y, z of the centrelines from the ostium on
    "LM": np.array([(2, 10, 35), (8, 11, 33.5), (14, 10, 32)], float),
    "LAD": np.array(
        [
            (14, 10, 32),
            (28, 3, 30),
            (38, -5, 26),
            (44, -22, 17),
            (47, -33, 5),
            (50, -40, -10),
            (48, -42, -30),
            (46, -40, -45),
        ],
        float,
    ),
    "LCX": np.array(
        [
            (14, 10, 32),
            (12, 13, 31),
            (10, 24, 26),
            (15, 33, 19),
            (18, 34, 10),
            (20, 40, 4),
            (28, 42, -4),
            (38, 36, -12),
        ],
        float,
    ),
    "RCA": np.array(
        [
            (-16, -17, 26),
            (-18, -24, 26),
            (-26, -34, 22),
            (-35, -36, 12),
            (-38, -36, 0),
            (-36, -34, -12),
            (-32, -26, -22),
            (-22, -4, -30),
            (-14, 14, -33),
        ],
        float,
    ),
}
"""Of the right coronary artery the first point is on the root's wall."""
