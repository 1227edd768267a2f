"""What a network's weights expect of their input."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["InputConfig"]


@dataclass(frozen=True)
class InputConfig:
    """How HU become a network's input: clipped to a window, scaled to [0, 1], standardised.

    The paper takes the CT image "as is": no cropping, resampling or denoising. The default window is wide
    enough for that: everything from air to dense calcium.

    Args:
        hu_window: lowest and highest HU; what lies outside is clipped.
        mean: mean of the scaled values.
        std: standard deviation of the scaled values.

    Raises:
        ValueError: unless the window is two finite ascending numbers and `std` is positive.
    """

    hu_window: tuple[float, float] = (-1000.0, 1000.0)
    mean: float = 0.5
    std: float = 0.25

    def __post_init__(self) -> None:
        low, high = self.hu_window
        if not (all(map(math.isfinite, (low, high, self.mean, self.std))) and low < high and self.std > 0):
            raise ValueError(f"expected a window (low, high) in HU, a finite mean and a positive std, got {self}")

    def normalize(self, hu: Tensor) -> Tensor:
        """Network input, float32, of HU; the shape stays.

        Args:
            hu: Hounsfield units of any shape and any real dtype.
        """
        low, high = self.hu_window
        scaled = (hu.float().clamp(low, high) - low) / (high - low)
        return (scaled - self.mean) / self.std
