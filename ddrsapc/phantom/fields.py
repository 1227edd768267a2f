"""Coarse fields, enlarged to the pixels: textures, deformations, streaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["enlarged", "texture"]


def enlarged(field: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A coarse field (n, n) on a grid of (size, size) pixels, bilinearly; its corners come to lie on the corners."""
    place = np.linspace(0, len(field) - 1, size)
    low = np.minimum(place.astype(np.int64), len(field) - 2)
    part = (place - low).astype(np.float32)  # (size,)
    columns = field[:, low]  # (n, size)
    columns += part * (field[:, low + 1] - columns)
    step = columns[1:] - columns[:-1]  # (n - 1, size)
    result = step[low]  # whole rows: the fast way in memory
    result *= part[:, None]
    result += columns[low]
    return result


def texture(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """A coarse random field (cells, cells) of SD 1."""
    return rng.standard_normal((cells, cells)).astype(np.float32)
