"""Clouds of points to densities on a slice's pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.tubes import Cloud

__all__ = ["Part", "deposited"]


class Part(NamedTuple):
    """What a cloud is in a slice, before the point spread."""

    box: tuple[slice, slice]
    """Rows and columns that it lies in."""
    share: NDArray[np.float64]
    """Of each voxel's volume that it fills; more than 1 where clouds overlap."""
    density: NDArray[np.float64]
    """Mean over each voxel of what was deposited, in its unit."""


def deposited(
    cloud: Cloud, place: Placement, scan_z: float, *, density: NDArray[np.float64] | None = None, margin: int = 0
) -> Part | None:
    """The part of a cloud in a slice; None if it is outside.

    Args:
        cloud: n points.
        place: of the scan.
        scan_z: of the slice's middle, mm.
        density: of each point, (n,); None: 1.
        margin: pixels around the box.
    """
    half, middle = place.slice_mm / 2, (place.size - 1) / 2
    columns = np.floor(cloud.points[:, 0] / place.pixel_mm + middle + 0.5).astype(np.int64)
    rows = np.floor(cloud.points[:, 1] / place.pixel_mm + middle + 0.5).astype(np.int64)
    z = cloud.points[:, 2] - scan_z
    inside = (z >= -half) & (z < half) & (rows >= 0) & (rows < place.size) & (columns >= 0) & (columns < place.size)
    if not inside.any():
        return None
    rows, columns, volumes = rows[inside], columns[inside], cloud.volumes[inside]
    top, left = max(int(rows.min()) - margin, 0), max(int(columns.min()) - margin, 0)
    bottom, right = min(int(rows.max()) + margin + 1, place.size), min(int(columns.max()) + margin + 1, place.size)
    box = (slice(top, bottom), slice(left, right))
    cell, shape = (rows - top) * (right - left) + columns - left, (bottom - top, right - left)

    def per_voxel(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.bincount(cell, amounts, shape[0] * shape[1]).astype(np.float64)
        return total.reshape(shape) / (place.pixel_mm**2 * place.slice_mm)

    share = per_voxel(volumes)
    return Part(box, share, share if density is None else per_voxel(volumes * density[inside]))
