"""The phantom's slices with decoys for `pretrain.py`: bright spots, bones and vessels that are no coronary calcium."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pretrain_data import case_of, near_arteries
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import Dataset

from ddrsapc.data import Sample
from ddrsapc.phantom import CaseDraw, PhantomDataset

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bones:
    """Which of the decoys are bones: marrow in a shell."""

    part: float
    """Of the decoys."""
    ribs: bool = False
    """Most lie along the wall, their shells are uneven and their marrow is grained; else a third lies in the front
    wall, as a breastbone's tip does."""


def in_wall(draw: CaseDraw, z: float, angle: float, depth: float) -> tuple[int, int, float]:
    """Row and column of a place in the wall of chest or belly, mm out from the cavity, and the wall's direction."""
    cavity, place = draw.anatomy.cavity, draw.placement
    a, b = cavity.a + depth, cavity.b + depth
    x, y = cavity.x + a * np.cos(angle), cavity.y + b * np.sin(angle)
    column, row = place.pixels(x, y, (z - place.shift[2]) / place.scale)
    return round(row), round(column), np.arctan2(b * np.cos(angle), -a * np.sin(angle)) + place.turn


def in_aorta(draw: CaseDraw, z: float, rng: np.random.Generator) -> tuple[int, int] | None:
    """Row and column of a place in the aorta or on its wall, ascending or descending; None where there is none."""
    place = draw.placement
    z = (z - place.shift[2]) / place.scale
    found = [draw.anatomy.structures[name].at(z) for name in ("aorta", "descending_aorta")]
    ellipses = [ellipse for ellipse in found if ellipse is not None]
    if not ellipses:
        return None
    ellipse, angle = ellipses[rng.integers(len(ellipses))], rng.uniform(-np.pi, np.pi)
    part, turn = np.sqrt(rng.uniform(0, 1.2)), np.radians(ellipse.turn)  # as many per mm2 everywhere
    u, v = part * ellipse.a * np.cos(angle), part * ellipse.b * np.sin(angle)
    x, y = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    column, row = place.pixels(ellipse.x + x, ellipse.y + y, z)
    return round(row), round(column)


def around(row: int, column: int, reach: int, size: int) -> tuple[tuple[slice, slice], IntArray, IntArray]:
    """The part of a slice within `reach` pixels of a place, and how far down and right of it its pixels lie."""
    box = slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
    down, right = (np.arange(*part.indices(size)) - middle for part, middle in zip(box, (row, column), strict=True))
    return box, down[:, None], right


def add_vessels(
    hu: NDArray[np.float32], free: NDArray[np.bool_], step: int, mm: float, rng: np.random.Generator
) -> None:
    """Bundles of vessels with contrast, as around a stomach, where every `step`-th row and column is free."""
    rows, columns = np.nonzero(free)
    for _ in range(rng.integers(0, 4) if len(rows) else 0):
        place, level = rng.integers(len(rows)), rng.uniform(120, 350)
        row, column = step * rows[place], step * columns[place]
        for _ in range(rng.integers(2, 10)):
            if 0 <= row < len(hu) and 0 <= column < len(hu) and free[row // step, column // step]:
                radius = rng.uniform(1, 4)
                box, down, right = around(row, column, int((radius + 3) / mm) + 1, len(hu))
                vessel = 1 / (1 + np.exp((np.hypot(down, right) * mm - radius) / 0.5))
                hu[box] += vessel * np.maximum(level - hu[box], 0)
            angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(4, 12) / mm
            row, column = row + round(far * np.sin(angle)), column + round(far * np.cos(angle))


def with_decoys(
    image: Tensor,
    draw: CaseDraw,
    z: float,
    rng: np.random.Generator,
    *,
    bones: Bones | None = None,
    vessels: bool = False,
    aorta: bool = False,
) -> Tensor:
    """A slice (H, W) with bright spots away from the arteries, of which none is coronary calcium.

    With `aorta` up to a third of them, but for those of `bones.ribs`, lie in the aorta or on its wall, off the ostia.
    """
    hu, mm, step = image.numpy().astype(np.float32), draw.placement.pixel_mm, 4
    near = near_arteries(draw, z, 12.0, step=step) > 0
    free = ~near & (abs(hu[::step, ::step]) < 150)
    if vessels:
        add_vessels(hu, free, step, mm, rng)
    rows, columns = np.nonzero(free)
    ribs = bones is not None and bones.ribs
    for i in range(rng.integers(0, 19 if ribs else 9) if len(rows) else 0):
        place = rng.integers(len(rows))
        row, column, direction = step * rows[place], step * columns[place], None
        if ribs and i % 3 < 2:
            row, column, direction = in_wall(draw, z, rng.uniform(-np.pi, np.pi), rng.uniform(0, 14))
        elif bones is not None and not ribs and i % 3 == 0:
            row, column, _ = in_wall(draw, z, rng.triangular(-np.pi, -np.pi / 2, 0), rng.uniform(0, 14))
        elif aorta and not ribs and i % 3 == 1:
            row, column = in_aorta(draw, z, rng) or (row, column)
        if not (0 <= row < len(hu) and 0 <= column < len(hu)) or near[row // step, column // step]:
            continue
        bone = bones is not None and rng.random() < bones.part
        radius, angle = rng.uniform(2.5 if bone else 0.8, 6), rng.uniform(0, np.pi)
        if direction is not None:
            angle = direction + rng.uniform(-0.3, 0.3)
        stretch = rng.uniform(1, min(3, 10 / radius))
        box, down, right = around(row, column, int((radius * stretch + 3) / mm) + 1, len(hu))
        along = (np.cos(angle) * right + np.sin(angle) * down) * mm / stretch
        across = (np.cos(angle) * down - np.sin(angle) * right) * mm
        distance = np.hypot(along, across)
        if bone:
            shell, marrow = rng.uniform(300, 900), rng.uniform(50, 300)
            hu[box] += shell / (1 + np.exp((distance - radius) / 0.4))
            if ribs:
                distance = np.hypot(along + rng.uniform(-1, 1), across + rng.uniform(-1, 1))
                grain = gaussian_filter(rng.standard_normal(distance.shape), 1 / mm)
                marrow = marrow + rng.uniform(0, 200) * grain / grain.std()
            hu[box] -= (shell - marrow) / (1 + np.exp((distance - radius + rng.uniform(0.8, 2)) / 0.4))
        else:
            hu[box] += rng.uniform(100, 600) / (1 + np.exp((distance - radius) / 0.4))
    return torch.from_numpy(hu.clip(-1024, 3071).astype(np.int16))


class Decoys(Dataset[Sample]):
    """The slices of a phantom with decoys; `abstain`: where there is contrast, nothing is labelled."""

    def __init__(
        self,
        plain: PhantomDataset,
        *,
        bones: Bones | None = None,
        vessels: bool = False,
        aorta: bool = False,
        abstain: bool = False,
    ) -> None:
        self.plain, self.bones, self.vessels, self.aorta, self.abstain = plain, bones, vessels, aorta, abstain
        self.fingerprint = f"decoys in {plain.fingerprint}" + (f" {bones}" if bones else "") + " vessels" * vessels
        self.fingerprint += " aorta" * aorta + " abstain" * abstain

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> Sample:
        image, label, name = self.plain[index]
        rng = np.random.default_rng((self.plain.seed, index))
        draw, z = case_of(self.plain, index, name)
        if self.abstain and draw.has_contrast:
            label = torch.zeros_like(label)
        hu = with_decoys(image, draw, z, rng, bones=self.bones, vessels=self.vessels, aorta=self.aorta)
        return Sample(hu, label, name)
