"""What a network's weights expect of their input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from ddrsapc.messages import shown

__all__ = ["InputConfig"]

_LARGEST = 1e6


@dataclass(frozen=True)
class InputConfig:
    """How HU become a network's input: clipped to a window, scaled to [0, 1], standardised.

    The paper takes the CT image "as is": no cropping, resampling or denoising. The default window is wide
    enough for that: everything from air to dense calcium.

    Args:
        hu_window: lowest and highest HU; what lies outside is clipped.
        mean: mean of the scaled values.
        std: standard deviation of the scaled values.
        size: (H, W) in pixels of the images that the weights were made for; other sizes work as well.
        spacing: (y, x) in mm of those images' pixels; None where it varies or is not known.

    Raises:
        ValueError: unless the window is two finite ascending numbers, `std` positive, and size and spacing
            two positive numbers each.
    """

    hu_window: tuple[float, float] = (-1000.0, 1000.0)
    mean: float = 0.5
    std: float = 0.25
    size: tuple[int, int] = (512, 512)
    spacing: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = (*self.hu_window, self.mean, self.std)
        # float32 computes with them
        if len(numbers) != 4 or not all(abs(number) <= _LARGEST for number in numbers):
            raise ValueError(f"expected a window (low, high) in HU, mean and std up to {_LARGEST:g}, got {shown(self)}")
        if not (self.hu_window[0] < self.hu_window[1] and self.std >= 1 / _LARGEST):
            raise ValueError(f"expected an ascending window (low, high) in HU and a positive std, got {shown(self)}")
        if not (len(self.size) == 2 and all(isinstance(side, int) and side > 0 for side in self.size)):
            raise ValueError(f"expected a size (H, W) in pixels, got {shown(self.size)}")
        if self.spacing is not None and not (
            len(self.spacing) == 2 and all(math.isfinite(mm) and mm > 0 for mm in self.spacing)
        ):
            raise ValueError(f"expected a spacing (y, x) in mm or None, got {shown(self.spacing)}")

    @classmethod
    def from_dict(cls, settings: Any) -> InputConfig:
        """The inverse of `to_dict`, for what was read from a file.

        Raises:
            ValueError: for missing or unknown settings, or others than numbers.
        """
        names = {field.name for field in fields(cls)}
        needed = {"hu_window", "mean", "std"}
        if not isinstance(settings, Mapping) or not needed <= settings.keys() <= names:
            raise ValueError(f"expected the input settings {', '.join(sorted(needed))} (size, spacing)")
        read: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
        }
        numbers = [number for value in read.values() for number in (value if isinstance(value, tuple) else (value,))]
        if any(isinstance(n, bool) or not isinstance(n, int | float | None) for n in numbers):
            raise ValueError(f"expected numbers as input settings, got {shown(dict(settings))}")
        try:
            return cls(**read)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"expected other input settings than {shown(dict(settings))}") from error

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists, as JSON has them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def normalize(self, hu: Tensor) -> Tensor:
        """Network input, float32, of HU; the shape stays.

        Args:
            hu: Hounsfield units of any shape and any real dtype.
        """
        low, high = self.hu_window
        scaled = (hu.float().clamp(low, high) - low) / (high - low)
        return (scaled - self.mean) / self.std
