"""Slices of simulated cases as a `torch.utils.data.Dataset`, made when they are asked for."""

from __future__ import annotations

import hashlib
import operator

import torch
from torch.utils.data import Dataset

from ddrsapc.data import Sample
from ddrsapc.phantom.draws import check_arguments, draw_case, parameters_or_default, slice_of_item, whole_number
from ddrsapc.phantom.parameters import PHANTOM_VERSION, PhantomParameters, Split
from ddrsapc.phantom.render import render_slice

__all__ = ["PhantomDataset"]


class PhantomDataset(Dataset[Sample]):
    """`n` simulated slices with labels, each of another case; usable where a `SliceDataset` is.

    An item is a `Sample`: `image`, an int16 tensor (size, size) of HU; `label`, a uint8 tensor (size, size) with the
    classes 0 none, 1 LAD (with LM), 2 LCX and 3 RCA; `name`, the case and in brackets the slice, "train0c00002[17]".

    Item i is a slice of `make_case(seed, i, split=split, size=size, parameters=parameters)`. It depends on nothing
    else: not on workers, threads, order or the items asked for before. How many mm a pixel of it has, along x and y, is
    `draw_case(seed, i, split=split, size=size, parameters=parameters).placement.pixel_mm`; slices are
    `.placement.slice_mm` thick.

    Args:
        split: "train", "val", "test" or "shifted" (other noise, field of view, kernel and contrast); no two have a
            case in common.
        size: pixels per side, at least 32.
        n: items.
        seed: of the whole set.
        calcium: the chance that an item of a case with coronary calcium is one of the slices through it; else, and
            in the other cases, any slice of the case.
        parameters: what is drawn from; None: the defaults.

    Raises:
        ValueError: for arguments out of their ranges.
        IndexError: at an item whose number is not in [-n, n).
        TypeError: at an item whose number is no whole number, as a slice.
        ImportError: at the first item, without the extra `phantom`.
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 512,
        n: int = 1000,
        seed: int = 0,
        *,
        calcium: float = 0.7,
        parameters: PhantomParameters | None = None,
    ) -> None:
        seed, _, size = check_arguments(seed, 0, split, size)
        n = whole_number("n", n, 1)
        if isinstance(calcium, bool) or not isinstance(calcium, int | float) or not 0 <= calcium <= 1:
            raise ValueError(f"calcium must be between 0 and 1, got {calcium!r}")
        self.split, self.size, self.n, self.seed, self.calcium = split, size, n, seed, calcium
        self.parameters = parameters_or_default(parameters)

    @property
    def fingerprint(self) -> str:
        """A hash of the arguments and the phantom's version, by which a training run knows its data again."""
        facts = (PHANTOM_VERSION, self.split, self.size, self.n, self.seed, self.calcium, self.parameters)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        try:
            index = operator.index(index)
        except TypeError as error:
            raise TypeError(f"items are numbered by whole numbers, got {index!r}") from error
        if not -self.n <= index < self.n:
            raise IndexError(f"item {index} of {self.n}")
        draw = draw_case(self.seed, index % self.n, split=self.split, size=self.size, parameters=self.parameters)
        z = slice_of_item(draw, self.calcium)
        rendered = render_slice(draw, z)
        return Sample(torch.from_numpy(rendered.hu), torch.from_numpy(rendered.labels), f"{draw.name}[{z}]")
