"""A slice that anatomy is painted on: soft ellipses in the heart's frame, and fields of texture.

Only sums, products, quotients and square roots are taken of float32 arrays: these are the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.frame import Ellipse
from ddrsapc.phantom.placement import Placement

__all__ = ["Canvas", "soft"]

Array = NDArray[np.float32]
Box = tuple[slice, slice]
_GRID_MM = 1.8


class Canvas:
    """HU of a slice in the making, with the frame's coordinates.

    Args:
        placement: of the scan.
        index: of the slice.
        fine: (H, W), texture of SD about 1.
    """

    def __init__(self, placement: Placement, index: int, fine: Array) -> None:
        self.placement = placement
        self.fine = fine
        self.z = placement.frame_z(index)
        self.every = min(max(int(_GRID_MM / placement.pixel_mm), 1), 4)
        """Pixels between the places at which the frame's coordinates are known; what is between is interpolated."""
        places = np.arange(0, placement.size - 1 + self.every, self.every, dtype=np.float64)
        self.x, self.y = placement.frame_grid(index, places)  # (n, n) each
        self.hu: Array = np.full((placement.size, placement.size), -1000, np.float32)  # (H, W)

    def box(self, ellipse: Ellipse, margin: float = 3.0) -> Box | None:
        """The rows and columns that an ellipse can reach; None if it is outside the image."""
        column, row = self.placement.pixels(ellipse.x, ellipse.y, self.z)
        turn = math.radians(ellipse.turn) + self.placement.turn
        cos, sin = math.cos(turn), math.sin(turn)
        grown = margin + min(self.placement.most_deformed, 1.5 + 0.4 * max(ellipse.a, ellipse.b))
        per_mm = self.placement.scale / self.placement.pixel_mm
        half_x = (math.hypot(ellipse.a * cos, ellipse.b * sin) + grown) * per_mm
        half_y = (math.hypot(ellipse.a * sin, ellipse.b * cos) + grown) * per_mm
        top, bottom = max(0, math.floor(row - half_y)), min(len(self.hu), math.ceil(row + half_y) + 1)
        left, right = max(0, math.floor(column - half_x)), min(len(self.hu), math.ceil(column + half_x) + 1)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def depth(self, ellipse: Ellipse | None, margin: float = 3.0) -> tuple[Box, Array] | None:
        """How deep pixels lie inside an ellipse, in the frame's mm, negative outside; in its box."""
        if ellipse is None or (box := self.box(ellipse, margin)) is None:
            return None
        coarse = self.coarse(box)
        cos, sin = math.cos(math.radians(ellipse.turn)), math.sin(math.radians(ellipse.turn))
        x, y = self.x[coarse] - np.float32(ellipse.x), self.y[coarse] - np.float32(ellipse.y)
        u = np.float32(cos / ellipse.a) * x + np.float32(sin / ellipse.a) * y
        v = np.float32(cos / ellipse.b) * y - np.float32(sin / ellipse.b) * x
        u *= u
        v *= v
        # to first order: (1 - q ** 2) over twice the slope of q
        slope = np.float32(4 / ellipse.a**2) * u + np.float32(4 / ellipse.b**2) * v
        depth = (1 - (u + v)) / np.sqrt(slope + np.float32(1e-6))
        return box, self.between(depth, box)

    def coarse(self, box: Box) -> Box:
        """Where the coarse coordinates of a box are, that it is interpolated from."""
        rows, columns = box
        every = self.every
        return (
            slice(rows.start // every, -(-rows.stop // every) + 1),
            slice(columns.start // every, -(-columns.stop // every) + 1),
        )

    def between(self, values: Array, box: Box) -> Array:
        """Coarse values of a box at its pixels, bilinearly."""
        rows, columns = box
        every = self.every
        if every > 1:
            down = np.empty((every * (len(values) - 1), values.shape[1]), np.float32)
            step = values[1:] - values[:-1]
            for k in range(every):
                down[k::every] = values[:-1] + np.float32(k / every) * step
            values = np.empty((len(down), every * (down.shape[1] - 1)), np.float32)
            first, step = down[:, :-1], down[:, 1:] - down[:, :-1]
            for k in range(every):
                values[:, k::every] = first + np.float32(k / every) * step
        top, left = rows.start - rows.start // every * every, columns.start - columns.start // every * every
        return values[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]

    def covered_by(self, ellipse: Ellipse) -> bool:
        """Whether the whole image is inside an ellipse."""
        x, y = self.x[::4, ::4] - np.float32(ellipse.x), self.y[::4, ::4] - np.float32(ellipse.y)
        return bool((x * x / np.float32(ellipse.a**2) + y * y / np.float32(ellipse.b**2)).max() < 0.9)

    def paint(self, box: Box, cover: Array, value: float | Array) -> None:
        """Lay a value over a box; cover, in [0, 1], says how much of each pixel."""
        part = self.hu[box]
        part += cover * (value - part)

    def fill(self, ellipse: Ellipse | None, value: float | Array, edge: float = 1.0, *, grain: float = 0.0) -> None:
        """Paint an ellipse whose edge is `edge` mm soft; a value per pixel is (H, W), `grain` HU of texture."""
        found = self.depth(ellipse)
        if found is not None:
            box, depth = found
            inside = value[box] if isinstance(value, np.ndarray) else np.float32(value)
            self.paint(box, soft(depth, edge), inside + np.float32(grain) * self.fine[box] if grain else inside)


def soft(depth: Array, edge: float) -> Array:
    """Cover by depth: 0 outside, 1 inside, linear over `edge` mm."""
    cover = depth * np.float32(1 / edge)
    cover += np.float32(0.5)
    np.clip(cover, 0, 1, out=cover)
    return cover
