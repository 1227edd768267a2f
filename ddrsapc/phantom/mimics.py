"""What is as bright as coronary calcium and is none: the same shapes at other places, and metal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.anatomy import Anatomy
from ddrsapc.phantom.frame import Ellipse
from ddrsapc.phantom.lesions import draw_density, draw_volume
from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.tubes import Curve, smooth_curve
from ddrsapc.phantom.vessels import Arc, Ball, Deposit, Tube, aorta_curve

__all__ = ["SITES", "draw_mimics"]

SITES = ("aortic wall", "aortic valve", "mitral annulus", "lymph node", "pericardium", "stent", "lead")
_NODES = (
    (-46, 34, 48),
    (-32, 52, 36),
    (18, 46, 50),
    (26, 50, 38),
    (-26, 20, 62),
    (4, 40, 56),
    (-60, 40, 30),
    (40, 52, 24),
)


def draw_mimics(
    parameters: PhantomParameters,
    placement: Placement,
    anatomy: Anatomy,
    courses: Mapping[str, Curve],
    rng: np.random.Generator,
) -> tuple[Deposit, ...]:
    """All of a case that is no coronary calcium, label 0."""
    p = parameters
    chances = rng.random(7)  # one each, so that one rate does not change what another draws
    found: list[Deposit] = []
    if chances[0] < p.aortic_wall_rate:
        found += _aortic_wall(p, placement, anatomy, courses["RCA"], rng)
    if chances[1] < p.aortic_valve_rate:
        found += _aortic_valve(p, placement, anatomy, rng)
    if chances[2] < p.mitral_annulus_rate:
        found += _mitral_annulus(p, courses["LCX"], placement, rng)
    if chances[3] < p.lymph_node_rate:
        found += _lymph_nodes(p, placement, rng)
    if chances[4] < p.pericardium_rate:
        found += _pericardium(p, placement, anatomy, rng)
    if chances[5] < p.stent_rate:
        found.append(_stent(p, courses, rng))
    if chances[6] < p.lead_rate:
        points = [
            (-43, 12, 75),
            (-44, 10, 45),
            (-46, 0, 22),
            (-40, -8, 2),
            (-18, -20, -14),
            (8, -32, -28),
            (26, -36, -36),
        ]
        points_moved = np.array(points, float) + rng.uniform(*p.lead_jitter, (len(points), 3))
        curve = smooth_curve(placement.to_scan(points_moved))
        found.append(Deposit("lead", 0, Tube(curve, rng.uniform(*p.lead_radius)), 2 * p.metal_density))
    return tuple(found)


def _aortic_wall(
    p: PhantomParameters, placement: Placement, anatomy: Anatomy, rca: Curve, rng: np.random.Generator
) -> list[Deposit]:
    volume = draw_volume(p, "aortic_wall", rng)
    curves = {
        "aorta": aorta_curve(anatomy, placement, "aorta", 18, 72),
        "descending_aorta": aorta_curve(anatomy, placement, "descending_aorta", -72, 72),
    }
    found: list[Deposit] = []
    for _ in range(p.most_pieces):
        if volume < 5 and found:
            break
        if rng.random() < p.ostium_rate:
            arc = _at_ostium(p, curves["aorta"], rca, rng)
        else:
            name = "aorta" if rng.random() < p.ascending_rate else "descending_aorta"
            curve = curves[name]
            length = min(rng.uniform(*p.aortic_wall_length), max(volume, 20) / 12, 0.9 * curve.length)
            start = rng.uniform(0, curve.length - length)
            around = rng.uniform(0, 2 * math.pi)
            wall = _wall(anatomy, placement, name, curve, along=start + length / 2, angle=around)
            _, angle, radius = _spoke(curve, wall)
            arc = Arc(
                curve=curve,
                start=start,
                length=length,
                radius=radius - 1,
                thickness=rng.uniform(*p.aortic_wall_thickness),
                middle=angle,
                span=min(rng.uniform(*p.aortic_wall_span), max(volume, 20) / 12) / radius,
            )
        found.append(Deposit("aortic wall", 0, arc, draw_density(p, rng)))
        volume -= arc.volume
    return found


def _wall(
    anatomy: Anatomy, placement: Placement, name: str, curve: Curve, *, along: float, angle: float
) -> NDArray[np.float64]:
    """A point (3,) of an aorta's wall in the scan, at mm along its middle line and at an angle in the heart's frame."""
    z = (float(curve.place(np.array([along]))[0][0, 2]) - placement.shift[2]) / placement.scale
    ellipse = anatomy.structures[name].at(z) or Ellipse(0, 0, 13, 13)
    turn = math.radians(ellipse.turn)
    u, v = ellipse.a * math.cos(angle), ellipse.b * math.sin(angle)
    x, y = u * math.cos(turn) - v * math.sin(turn), u * math.sin(turn) + v * math.cos(turn)
    return placement.to_scan(np.array([[ellipse.x + x, ellipse.y + y, z]]))[0]


def _spoke(curve: Curve, point: NDArray[np.float64]) -> tuple[int, float, float]:
    """From a curve to a point (3,): the nearest of the curve's points, the angle around it and the distance in mm."""
    nearest = int(((curve.points - point) ** 2).sum(1).argmin())
    spoke = point - curve.points[nearest]
    angle = math.atan2(float(spoke @ curve.across[1][nearest]), float(spoke @ curve.across[0][nearest]))
    return nearest, angle, math.sqrt(float(spoke @ spoke))


def _at_ostium(p: PhantomParameters, curve: Curve, rca: Curve, rng: np.random.Generator) -> Arc:
    """A small arc of the aortic wall whose middle is some mm from the right coronary artery's ostium."""
    nearest, angle, radius = _spoke(curve, rca.points[0])  # through the ostium, whatever the wall's own radius
    distance, way = rng.uniform(*p.ostium_distance), rng.uniform(0, math.pi)  # upwards: the curve ends below
    length, span = rng.uniform(*p.ostium_length), rng.uniform(*p.ostium_span) / radius
    middle = nearest * curve.step + distance * math.sin(way)
    start = min(max(middle - length / 2, 0.0), curve.length - length)
    return Arc(
        curve=curve,
        start=start,
        length=length,
        radius=radius - 0.5,
        thickness=rng.uniform(*p.ostium_thickness),
        middle=angle + distance * math.cos(way) / radius,
        span=span,
    )


def _aortic_valve(
    p: PhantomParameters, placement: Placement, anatomy: Anatomy, rng: np.random.Generator
) -> list[Deposit]:
    volume = min(draw_volume(p, "aortic_valve", rng), p.aortic_valve_most)
    found: list[Deposit] = []
    for _ in range(p.most_pieces):
        z = rng.uniform(*p.aortic_valve_level)
        ellipse = anatomy.structures["aorta"].at(z)
        if ellipse is None or (volume < 5 and found):
            break
        angle, part = rng.uniform(0, 2 * math.pi), rng.uniform(*p.aortic_valve_place)
        place = (ellipse.x + part * ellipse.a * math.cos(angle), ellipse.y + part * ellipse.b * math.sin(angle), z)
        size = min(rng.uniform(*p.aortic_valve_size), max(volume, 10) ** (1 / 3) * 0.6)
        half = (
            size * rng.uniform(*p.aortic_valve_width),
            size * rng.uniform(*p.aortic_valve_width),
            size * rng.uniform(*p.aortic_valve_height),
        )
        found.append(_ball("aortic valve", placement, place, half, draw_density(p, rng)))
        volume -= found[-1].volume_mm3
    return found


def _mitral_annulus(p: PhantomParameters, lcx: Curve, placement: Placement, rng: np.random.Generator) -> list[Deposit]:
    """Along the groove of the LCX, moved some mm towards the ventricle's middle."""
    target = placement.to_scan(np.array([[20.0, 14.0, 4.0]]))[0]
    part = lcx.points[int(0.35 * len(lcx.points)) : int(0.95 * len(lcx.points))]
    inwards = target - part
    inwards /= np.sqrt((inwards * inwards).sum(1))[:, None]
    curve = smooth_curve((part + inwards * rng.uniform(*p.mitral_annulus_distance))[::6])
    volume = draw_volume(p, "mitral_annulus", rng)
    found: list[Deposit] = []
    for _ in range(p.most_pieces):
        if volume < 5 and found:
            break
        length = min(rng.uniform(*p.mitral_annulus_length), max(volume, 20) / 10, 0.9 * curve.length)
        arc = Arc(
            curve=curve,
            start=rng.uniform(0, curve.length - length),
            length=length,
            radius=rng.uniform(*p.mitral_annulus_radius),
            thickness=rng.uniform(*p.mitral_annulus_thickness),
            middle=rng.uniform(0, 2 * math.pi),
            span=math.radians(rng.uniform(*p.mitral_annulus_arc)),
        )
        found.append(Deposit("mitral annulus", 0, arc, draw_density(p, rng)))
        volume -= arc.volume
    return found


def _lymph_nodes(p: PhantomParameters, placement: Placement, rng: np.random.Generator) -> list[Deposit]:
    found = []
    for _ in range(1 + int(p.lymph_nodes * rng.random())):
        place = np.array(_NODES[int(len(_NODES) * rng.random())], float) + rng.uniform(*p.lymph_node_jitter, 3)
        size = rng.uniform(*p.lymph_node_size)
        half = (size * rng.uniform(*p.lymph_node_width), size, size * rng.uniform(*p.lymph_node_width))
        found.append(_ball("lymph node", placement, tuple(place), half, draw_density(p, rng)))
    return found


def _pericardium(
    p: PhantomParameters, placement: Placement, anatomy: Anatomy, rng: np.random.Generator
) -> list[Deposit]:
    found = []
    for _ in range(1 + int(p.pericardium_cords * rng.random())):
        z, angle = rng.uniform(*p.pericardium_level), rng.uniform(0, 2 * math.pi)
        span = rng.uniform(*p.pericardium_arc)
        ellipse = anatomy.structures["heart"].at(z)
        if ellipse is None:
            continue
        around = np.linspace(angle, angle + span, 8)
        points = np.stack(
            [
                ellipse.x + ellipse.a * np.cos(around),
                ellipse.y + ellipse.b * np.sin(around),
                z + 6 * np.sin(2 * around),
            ],
            axis=1,
        )
        curve = smooth_curve(placement.to_scan(points))
        found.append(Deposit("pericardium", 0, Tube(curve, rng.uniform(*p.pericardium_radius)), draw_density(p, rng)))
    return found


def _stent(p: PhantomParameters, courses: Mapping[str, Curve], rng: np.random.Generator) -> Deposit:
    curve = courses[("LAD", "LCX", "RCA")[int(3 * rng.random())]]
    length = min(rng.uniform(*p.stent_length), 0.8 * curve.length)
    start = rng.uniform(*p.stent_place) * (curve.length - length)
    radius = rng.uniform(*p.lumen_radius)
    arc = Arc(
        curve=curve, start=start, length=length, radius=radius, thickness=p.stent_thickness, middle=0, span=2 * math.pi
    )
    return Deposit("stent", 0, arc, p.metal_density)


def _ball(
    site: str,
    placement: Placement,
    place: tuple[float, ...],
    half_axes: tuple[float, float, float],
    density: float,
) -> Deposit:
    x, y, z = (float(value) for value in placement.to_scan(np.array([place], float))[0])
    return Deposit(site, 0, Ball((x, y, z), half_axes), density)
