"""How a scan's axial slices are stored, and how radiologists see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SliceOrientation"]


@dataclass(frozen=True)
class SliceOrientation:
    """How slices are stored; upright, columns run to the patient's left and rows to the back."""

    exchanged: bool
    """Rows are stored as columns."""
    flipped: tuple[int, ...]
    """The axes, -2 and -1, that run the other way, after the exchange."""

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> SliceOrientation:
        """That of a `Volume`'s affine (4, 4); of slices that are not quite axial, the nearest."""
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)  # whatever the sides of a pixel
        exchanged = bool(abs(axes[0, 1]) > abs(axes[0, 0]))
        to_left, to_back = (axes[0, 1], axes[1, 0]) if exchanged else (axes[0, 0], axes[1, 1])
        return cls(exchanged, tuple(axis for axis, way in ((-2, to_back), (-1, to_left)) if way < 0))

    def upright(self, slices: Tensor) -> Tensor:
        """Stored slices (..., H, W) as radiologists see them, (..., H, W) or (..., W, H)."""
        return self._flip(slices.mT if self.exchanged else slices)

    def as_stored(self, slices: Tensor) -> Tensor:
        """The inverse of `upright`."""
        slices = self._flip(slices)
        return slices.mT if self.exchanged else slices

    def _flip(self, slices: Tensor) -> Tensor:
        return slices.flip(self.flipped) if self.flipped else slices  # flip copies
