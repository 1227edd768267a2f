"""The courses of the coronary arteries, and the shapes that lie along them or elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.anatomy import Anatomy
from ddrsapc.phantom.frame import COURSES, Structure
from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.tubes import Cloud, Curve, arc_cloud, arc_volume, ball_cloud, smooth_curve, tube_cloud

__all__ = ["Arc", "Ball", "Deposit", "Shape", "Tube", "aorta_curve", "draw_courses"]


_SAC_MM = 1.5  # that the arteries' middle stays away from the pericardium


def draw_courses(
    parameters: PhantomParameters, placement: Placement, anatomy: Anatomy, rng: np.random.Generator
) -> dict[str, Curve]:
    """The centrelines in the scan's mm: the frame's, moved smoothly, within the sac. LAD and LCX begin at LM's end."""
    moves = {name: _smooth_moves(len(points), parameters, rng) for name, points in COURSES.items()}
    moved_points = []
    for name, points in COURSES.items():
        moved = points + moves[name]
        if name in ("LAD", "LCX"):
            moved[0] = COURSES["LM"][-1] + moves["LM"][-1]
        if name == "LM":
            moved[0] = points[0]  # the ostium is on the aorta
        if name == "RCA":
            moved[:2] = points[:2]
        moved_points.append(_in_sac(moved, anatomy.structures["heart"]))
    ends = np.cumsum([len(points) for points in moved_points])[:-1]
    in_scan = np.split(placement.to_scan(np.concatenate(moved_points)), ends)
    return {name: smooth_curve(points) for name, points in zip(COURSES, in_scan, strict=True)}


def _smooth_moves(count: int, parameters: PhantomParameters, rng: np.random.Generator) -> NDArray[np.float64]:
    moves = rng.uniform(*parameters.vessel_jitter, (count, 3))
    ends = np.concatenate([moves[:1], moves, moves[-1:]])
    return 0.25 * ends[:-2] + 0.5 * ends[1:-1] + 0.25 * ends[2:]


def _in_sac(points: NDArray[np.float64], heart: Structure) -> NDArray[np.float64]:
    """Points (n, 3) of the frame, those outside the sac moved straight towards its middle."""
    inside = points.copy()
    for point in inside:
        sac = heart.at(float(point[2]))
        if sac is not None:
            sac = sac.grown(-_SAC_MM)
            cos, sin = math.cos(math.radians(sac.turn)), math.sin(math.radians(sac.turn))
            x, y = float(point[0]) - sac.x, float(point[1]) - sac.y
            part = math.hypot((cos * x + sin * y) / sac.a, (cos * y - sin * x) / sac.b)
            if part > 1:
                point[:2] = sac.x + x / part, sac.y + y / part
    return inside


def aorta_curve(anatomy: Anatomy, placement: Placement, name: str, low: float, high: float) -> Curve:
    """The middle line of "aorta" or "descending_aorta" between two levels of the frame, in the scan's mm."""
    ellipses = [(z, anatomy.structures[name].at(z)) for z in np.arange(low, high + 1e-6, 9.0)]
    return smooth_curve(placement.to_scan(np.array([(e.x, e.y, z) for z, e in ellipses if e is not None])))


class Shape(Protocol):
    """Something with a volume in the scan."""

    @property
    def volume(self) -> float:
        """In mm3."""
        ...

    @property
    def z_range(self) -> tuple[float, float]:
        """What it lies between, the scan's mm."""
        ...

    def cloud(self, step: float, between: tuple[float, float] | None = None) -> Cloud:
        """It as points, about `step` mm apart; those outside two levels of z may be left out."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Arc:
    """A shell outside a vessel's lumen, along a part of it; see `arc_cloud`."""

    curve: Curve
    """The vessel's middle line."""
    start: float
    """mm along the curve."""
    length: float
    """mm along the curve."""
    radius: float
    """Inner, mm."""
    thickness: float
    """Largest, mm."""
    middle: float
    """Angle around the curve, radians."""
    span: float
    """Angle that it covers, radians."""

    @property
    def volume(self) -> float:
        """In mm3."""
        return arc_volume(length=self.length, radius=self.radius, thickness=self.thickness, span=self.span)

    @property
    def z_range(self) -> tuple[float, float]:
        """What it lies between, the scan's mm."""
        first, last = math.floor(self.start / self.curve.step), math.ceil((self.start + self.length) / self.curve.step)
        z = self.curve.points[max(first, 0) : last + 1, 2]
        reach = self.radius + self.thickness
        return float(z.min()) - reach, float(z.max()) + reach

    def cloud(self, step: float, between: tuple[float, float] | None = None) -> Cloud:
        """It as points, about `step` mm apart; those outside two levels of z may be left out."""
        return arc_cloud(
            self.curve,
            start=self.start,
            length=self.length,
            radius=self.radius,
            thickness=self.thickness,
            middle=self.middle,
            span=self.span,
            step=step,
            between=between,
        )


@dataclass(frozen=True, eq=False)
class Ball:
    """An ellipsoid along the scan's axes."""

    middle: tuple[float, float, float]
    """x, y and z in mm of the scan."""
    half_axes: tuple[float, float, float]
    """Along x, y and z, mm."""

    @property
    def volume(self) -> float:
        """In mm3."""
        return 4 / 3 * math.pi * self.half_axes[0] * self.half_axes[1] * self.half_axes[2]

    @property
    def z_range(self) -> tuple[float, float]:
        """What it lies between, the scan's mm."""
        return self.middle[2] - self.half_axes[2], self.middle[2] + self.half_axes[2]

    def cloud(self, step: float, between: tuple[float, float] | None = None) -> Cloud:
        """It as points, about `step` mm apart."""
        del between  # small: all are made
        return ball_cloud(self.middle, self.half_axes, step)


@dataclass(frozen=True, eq=False)
class Tube:
    """A full tube along a whole curve."""

    curve: Curve
    """Its middle line."""
    radius: float
    """mm."""

    @property
    def volume(self) -> float:
        """In mm3."""
        return math.pi * self.radius**2 * self.curve.length

    @property
    def z_range(self) -> tuple[float, float]:
        """What it lies between, the scan's mm."""
        z = self.curve.points[:, 2]
        return float(z.min()) - self.radius, float(z.max()) + self.radius

    def cloud(self, step: float, between: tuple[float, float] | None = None) -> Cloud:
        """It as points, about `step` mm apart; those outside two levels of z may be left out."""
        del between
        return tube_cloud(self.curve, self.radius, step)


@dataclass(frozen=True, eq=False)
class Deposit:
    """Calcium (or metal) of one shape."""

    site: str
    """Where: "LM", "LAD", "LCX", "RCA", or what is no coronary calcium: "aortic wall", "stent", ..."""
    label: int
    """1 LAD with LM, 2 LCX, 3 RCA, 0 for all that is no coronary calcium."""
    shape: Shape
    density: float
    """mg/ml of hydroxyapatite; of metal what is as bright."""

    @property
    def volume_mm3(self) -> float:
        """Of the shape."""
        return self.shape.volume

    @property
    def mass_mg(self) -> float:
        """Volume times density."""
        return self.volume_mm3 * self.density / 1000
