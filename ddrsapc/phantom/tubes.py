"""Curves in space, and clouds of points with volumes that fill tubes and arcs along them.

A cloud is how small things are rasterised: every point gives its volume to the voxel that it lies in. That is the
average over the voxel's box (pixel and slice profile), and it keeps the volume to the last digit. Per pixel and axis
there are 2.5 points or more for deposits, 1.4 for the arteries, fewer for the vessels of the lung: these have grain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cloud", "Curve", "arc_cloud", "arc_volume", "ball_cloud", "smooth_curve", "tube_cloud"]

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points and the volume that each stands for."""

    points: Points
    """(n, 3): x, y, z in mm of the scan."""
    volumes: NDArray[np.float64]
    """(n,) mm3."""

    def moved(self, offsets: Points) -> Cloud:
        """Its mean over offsets (m, 3): what moves during the scan."""
        points = (self.points[None] + offsets[:, None]).reshape(-1, 3)
        return Cloud(points, np.tile(self.volumes / len(offsets), len(offsets)))


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve by its points, evenly spaced, with the two directions across it."""

    points: Points
    """(n, 3) mm of the scan."""
    step: float
    """mm between points."""
    across: tuple[Points, Points]
    """Two unit vectors (n, 3) at right angles to the curve and each other."""

    @property
    def length(self) -> float:
        """In mm."""
        return self.step * (len(self.points) - 1)

    def place(self, along: NDArray[np.float64]) -> tuple[Points, Points, Points]:
        """Points (m, 3) and the directions across, at lengths (m,) in mm along the curve."""
        index = np.clip(along / self.step, 0, len(self.points) - 1)
        low = np.minimum(index.astype(np.int64), max(len(self.points) - 2, 0))
        high = np.minimum(low + 1, len(self.points) - 1)
        part = (index - low)[:, None]
        points = self.points[low] * (1 - part) + self.points[high] * part
        return points, self.across[0][low], self.across[1][low]


def smooth_curve(points: Points, step: float = 0.5) -> Curve:
    """A smooth curve through points (n, 3), n >= 2, sampled evenly (Catmull-Rom)."""
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 16, endpoint=False)[:, None]
    p, q, r, s = ends[:-3, None], ends[1:-2, None], ends[2:-1, None], ends[3:, None]  # (n - 1, 1, 3) each
    pieces = 0.5 * (2 * q + t * ((r - p) + t * ((2 * p - 5 * q + 4 * r - s) + t * (3 * q - p - 3 * r + s))))
    dense = np.concatenate([pieces.reshape(-1, 3), points[-1:]])
    lengths = np.concatenate([[0.0], np.cumsum(np.sqrt(((dense[1:] - dense[:-1]) ** 2).sum(1)))])
    count = max(2, round(lengths[-1] / step) + 1)
    where = np.linspace(0, lengths[-1], count)
    even = np.stack([np.interp(where, lengths, dense[:, axis]) for axis in range(3)], axis=1)
    return Curve(even, float(lengths[-1] / (count - 1)), _across(even))


def _across(points: Points) -> tuple[Points, Points]:
    ahead = np.concatenate([points[1:], 2 * points[-1:] - points[-2:-1]])
    behind = np.concatenate([2 * points[:1] - points[1:2], points[:-1]])
    tangent = ahead - behind
    tangent /= np.sqrt((tangent * tangent).sum(1))[:, None]
    # the axis that no piece of the curve runs along
    axis = np.zeros(3)
    axis[int(np.abs(tangent).max(0).argmin())] = 1
    first = np.stack([
        tangent[:, 1] * axis[2] - tangent[:, 2] * axis[1],
        tangent[:, 2] * axis[0] - tangent[:, 0] * axis[2],
        tangent[:, 0] * axis[1] - tangent[:, 1] * axis[0],
    ], axis=1)  # fmt: skip
    first /= np.sqrt((first * first).sum(1))[:, None]
    second = np.stack([
        tangent[:, 1] * first[:, 2] - tangent[:, 2] * first[:, 1],
        tangent[:, 2] * first[:, 0] - tangent[:, 0] * first[:, 2],
        tangent[:, 0] * first[:, 1] - tangent[:, 1] * first[:, 0],
    ], axis=1)  # fmt: skip
    return first, second


def arc_cloud(
    curve: Curve,
    *,
    start: float,
    length: float,
    radius: float,
    thickness: float,
    middle: float,
    span: float,
    step: float,
    between: tuple[float, float] | None = None,
) -> Cloud:
    """A shell outside `radius` around a part of a curve, over a part of the circle, thinner towards its ends.

    Args:
        curve: its middle line.
        start: where along the curve it begins, mm.
        length: along the curve, mm.
        radius: inner, mm.
        thickness: largest, mm.
        middle: angle of its middle around the curve, radians.
        span: angle that it covers, radians.
        step: mm between points, about.
        between: two levels of z in mm; points outside may be left out.
    """
    tau = _cells(length, step)  # (t,) in (0, 1)
    count = len(tau)
    if between is not None:
        z = curve.place(start + length * tau)[0][:, 2]
        far = radius + thickness
        tau = tau[(z > between[0] - far) & (z < between[1] + far)]
    angle = _cells(span * (radius + thickness / 2), step)  # (a,)
    depth = _cells(thickness, step)  # (r,)
    shape = taper(tau)[:, None] * taper(angle)[None, :]  # (t, a)
    thick = thickness * shape  # (t, a)
    r = radius + thick[..., None] * depth  # (t, a, r)
    volume = (
        (length / count) * (span / len(angle)) * (thick / len(depth))[..., None] * r
    )  # (t, a, r), dt dangle dr times r
    around = middle + span * (angle - 0.5)  # (a,)
    points, first, second = curve.place(start + length * tau)  # (t, 3)
    cos, sin = np.cos(around)[None, :, None], np.sin(around)[None, :, None]
    outwards = cos * first[:, None] + sin * second[:, None]  # (t, a, 3)
    places = points[:, None, None] + r[..., None] * outwards[:, :, None]  # (t, a, r, 3)
    return Cloud(places.reshape(-1, 3), volume.reshape(-1))


def taper(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """How thick an arc is at parts in (0, 1) of its length or span: 1 in the middle, 0.35 at the ends."""
    off = 2 * part - 1
    return 1 - 0.65 * off**4


def arc_volume(*, length: float, radius: float, thickness: float, span: float) -> float:
    """The volume in mm3 of an `arc_cloud`, without making it."""
    # the means of taper and its square along an axis
    mean, square = 1 - 0.65 / 5, 1 - 2 * 0.65 / 5 + 0.65**2 / 9
    return span * length * (radius * thickness * mean**2 + thickness**2 * square**2 / 2)


def tube_cloud(curve: Curve, radii: NDArray[np.float64] | float, step: float) -> Cloud:
    """A full tube along a whole curve.

    Args:
        curve: its middle line.
        radii: mm, one or one for each point of the curve.
        step: mm between points, about.
    """
    radius = np.broadcast_to(np.asarray(radii, np.float64), (len(curve.points),))
    largest = float(radius.max())
    every = max(1, round(step / curve.step))
    chosen = np.arange(0, len(curve.points), every)
    rings = max(1, math.ceil(largest / step))
    disc, area = _disc(rings, largest / step)  # (k, 2), (k,) of the unit disc
    scaled = radius[chosen, None, None] * disc  # (n, k, 2)
    first, second = curve.across[0][chosen, None], curve.across[1][chosen, None]  # (n, 1, 3)
    places = curve.points[chosen, None] + scaled[..., :1] * first + scaled[..., 1:] * second
    volumes = area * (radius[chosen, None] ** 2) * (curve.step * every)  # (n, k)
    return Cloud(places.reshape(-1, 3), volumes.reshape(-1))


def _disc(rings: int, steps: float) -> tuple[Points, NDArray[np.float64]]:
    """Points (k, 2) of the unit disc on rings around one in the middle, and their areas (k,); `steps` per radius."""
    places, areas = [np.zeros((1, 2))], [np.array([math.pi * (0.5 / rings) ** 2])]
    for ring in range(1, rings + 1):
        low, high = (ring - 0.5) / rings, min((ring + 0.5) / rings, 1.0)
        count = max(6, math.ceil(2 * math.pi * ring / rings * steps))
        angle = 2 * math.pi * (np.arange(count) + 0.5 * (ring % 2)) / count
        places.append((low + high) / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
        areas.append(np.full(count, math.pi * (high**2 - low**2) / count))
    return np.concatenate(places), np.concatenate(areas)


def ball_cloud(middle: tuple[float, float, float], half_axes: tuple[float, float, float], step: float) -> Cloud:
    """An ellipsoid, x, y and z in mm of the scan; its volume is exact."""
    axes = [_cells(2 * half, step) * 2 - 1 for half in half_axes]
    x, y, z = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    inside = x * x + y * y + z * z <= 1
    points = np.stack([x, y, z], axis=1)[inside] * np.array(half_axes) + np.array(middle)
    volume = 4 / 3 * math.pi * half_axes[0] * half_axes[1] * half_axes[2]
    return Cloud(points, np.full(len(points), volume / len(points)))


def _cells(length: float, step: float) -> NDArray[np.float64]:
    """The middles of cells of [0, 1], so many that they are about `step` long over `length`."""
    count = max(2, math.ceil(length / step))
    return (np.arange(count) + 0.5) / count
