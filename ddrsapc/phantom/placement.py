"""How a scan lies on the patient: pixels, millimetres of the scan, and the heart's frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.fields import enlarged
from ddrsapc.phantom.parameters import PhantomParameters

__all__ = ["Placement", "draw_placement"]

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Wave:
    """One smooth deformation: both coordinates move by `amplitude` times a sine of the place."""

    amplitude: tuple[float, float]
    """mm along x and y."""
    number: tuple[float, float, float]
    """Radians per mm along x, y and z."""
    phase: float


@dataclass(frozen=True)
class Placement:
    """From the scan to the heart's frame: shifted, turned and scaled, then deformed by waves.

    The scan's millimetres count from its middle, x to the left, y to the back, z to the head.
    """

    size: int
    """Pixels per side."""
    slices: int
    pixel_mm: float
    slice_mm: float
    shift: tuple[float, float, float]
    """Of the heart's centroid from the scan's middle: x, y, z in mm."""
    turn: float
    """Radians, from x to y."""
    scale: float
    waves: tuple[Wave, ...]

    def slice_z(self, index: int) -> float:
        """The scan's z of a slice's middle."""
        return (index - (self.slices - 1) / 2) * self.slice_mm

    def frame_z(self, index: int) -> float:
        """The heart frame's z of a slice."""
        return (self.slice_z(index) - self.shift[2]) / self.scale

    def frame_grid(self, index: int, pixels: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The heart frame's x and y at rows and columns (n,) of a slice, (n, n) each."""
        cos, sin = math.cos(self.turn) / self.scale, math.sin(self.turn) / self.scale

        def turned(places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            right, down = (places - (self.size - 1) / 2) * self.pixel_mm - np.array(self.shift[:2])[:, None]
            return np.add.outer(sin * down, cos * right), np.add.outer(cos * down, -sin * right)

        x, y = turned(pixels)
        # the waves are long: every 4 mm are enough
        reach = float(pixels[-1] - pixels[0])
        few_x, few_y = turned(np.linspace(pixels[0], pixels[-1], max(2, round(reach * self.pixel_mm / 4) + 1)))
        moves = self._moves(np.stack([few_x.ravel(), few_y.ravel(), np.full(few_x.size, self.frame_z(index))], axis=1))
        move_x, move_y = (enlarged(move.reshape(few_x.shape).astype(np.float32), len(pixels)) for move in moves.T)
        return x.astype(np.float32) + move_x, y.astype(np.float32) + move_y

    def to_scan(self, points: Points) -> Points:
        """Where points (n, 3) of the heart's frame lie in the scan, x, y and z in mm."""
        undeformed = points.copy()
        for _ in range(8):  # the waves are gentle: this contracts
            undeformed[:, :2] = points[:, :2] - self._moves(undeformed)
        cos, sin = math.cos(self.turn) * self.scale, math.sin(self.turn) * self.scale
        x, y, z = undeformed.T
        return np.stack(
            [cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1], self.scale * z + self.shift[2]],
            axis=1,
        )

    def pixels(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of a place of the heart's frame, to about 1 mm."""
        moves = [
            (w.amplitude, math.sin(w.number[0] * x + w.number[1] * y + w.number[2] * z + w.phase)) for w in self.waves
        ]
        x -= sum(amplitude[0] * value for amplitude, value in moves)
        y -= sum(amplitude[1] * value for amplitude, value in moves)
        cos, sin = math.cos(self.turn) * self.scale, math.sin(self.turn) * self.scale
        middle = (self.size - 1) / 2
        return (
            (cos * x - sin * y + self.shift[0]) / self.pixel_mm + middle,
            (sin * x + cos * y + self.shift[1]) / self.pixel_mm + middle,
        )

    @cached_property
    def most_deformed(self) -> float:
        """A bound in mm on how far the waves move a point along x or y."""
        return max((sum(abs(wave.amplitude[axis]) for wave in self.waves) for axis in (0, 1)), default=0.0)

    def _moves(self, points: Points) -> Points:
        number, phase, amplitude = self._waves_as_arrays
        x, y, z = points.T
        value = np.sin(x[:, None] * number[0] + y[:, None] * number[1] + z[:, None] * number[2] + phase)  # (n, waves)
        moves = np.zeros((len(points), 2))
        for i, way in enumerate(amplitude):
            moves += value[:, i : i + 1] * way
        return moves

    @cached_property
    def _waves_as_arrays(self) -> tuple[Points, NDArray[np.float64], Points]:
        """Numbers (3, waves), phases (waves,) and amplitudes (waves, 2)."""
        waves = self.waves
        return (
            np.array([wave.number for wave in waves]).reshape(-1, 3).T,
            np.array([wave.phase for wave in waves]),
            np.array([wave.amplitude for wave in waves]).reshape(-1, 2),
        )


def draw_placement(parameters: PhantomParameters, size: int, rng: np.random.Generator) -> Placement:
    """A random placement."""
    low, high = parameters.field_of_view
    field_mm = low if low == high else float(rng.triangular(low, parameters.usual_field_of_view, high))
    waves = []
    for _ in range(parameters.deformation_waves):
        amplitude = rng.uniform(*parameters.deformation)
        way, direction = rng.uniform(0, 2 * math.pi, 2)
        number = 2 * math.pi / rng.uniform(*parameters.deformation_length)
        number_z = 2 * math.pi / rng.uniform(*parameters.deformation_length_z)
        waves.append(
            Wave(
                (amplitude * math.cos(way), amplitude * math.sin(way)),
                (number * math.cos(direction), number * math.sin(direction), number_z),
                rng.uniform(0, 2 * math.pi),
            )
        )
    shift = (rng.uniform(*parameters.shift), rng.uniform(*parameters.shift), rng.uniform(*parameters.shift_z))
    return Placement(
        size=size,
        slices=parameters.slices,
        pixel_mm=round(field_mm / size, 6),  # as DICOM's decimals have it
        slice_mm=parameters.slice_mm,
        shift=shift,
        turn=math.radians(rng.uniform(*parameters.rotation)),
        scale=rng.uniform(*parameters.scale),
        waves=tuple(waves),
    )
