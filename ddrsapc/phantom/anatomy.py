"""The chest around the heart: skin to lungs, bones, liver."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.canvas import Canvas, soft
from ddrsapc.phantom.frame import STRUCTURES, Ellipse, Structure
from ddrsapc.phantom.parameters import PhantomParameters

__all__ = ["Anatomy", "draw_anatomy", "paint_chest"]

Array = NDArray[np.float32]
MIDLINE = -21.0
"""x of spine and sternum: the heart's centroid is left of them."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What is drawn once per case. Lengths are in the frame's mm, values in HU."""

    parameters: PhantomParameters
    """With the HU that are not drawn."""
    structures: dict[str, Structure]
    body: Ellipse
    muscle: Ellipse
    cavity: Ellipse
    ribs: tuple[tuple[float, float, float], ...]
    """Angle around the cavity in radians at z = 0, its change per mm, and the longer half axis in mm."""
    values: dict[str, float]
    """HU by tissue, of those that are drawn."""
    vessels: NDArray[np.float64]
    """Of the lung, (n, 7): start (3), end (3), radius; mm."""
    has_table: bool
    gas: tuple[float, float]
    """Of the stomach's gas and of air in the oesophagus, half axes in mm; 0: none."""


def draw_anatomy(parameters: PhantomParameters, rng: np.random.Generator) -> Anatomy:
    """A random chest."""
    p = parameters
    structures = {}
    lift = rng.uniform(*p.diaphragm_lift)
    for name, structure in STRUCTURES.items():
        levels = structure.levels.copy()
        levels[:, 1:3] += rng.uniform(*p.organ_shift, 2)
        levels[:, 3:5] *= rng.uniform(*p.organ_size, 2)
        levels[:, 5] += rng.uniform(*p.organ_turn)
        if name in ("liver", "left_dome", "spleen"):
            levels[:, 0] += lift
        structures[name] = Structure(levels, structure.cap)
    wall, fat = rng.uniform(*p.chest_wall), rng.uniform(*p.fat_thickness)
    cavity = Ellipse(
        MIDLINE, 30 + rng.uniform(*p.cavity_shift), rng.uniform(*p.cavity_width), rng.uniform(*p.cavity_depth)
    )
    muscle = Ellipse(MIDLINE, cavity.y - 1, cavity.a + 20 + wall, cavity.b + 17 + wall)
    body = Ellipse(MIDLINE, cavity.y + 2, muscle.a + fat, muscle.b + 0.7 * fat)
    first, drift = rng.uniform(*p.rib_first), rng.uniform(*p.rib_slope)
    ribs = []
    for side in (-1, 1):
        for i in range(p.ribs):
            # from the front (-pi / 2) to the back
            angle = -1.05 + first + p.rib_spacing * i + rng.uniform(*p.rib_jitter)
            ribs.append((angle if side == 1 else math.pi - angle, side * drift, rng.uniform(*p.rib_length)))
    contrast = bool(rng.random() < p.contrast_rate)
    blood = rng.uniform(*p.blood)
    left = rng.uniform(*p.contrast) if contrast else blood
    values = {
        "blood": left,
        "right_blood": blood + (left - blood) * rng.uniform(*p.right_enhancement) if contrast else blood,
        "myocardium": rng.uniform(*p.myocardium) + p.myocardium_enhancement * (left - blood),
        "fat": rng.uniform(*p.fat),
        "lung": rng.uniform(*p.lung),
        "muscle": rng.uniform(*p.muscle),
        "trabecular": rng.uniform(*p.trabecular),
        "cortical": rng.uniform(*p.cortical),
        "liver": rng.uniform(*p.liver) + p.liver_enhancement * (left - blood),
        "spleen": rng.uniform(*p.spleen) + p.spleen_enhancement * (left - blood),
        "cartilage": rng.uniform(*p.cartilage),
    }
    has_gas, has_air = rng.random(2)
    return Anatomy(
        parameters=p,
        structures=structures,
        body=body,
        muscle=muscle,
        cavity=cavity,
        ribs=tuple(ribs),
        values=values,
        vessels=_lung_vessels(p, rng),
        has_table=bool(rng.random() < p.table_rate),
        gas=(
            rng.uniform(*p.stomach_gas_size) * float(has_gas < p.stomach_gas_rate),
            rng.uniform(*p.oesophagus_air_size) * float(has_air < p.oesophagus_air_rate),
        ),
    )


def _lung_vessels(p: PhantomParameters, rng: np.random.Generator) -> NDArray[np.float64]:
    """Pieces that run outwards from both hila, thinner the farther out."""
    count = p.lung_vessels
    side = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    hilum = np.stack([MIDLINE + side * 38, np.full(count, 42.0), np.full(count, 30.0)], axis=1)
    towards = rng.normal(0, 1, (count, 3)) * np.array([1.0, 1.0, 1.3])
    towards[:, 0] = np.abs(towards[:, 0]) * side
    towards /= np.sqrt((towards * towards).sum(1))[:, None]
    far = 100 * np.sqrt(rng.random(count))
    start = hilum + towards * far[:, None]
    direction = towards + rng.normal(0, 0.45, (count, 3))
    direction /= np.sqrt((direction * direction).sum(1))[:, None]
    end = start + direction * rng.uniform(*p.lung_vessel_length, count)[:, None]
    radius = 5.0 * (1 - far / 112) ** 1.2 * rng.uniform(*p.lung_vessel_width, count) + 0.7
    return np.concatenate([start, end, radius[:, None]], axis=1)


def paint_chest(canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint all but heart and great vessels.

    Args:
        canvas: empty.
        anatomy: of the case.
    """
    p, value, fine = anatomy.parameters, anatomy.values, canvas.fine
    fat = value["fat"] + np.float32(p.fat_texture) * fine  # (H, W)
    if anatomy.has_table:
        _paint_table(canvas, anatomy)
    if canvas.covered_by(anatomy.body.grown(-6)):
        canvas.hu[:] = fat
    elif (found := canvas.depth(anatomy.body)) is not None:
        box, depth = found
        canvas.paint(box, soft(depth, 1.0), fat[box])
        skin = soft(depth, 1.0) * soft(2.2 - depth, 1.0)
        canvas.paint(box, skin, np.float32(p.skin))
    # fat runs between the muscles
    between = np.clip(1.6 * fine - 1.1, 0, 1)
    flesh = value["muscle"] + (value["fat"] - value["muscle"]) * 0.85 * between + np.float32(p.muscle_texture) * fine
    canvas.fill(anatomy.muscle, flesh, 3.0)
    for side in (-1, 1):
        canvas.fill(
            Ellipse(MIDLINE + side * 32, anatomy.muscle.y + anatomy.muscle.b - 8, 30, 17, side * -15), flesh, 2.0
        )
    found = canvas.depth(anatomy.cavity.grown(15))  # fat between the ribs' muscles and those over them
    if found is not None:
        box, depth = found
        layer = soft(depth, 1.5) * soft(np.float32(2.2) - depth, 1.5)
        canvas.paint(box, np.float32(0.7) * layer, np.float32(value["fat"]))
    found = canvas.depth(anatomy.cavity)
    if found is not None:
        box, depth = found
        behind = canvas.between(canvas.y[canvas.coarse(box)], box) - np.float32(anatomy.cavity.y)
        air = value["lung"] + np.float32(p.lung_gradient) * behind + np.float32(p.lung_texture) * fine[box]
        canvas.paint(box, soft(depth, 1.2), air)
    _paint_cage(canvas, anatomy)
    _paint_abdomen(canvas, anatomy)


def _paint_table(canvas: Canvas, anatomy: Anatomy) -> None:
    box = canvas.box(Ellipse(MIDLINE, anatomy.body.y + anatomy.body.b + 6, 260, 30))
    if box is None:
        return
    coarse = canvas.coarse(box)
    curve = canvas.x[coarse] - np.float32(MIDLINE)
    curve *= curve
    top = canvas.y[coarse] - np.float32(anatomy.body.y + anatomy.body.b + 6) + np.float32(0.0009) * curve
    top = canvas.between(top, box)
    p = anatomy.parameters
    for low, thick, hu in ((0.0, 1.2, p.table_top), (1.5, 16.0, p.table_core), (17.5, 1.5, p.table_base)):
        cover = soft(top - np.float32(low), 1.0) * soft(np.float32(low + thick) - top, 1.0)
        canvas.paint(box, cover, np.float32(hu))


def _bone(canvas: Canvas, ellipse: Ellipse, anatomy: Anatomy, shell: float) -> None:
    """An ellipse of trabecular bone in a cortical shell."""
    found = canvas.depth(ellipse)
    if found is None:
        return
    box, depth = found
    canvas.paint(box, soft(depth, 0.8), np.float32(anatomy.values["cortical"]))
    spongy = np.float32(anatomy.values["trabecular"]) + np.float32(anatomy.parameters.bone_texture) * canvas.fine[box]
    canvas.paint(box, soft(depth - np.float32(shell), 0.8), spongy)


def _paint_cage(canvas: Canvas, anatomy: Anatomy) -> None:
    """Ribs, cartilages, sternum and a vertebra."""
    p, value, z, cavity = anatomy.parameters, anatomy.values, canvas.z, anatomy.cavity
    outside = cavity.grown(7)
    for angle, drift, half in anatomy.ribs:
        place = angle + drift * z
        cos, sin = math.cos(place), math.sin(place)
        if sin < -0.9:  # the cartilages' place
            continue
        tangent = math.degrees(math.atan2(outside.b * cos, -outside.a * sin))
        rib = Ellipse(outside.x + outside.a * cos, outside.y + outside.b * sin, half, 4.6, tangent)
        if sin < -0.75:
            canvas.fill(rib, value["cartilage"])
        else:
            _bone(canvas, rib, anatomy, 1.0)
    front = cavity.y - cavity.b
    for side in (-1, 1):
        for offset in (24.0, 42.0):
            shift = 6 * math.sin(z / 9 + offset)
            canvas.fill(
                Ellipse(
                    MIDLINE + side * (offset + 4),
                    front - 5 + 0.0035 * offset**2 + 0.2 * shift,
                    9 + shift,
                    4.2,
                    side * 10,
                ),
                np.float32(value["cartilage"]),
            )
    if z > -45:
        _bone(canvas, Ellipse(MIDLINE, front - 8, 15 + 2 * math.sin(z / 14), 5.2), anatomy, 1.0)
    # vertebra: body, canal, arch; discs lie between the bodies
    back = 84.0
    canvas.fill(Ellipse(MIDLINE, back + 24, 36, 17), value["muscle"] - 2, 2.0, grain=p.spine_texture)
    canvas.fill(Ellipse(MIDLINE, back + 2, 19, 17), value["muscle"] - 30, 2.0)
    level = (z % 27) / 27
    for side in (-1, 1):
        _bone(canvas, Ellipse(MIDLINE + side * 20, back + 26, 16, 5.5, side * 25), anatomy, 1.3)
        _bone(canvas, Ellipse(MIDLINE + side * 12, back + 20, 5.5, 9, side * 10), anatomy, 1.3)
    _bone(canvas, Ellipse(MIDLINE, back + 44, 3.6, 16), anatomy, 1.2)
    for side in (-1, 1):
        _bone(canvas, Ellipse(MIDLINE + side * 7, back + 34, 10, 3.6, side * 35), anatomy, 1.2)
    if level < 0.2:  # a disc
        canvas.fill(Ellipse(MIDLINE, back, 15.5, 13.5), p.disc, 2.0, grain=p.spine_texture)
    else:
        _bone(canvas, Ellipse(MIDLINE, back, 16, 14), anatomy, 0.7 if level < 0.9 else 2.0)
    canvas.fill(Ellipse(MIDLINE, back + 21.5, 8.5, 7.5), p.spinal_canal)
    canvas.fill(Ellipse(MIDLINE, back + 21.5, 5, 4), p.spinal_cord)


def _paint_abdomen(canvas: Canvas, anatomy: Anatomy) -> None:
    """The domes of liver and stomach with the diaphragm over them."""
    p, value, z = anatomy.parameters, anatomy.values, canvas.z
    dome = anatomy.structures["left_dome"].at(z)
    canvas.fill(dome, value["muscle"], 2.0)
    if dome is not None:
        canvas.fill(dome.grown(-3), value["fat"], 1.5, grain=p.fat_texture)
        stomach = Ellipse(dome.x - 6, dome.y - 10, max(dome.a - 22, 0.1), max(dome.b - 22, 0.1), 20)
        if stomach.a > 2:
            canvas.fill(stomach, p.stomach, 1.5)
            gas = anatomy.gas[0]
            if gas:
                canvas.fill(
                    Ellipse(stomach.x, stomach.y - 6, min(gas, stomach.a - 1), min(gas, stomach.b - 1)),
                    p.stomach_gas,
                )
        canvas.fill(anatomy.structures["spleen"].at(z), value["spleen"], 1.5)
    canvas.fill(anatomy.structures["liver"].at(z), value["liver"], 2.5, grain=p.liver_texture)
