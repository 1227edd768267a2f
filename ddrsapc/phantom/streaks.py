"""Streaks: a slice's coarse Radon transform, what goes wrong in it, and back."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import needs_extra
from ddrsapc.phantom.fields import enlarged
from ddrsapc.phantom.parameters import PhantomParameters

__all__ = ["streaks"]

CELLS = 48
"""Per side of the coarse image."""
ANGLES = 60
_BINS = 70


@lru_cache(maxsize=1)
def _radon() -> tuple[tuple[Any, Any], tuple[float, ...]]:
    """The transform (ANGLES * _BINS, CELLS ** 2) and its transpose, sparse, and the ramp filter by lag."""
    with needs_extra("phantom"):
        from scipy import sparse  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra

    middle = (CELLS - 1) / 2
    row, column = (part.ravel() - middle for part in np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"))
    rows, columns, values = [], [], []
    for k in range(ANGLES):
        angle = math.pi * k / ANGLES
        place = column * math.cos(angle) + row * math.sin(angle) + (_BINS - 1) / 2
        low = np.floor(place).astype(np.int64)
        part = place - low
        for bins, weight in ((low, 1 - part), (low + 1, part)):
            rows.append(k * _BINS + bins)
            columns.append(np.arange(CELLS * CELLS))
            values.append(weight)
    matrix = sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (ANGLES * _BINS, CELLS * CELLS)
    )
    ramp = tuple(0.25 if lag == 0 else -(lag % 2) / (math.pi * lag) ** 2 for lag in range(_BINS))
    return (matrix, matrix.T.tocsr()), ramp


def streaks(
    parameters: PhantomParameters, hu: NDArray[np.float32], sd: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What to add to a slice (H, W): dark bands between dense things, and streaks where few photons come through.

    Args:
        parameters: of the case.
        hu: the slice before noise.
        sd: of the noise streaks, HU over the field.
        rng: of the noise streaks.
    """
    (forward, back), ramp = _radon()
    size = len(hu)
    places = ((np.arange(CELLS) + 0.5) * size / CELLS).astype(np.int64)
    coarse = _coarse(hu, places)
    dense = np.maximum(coarse - parameters.beam_hardening_from, 0)
    both = np.stack([np.clip((coarse + 1000) / 1000, 0, 3).ravel(), dense.ravel()], axis=1)
    path, hard = (forward @ both).T.reshape(2, ANGLES, _BINS)  # in cells of water, in HU cells
    lost = -parameters.beam_hardening * hard * hard
    # the noise of the logarithm grows with the path
    noise = rng.standard_normal((ANGLES, _BINS)) * np.minimum(path * path / 500, parameters.streak_limit)
    # ramp's rows have a norm of about 0.29, and the angles add up like noise
    spread = 0.29 * math.pi / math.sqrt(ANGLES) * math.sqrt(float((noise * noise).mean()))
    sinogram = lost + noise * (sd / spread if spread > 0 else 0.0)
    filtered = ramp[0] * sinogram
    for lag in range(1, _BINS, 2):  # sums in a fixed order, no BLAS; the even lags are 0
        filtered[:, lag:] += ramp[lag] * sinogram[:, :-lag]
        filtered[:, :-lag] += ramp[lag] * sinogram[:, lag:]
    total = (back @ filtered.ravel()) * (math.pi / ANGLES)
    # to a multiple of 1 / 64: the last digits may differ between machines
    return enlarged((np.rint(total * 64) / 64).reshape(CELLS, CELLS).astype(np.float32), size)


def _coarse(hu: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Averages (CELLS, CELLS) of some pixels of each cell."""
    size = len(hu)
    total = np.zeros((CELLS, CELLS))
    offsets = (-size // (4 * CELLS), size // (4 * CELLS))
    for down in offsets:
        rows = np.clip(places + down, 0, size - 1)
        for right in offsets:
            total += hu[rows[:, None], np.clip(places + right, 0, size - 1)[None]]
    return total / 4
