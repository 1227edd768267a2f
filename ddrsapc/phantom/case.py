"""Whole simulated scans: `make_case`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.draws import CaseDraw, draw_case
from ddrsapc.phantom.parameters import PhantomParameters, Split
from ddrsapc.phantom.render import case_clouds, render_slice

__all__ = ["PhantomCase", "make_case"]


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """A simulated scan with its exact truth."""

    name: str
    hu: NDArray[np.int16]
    """(Z, H, W)."""
    labels: NDArray[np.uint8]
    """(Z, H, W): 0 none, 1 LAD with LM, 2 LCX, 3 RCA."""
    density: NDArray[np.float32]
    """(Z, H, W) mg/ml of coronary calcium, without noise: times the voxels' volume it sums up to the true mass.

    It is blurred as the scan is, so with a sharp kernel, which undershoots, slightly negative around a lesion."""
    spacing: tuple[float, float, float]
    """(z, y, x) in mm."""
    affine: NDArray[np.float64]
    """(4, 4): (column, row, slice, 1) to mm, LPS, as `ddrsapc.ct.Volume` has it; the scan's middle is the origin."""
    draw: CaseDraw
    """Lesions, vessel paths and all else that was drawn."""

    @property
    def mass_mg(self) -> float:
        """Of the coronary calcium in the volume."""
        return float(self.density.sum(dtype=np.float64)) * math.prod(self.spacing) / 1000

    @cached_property
    def digest(self) -> str:
        """SHA-256 of image and geometry: cases of one name that were drawn from other parameters differ in it."""
        place = repr((self.hu.shape, self.spacing, self.affine.tolist()))
        return hashlib.sha256(place.encode() + self.hu.astype("<i2").tobytes()).hexdigest()


def make_case(
    seed: int,
    index: int = 0,
    *,
    split: Split = "train",
    size: int = 512,
    parameters: PhantomParameters | None = None,
) -> PhantomCase:
    """A whole simulated scan, the same bytes for the same arguments.

    Args:
        seed: of the set of cases, at least 0.
        index: of the case in its split, at least 0.
        split: "train", "val", "test" or "shifted"; no two have a case in common.
        size: pixels per side of a slice, at least 32.
        parameters: what is drawn from; those of "shifted" are made of them by `PhantomParameters.shifted`.

    Raises:
        ValueError: for arguments out of their ranges.
        ImportError: without the extra `phantom`.
    """
    draw = draw_case(seed, index, split=split, size=size, parameters=parameters)
    clouds = case_clouds(draw)
    slices = [render_slice(draw, z, clouds=clouds) for z in range(draw.placement.slices)]
    place = draw.placement
    spacing = (place.slice_mm, place.pixel_mm, place.pixel_mm)
    affine = np.diag([place.pixel_mm, place.pixel_mm, place.slice_mm, 1.0])
    affine[:2, 3] = -(size - 1) / 2 * place.pixel_mm
    affine[2, 3] = place.slice_z(0)
    return PhantomCase(
        name=draw.name,
        hu=np.stack([item.hu for item in slices]),
        labels=np.stack([item.labels for item in slices]),
        density=np.stack([item.density for item in slices]),
        spacing=spacing,
        affine=affine,
        draw=draw,
    )
