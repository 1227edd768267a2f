"""The slices of a scored scan as radiologists see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ddrsapc.ct import SliceOrientation, Volume
from ddrsapc.report.overlay import IGNORED
from ddrsapc.scoring import CalciumScore, lesion_voxels

__all__ = ["ScanViews", "SliceView"]


@dataclass(frozen=True, eq=False)
class SliceView:
    """A slice, upright: columns run to the patient's left, rows to the back."""

    index: int
    """In the volume, from 0."""
    position_mm: float
    """Towards the head."""
    hu: NDArray[np.int16]
    """(H, W), or (W, H) of the volume where it is stored with rows and columns exchanged; as the next two."""
    labels: NDArray[np.uint8]
    """Of voxels that count; `IGNORED` where a label does not count."""
    lesions: NDArray[np.int32]
    """Numbers of lesions, 0 for none."""
    spacing: tuple[float, float]
    """(y, x) of a pixel in mm."""

    numbers: tuple[int, ...]
    """Of its lesions, ascending."""


class ScanViews:
    """The slices of a scored scan, made one at a time.

    Args:
        volume: the scan, (Z, H, W).
        labels: those that were scored, (Z, H, W).
        score: their score.
    """

    def __init__(self, volume: Volume, labels: NDArray[np.uint8], score: CalciumScore) -> None:
        self._volume, self._labels = volume, labels
        self._spacing = score.settings.pixel_spacing_mm
        self._lesions = lesion_voxels(volume.hu, labels, score)
        self._orientation = SliceOrientation.of(volume.affine)
        self._ranked = self._by_largest_lesion()
        self.not_counted = int(np.count_nonzero(labels)) - sum(len(numbers) for _, numbers in self._lesions.values())
        """Voxels with a label that do not count."""
        self.head_first = sorted(range(len(volume.hu)), key=self.position, reverse=True)
        """All slices, from head to feet."""

    def __len__(self) -> int:
        return len(self._volume.hu)

    def position(self, index: int) -> float:
        """Of a slice, in mm towards the head."""
        towards_head = 1 if self._volume.affine[2, 2] > 0 else -1
        return towards_head * float(self._volume.slice_positions[index])

    def view(self, index: int) -> SliceView:
        """A slice."""
        labels = np.where(self._labels[index] > 0, IGNORED, 0).astype(np.uint8)
        lesions = np.zeros(labels.shape, np.int32)
        numbers: tuple[int, ...] = ()
        if index in self._lesions:
            (y, x), here = self._lesions[index]
            labels[y, x] = self._labels[index, y, x]
            lesions[y, x] = here
            numbers = tuple(np.unique(here).tolist())
        hu, labels, lesions = (
            self._orientation.upright(torch.from_numpy(x)).numpy()
            for x in (self._volume.hu[index].copy(), labels, lesions)  # the scan may be read-only
        )
        y_mm, x_mm = self._spacing
        spacing = (x_mm, y_mm) if self._orientation.exchanged else (y_mm, x_mm)
        return SliceView(index, self.position(index), hu, labels, lesions, spacing, numbers)

    def calcified(self, most: int | None = None) -> list[int]:
        """The slices with calcium that counts, from head to feet.

        Args:
            most: no more than these, first those in which lesions are largest.
        """
        return sorted(self._ranked[:most], key=self.position, reverse=True)

    def _by_largest_lesion(self) -> list[int]:
        """The slices with calcium, first those in which some lesion is largest, of each kind those with most of it."""
        largest: dict[int, tuple[int, int]] = {}  # by lesion: pixels, slice
        for z, (_, numbers) in self._lesions.items():
            for number, pixels in zip(*(x.tolist() for x in np.unique(numbers, return_counts=True)), strict=True):
                largest[number] = max(largest.get(number, (0, z)), (pixels, z))
        first = {z for _, z in largest.values()}
        return sorted(self._lesions, key=lambda z: (z in first, len(self._lesions[z][1])), reverse=True)

    def evenly(self, most: int) -> list[int]:
        """Slices from head to feet, as far apart as so many can be."""
        places = (np.arange(min(most, len(self))) + 0.5) / min(most, len(self)) * len(self)
        return [self.head_first[int(place)] for place in places]

    def region(self) -> NDArray[np.bool_]:
        """Where any slice has calcium that counts, (H, W), upright."""
        marked = np.zeros(self._labels.shape[1:], bool)
        for (y, x), _ in self._lesions.values():
            marked[y, x] = True
        return self._orientation.upright(torch.from_numpy(marked)).numpy()
