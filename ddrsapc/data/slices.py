"""The slices of checked cases as a `torch.utils.data.Dataset`."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ddrsapc.data.folder import Case
from ddrsapc.data.problems import DataError
from ddrsapc.data.readers import READERS, Readers, read

__all__ = ["Sample", "SliceDataset"]


class Sample(NamedTuple):
    """An axial slice, as it is in the file."""

    image: Tensor
    """HU, (H, W), int16 or float32."""
    label: Tensor
    """(H, W), uint8; 255 where a pixel does not count."""
    name: str


class SliceDataset(Dataset[Sample]):
    """Every slice of the cases, in their order; nothing is cropped, resampled or kept in memory.

    Args:
        cases: from `check_folder` or `load_splits`.
        readers: those that the cases were checked with.

    Raises:
        DataError: when an item's file cannot be read any more, or has changed its shape.
    """

    def __init__(self, cases: Sequence[Case], *, readers: Readers = READERS) -> None:
        self.cases, self.readers = tuple(cases), readers
        self._ends = list(accumulate(case.shape[0] for case in cases))

    @property
    def fingerprint(self) -> str:
        """A hash of the cases' names, patients, sizes and class pixels, by which a run knows its data again."""
        facts = [(case.name, case.patient, case.shape, case.class_pixels, case.hu_range) for case in self.cases]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        index %= len(self)
        position = bisect_right(self._ends, index)
        case = self.cases[position]
        z = index - (self._ends[position] - case.shape[0])
        image, label = read(case.image, self.readers.images), read(case.label, self.readers.labels)
        for path, array in ((case.image, image), (case.label, label)):
            if (array.shape if array.ndim == 3 else (1, *array.shape)) != case.shape:
                raise DataError(f"{path}: has changed since it was checked: {array.shape}, expected {case.shape}")
        if image.ndim == 3:
            image, label = image[z], label[z]
        name = case.name if case.shape[0] == 1 else f"{case.name}[{z}]"
        return Sample(_as_hu(image), torch.from_numpy(np.array(label, dtype=np.uint8)), name)


def _as_hu(image: NDArray[Any]) -> Tensor:
    dtype = np.int16 if np.issubdtype(image.dtype, np.integer) else np.float32
    return torch.from_numpy(np.array(image, dtype=dtype))
