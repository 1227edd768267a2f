"""The heart, the great vessels and the mediastinum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.anatomy import MIDLINE, Anatomy
from ddrsapc.phantom.canvas import Canvas, soft
from ddrsapc.phantom.fields import enlarged
from ddrsapc.phantom.frame import Ellipse
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.tubes import Curve

__all__ = ["paint_heart"]

_COARSE = 4  # pixels between the places whose distance from an artery is found


def paint_heart(canvas: Canvas, anatomy: Anatomy, courses: dict[str, Curve], scan_z: float) -> None:
    """Paint the mediastinum: fat, pericardium, chambers, great vessels, and the grooves' fat along the arteries.

    Args:
        canvas: with the chest painted.
        anatomy: of the case.
        courses: of the coronary arteries, in the scan's mm.
        scan_z: of the slice, mm.
    """
    _paint_fat_and_sac(canvas, anatomy)
    _paint_chambers(canvas, anatomy)
    _paint_great_vessels(canvas, anatomy)
    for name, width in (("RCA", 7.5), ("LM", 5.0), ("LCX", 7.0), ("LAD", 6.0)):
        _paint_groove(canvas, anatomy, courses[name], scan_z=scan_z, radius=width * canvas.placement.scale)


def _paint_fat_and_sac(canvas: Canvas, anatomy: Anatomy) -> None:
    """Mediastinal fat, to the front as a wedge and around aorta and gullet, and the pericardium with what is inside."""
    z, front, fat = canvas.z, anatomy.cavity.y - anatomy.cavity.b, anatomy.values["fat"]
    grain = anatomy.parameters.mediastinal_fat_texture
    canvas.fill(Ellipse(MIDLINE + 8, 55, 22, 15), fat, 2.0, grain=grain)
    heart = anatomy.structures["heart"].at(z)
    if z > -52:
        wide = min(max((20 - z) / 50, 0.0), 1.0)  # caudally the fat spreads between heart and chest wall
        canvas.fill(Ellipse(MIDLINE + 4 + 12 * wide, front + 10, 12 + 34 * wide, 20 - 6 * wide), fat, 2.0, grain=grain)
    if heart is None:
        return
    canvas.fill(heart.grown(2.5), fat, 1.5, grain=grain)
    if z < 10:  # the fat pads between heart and diaphragm
        low = min(1.0, (10 - z) / 50)
        for side, turn in ((-0.8, 35), (0.75, -40)):
            pad = Ellipse(heart.x + side * heart.a, heart.y - 0.55 * heart.b, 24 * low, 13 * low, turn)
            canvas.fill(pad, fat, 2.0, grain=grain)
    found = canvas.depth(heart)
    if found is not None:
        box, depth = found
        sac = soft(depth, 1.0) * soft(np.float32(1.6) - depth, 1.0)
        canvas.paint(box, np.float32(0.8) * sac, np.float32(anatomy.parameters.pericardium))


def _paint_chambers(canvas: Canvas, anatomy: Anatomy) -> None:
    p, value, z, at = anatomy.parameters, anatomy.values, canvas.z, anatomy.structures
    flesh = value["myocardium"]
    heart = at["heart"].at(z)
    if heart is not None and z < 22:  # septum and what else is between the chambers
        canvas.fill(heart.grown(-15 - max(0.0, 1.2 * (z - 10))), flesh, 3.0, grain=p.myocardium_texture)
    for name, side, wall in (
        ("inferior_vena_cava", "right_blood", 0.0),
        ("right_atrium", "right_blood", 1.5),
        ("left_atrium", "blood", 1.5),
        ("left_appendage", "blood", 1.0),
        ("right_ventricle", "right_blood", 2.5),
    ):
        ellipse = at[name].at(z)
        if ellipse is not None:
            canvas.fill(ellipse.grown(wall), flesh, 1.5, grain=p.myocardium_texture)
            canvas.fill(ellipse, value[side], 1.5, grain=p.blood_texture)
    canvas.fill(at["left_ventricle"].at(z), flesh, 1.5, grain=p.myocardium_texture)
    canvas.fill(at["left_cavity"].at(z), value["blood"], 2.0, grain=p.left_cavity_texture)


def _paint_great_vessels(canvas: Canvas, anatomy: Anatomy) -> None:
    p, value, z, at = anatomy.parameters, anatomy.values, canvas.z, anatomy.structures
    for name in ("pulmonary_trunk", "superior_vena_cava"):
        canvas.fill(at[name].at(z), value["right_blood"], 1.5, grain=p.blood_texture)
    root = at["aorta"].at(z)
    around = min(max((z - 16) / 3, 0.0), 3.0)  # the root is bare below the atria's roofs
    if root is not None and around:
        canvas.fill(root.grown(around), value["fat"], 2.0, grain=p.mediastinal_fat_texture)
    for ellipse in (root, at["descending_aorta"].at(z)):
        if ellipse is not None:
            canvas.fill(ellipse, value["muscle"] - 6, 1.0)
            canvas.fill(ellipse.grown(-1.2), value["blood"], 1.0, grain=p.blood_texture)
    gullet = at["oesophagus"].at(z)
    canvas.fill(gullet, value["muscle"] - 12, 1.5)
    air = anatomy.gas[1]
    if gullet is not None and air:
        canvas.fill(Ellipse(gullet.x, gullet.y, min(1.6 * air, 4), min(air, 2.5)), p.oesophagus_air, 1.5)
    for name in ("left_bronchus", "right_bronchus"):
        tube = at[name].at(z)
        if tube is not None:
            canvas.fill(tube.grown(1.5), p.bronchial_wall, 1.0)
            canvas.fill(tube, p.bronchi, 1.0)


def _paint_groove(canvas: Canvas, anatomy: Anatomy, curve: Curve, *, scan_z: float, radius: float) -> None:
    """Paint fat within `radius` mm of a curve and outwards from it to the heart's surface: the artery's groove."""
    placement = canvas.placement
    points = curve.points[::3]
    points = points[np.abs(points[:, 2] - scan_z) < radius]
    heart = anatomy.structures["heart"].at(canvas.z)
    if not len(points) or heart is None:
        return
    middle = placement.to_scan(np.array([[heart.x, heart.y, canvas.z]]))[0, :2]
    outwards = points[:, :2] - middle
    outwards /= np.sqrt((outwards * outwards).sum(1))[:, None]
    moved = points.copy()
    moved[:, :2] += 0.8 * radius * outwards
    top, left, distance = _distances(placement, np.concatenate([points, moved]), scan_z, radius + 3)
    groove = enlarged((radius - distance.min(2)).astype(np.float32), (len(distance) - 1) * _COARSE + 1)  # (size, size)
    found = canvas.depth(heart.grown(10))
    if found is None:
        return
    (rows, columns), depth = found
    rows_in = slice(max(top, rows.start), min(top + len(groove), rows.stop))
    columns_in = slice(max(left, columns.start), min(left + len(groove), columns.stop))
    if rows_in.start >= rows_in.stop or columns_in.start >= columns_in.stop:
        return
    box, part = (rows_in, columns_in), (_within(rows_in, top), _within(columns_in, left))
    fat = np.float32(anatomy.values["fat"]) + np.float32(anatomy.parameters.mediastinal_fat_texture) * canvas.fine[box]
    cover = soft(groove[part], 3.0)
    cover *= soft(depth[_within(rows_in, rows.start), _within(columns_in, columns.start)] - np.float32(8), 2.0)
    canvas.paint(box, cover, np.minimum(fat, canvas.hu[box]))  # lung stays lung
    sheath = enlarged((0.65 * radius - distance[..., : len(moved)].min(2)).astype(np.float32), len(groove))
    canvas.paint(box, soft(sheath[part], 2.0), fat)  # but for what is next to the artery


def _distances(
    placement: Placement, points: NDArray[np.float64], scan_z: float, reach: float
) -> tuple[int, int, NDArray[np.float64]]:
    """Top row, left column and the distances (n, n, points) in mm of every `_COARSE`th pixel within reach of points."""
    pixel, centre = placement.pixel_mm, (placement.size - 1) / 2
    low, high = points[:, :2].min(0) - reach, points[:, :2].max(0) + reach
    left, top = (math.floor(value / pixel + centre) for value in low)
    count = math.ceil(max(high - low) / pixel / _COARSE) + 2
    y = (top + _COARSE * np.arange(count) - centre) * pixel
    x = (left + _COARSE * np.arange(count) - centre) * pixel
    square = (
        (y[:, None, None] - points[:, 1]) ** 2 + (x[None, :, None] - points[:, 0]) ** 2 + (points[:, 2] - scan_z) ** 2
    )  # (n, n, points)
    return top, left, np.sqrt(square)


def _within(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)
