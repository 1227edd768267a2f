"""A folder of image/label pairs: found, and checked before anything is trained on it.

    folder/images/p01/0001.npy   HU, (H, W) or (Z, H, W)
    folder/labels/p01/0001.npy   labels of the same shape: classes from 0, 255 where a pixel does not count

The formats of the two may differ. CT scans among them must have been made arrays of by `prepare_scans`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc.data.problems import DataError, Problem, raise_problems
from ddrsapc.data.readers import READERS, Reader, Readers, extension, read
from ddrsapc.data.scan_files import find_scans
from ddrsapc.data.scans import PreparedScans
from ddrsapc.models.base import MIN_SIZE

__all__ = [
    "Case",
    "FolderReport",
    "check_folder",
    "patient_by_pattern",
    "patient_of",
]

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Case:
    """A checked pair of files."""

    name: str
    """Path below `images`, without extension."""
    patient: str
    image: Path
    label: Path
    shape: tuple[int, int, int]
    """(Z, H, W); Z = 1 for a single slice."""
    class_pixels: tuple[int, ...]
    """Pixels per class."""
    hu_range: tuple[float, float]


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found."""

    folder: Path
    cases: tuple[Case, ...]
    """The sound pairs, sorted by name."""
    problems: tuple[Problem, ...]

    def raise_for_problems(self) -> None:
        """Raise a DataError that lists every problem with its file, if there is any, or if there are no pairs."""
        raise_problems(self.folder, self.problems)
        if not self.cases:
            raise DataError(f"{self.folder} has no pairs; expected files in images/ and of the same names in labels/")

    def summary(self) -> str:
        """Counts, sizes, HU range and class frequencies, in a few lines; a warning where the values look odd."""
        sizes = Counter(f"{h} x {w}" for _, h, w in (case.shape for case in self.cases))
        lines = [
            f"{self.folder}: {len({case.patient for case in self.cases})} patients, {len(self.cases)} files, "
            f"{sum(case.shape[0] for case in self.cases)} slices; {len(self.problems)} problem(s)"
        ]
        if self.cases:
            lows, highs = zip(*(case.hu_range for case in self.cases), strict=True)
            lines.append(f"HU {min(lows):g} to {max(highs):g}; " + ", ".join(f"{n} of {s}" for s, n in sizes.items()))
            if min(lows) > -200:
                lines.append("warning: no value is below -200 HU, as air, lung and fat would be: are these HU?")
            pixels = np.array([case.class_pixels for case in self.cases])  # (cases, classes)
            for c, (count, files) in enumerate(zip(pixels.sum(0), (pixels > 0).sum(0), strict=True)):
                lines.append(f"class {c}: {count} pixels ({count / max(pixels.sum(), 1):.4%}), in {files} files")
        return "\n".join(lines)


def patient_of(name: str) -> str:
    """The patient of a case: the first folder below `images`, else the name without a trailing slice number.

    Example:
        >>> patient_of("p01/series2/0007"), patient_of("p01_0007"), patient_of("p01")
        ('p01', 'p01', 'p01')
    """
    folder, slash, _ = name.partition("/")
    return folder if slash else re.sub(r"[_-][A-Za-z]*\d+$", "", name)


def patient_by_pattern(pattern: str) -> Callable[[str], str]:
    """A function like `patient_of`, by a regular expression: its first group where it has one, else what it matches.

    The function raises DataError for a name that does not match.

    Raises:
        ValueError: if it is no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

    def patient(name: str) -> str:
        found = expression.search(name)
        if found is None:
            raise DataError(f"{name}: the pattern {pattern!r} finds no patient in this name")
        return str(found[1] if expression.groups else found[0])

    return patient


def check_folder(
    folder: Path,
    *,
    num_classes: int = 4,
    patient: Callable[[str], str] = patient_of,
    readers: Readers = READERS,
    scans: PreparedScans | None = None,
) -> FolderReport:
    """Read every pair of a folder once and say what is wrong with it, all of it.

    Checked are: pairs complete, files readable, sizes equal and at least 32 x 32, dtypes, HU finite and plausible,
    labels among the classes.

    Args:
        folder: has `images` and `labels` inside, with files of the same names.
        num_classes: classes, background included.
        patient: patient of a case's name.
        readers: of images (HU (H, W) or (Z, H, W)) and of label files (integers of the image's shape).
        scans: what `prepare_scans` made of the CT scans in the folder, or in a folder around it.
    """
    found = find_scans(folder, readers)
    problems: list[Problem] = []
    images = _files(folder / "images", readers.images, problems, found.files)
    labels = _files(folder / "labels", readers.labels, problems, found.files)
    for name in sorted(images.keys() ^ labels.keys()):
        file, other = (images[name], "labels") if name in images else (labels[name], "images")
        problems.append(Problem(file, f"has no partner {other}/{name}.*"))
    pairs = {name: (images[name], labels[name]) for name in images.keys() & labels.keys()}

    here = () if scans is None else scans.scans
    made = {item.pair.name: item for item in here if item.pair.folder.resolve() == folder.resolve()}
    for pair in found.pairs:
        if pair.name not in made:
            problems.append(Problem(pair.scan, "is a CT scan, of which prepare_scans must make an array first"))
        elif problem := made[pair.name].problem:
            problems.append(problem)
        elif pair.name in images:
            problems.append(Problem(pair.scan, f"has the same name as {images[pair.name].name}"))
        else:
            pairs[pair.name] = (made[pair.name].image, made[pair.name].label)
    source = {item.image: item.pair.scan for item in made.values()} | {i.label: i.pair.mask for i in made.values()}

    def check(name: str) -> Case | Problem:
        image, label = pairs[name]
        try:
            return _check_pair(name, patient(name), image, label, num_classes=num_classes, readers=readers)
        except _BadFileError as error:
            return Problem(source.get(error.file, error.file), str(error))
        except DataError as error:  # of `patient`
            return Problem(source.get(image, image), str(error))

    with ThreadPoolExecutor() as pool:  # reading waits for the disk
        results = pool.map(check, sorted(pairs))
        checked = list(tqdm(results, "checking", len(pairs), unit="file", leave=False, disable=None))
    problems += [*found.problems, *(result for result in checked if isinstance(result, Problem))]
    cases = tuple(result for result in checked if isinstance(result, Case))
    return FolderReport(folder, cases, tuple(sorted(problems)))


class _BadFileError(Exception):
    def __init__(self, file: Path, message: str) -> None:
        super().__init__(message)
        self.file = file


def _files(
    folder: Path, readers: Mapping[str, Reader], problems: list[Problem], others: Collection[Path]
) -> dict[str, Path]:
    """Files by their path below `folder` without extension; `others` are passed over."""
    if not folder.is_dir():
        problems.append(Problem(folder, "is missing; expected a folder with images/ and labels/ inside"))
        return {}
    files: dict[str, Path] = {}
    for path in sorted(Path(parent, file) for parent, _, own in os.walk(folder, followlinks=True) for file in own):
        relative = path.relative_to(folder)
        if path in others or any(part.startswith(".") for part in relative.parts):
            continue
        key = extension(path, readers)
        if key is None:
            known = ", ".join(readers)
            problems.append(Problem(path, f"is of a format without a reader; known are {known}, and CT scans"))
            continue
        name = relative.as_posix()[: -len(key)]
        if name in files:
            problems.append(Problem(path, f"has the same name as {files[name].name}"))
        files.setdefault(name, path)
    return files


def _check_pair(
    name: str,
    patient: str,
    image_path: Path,
    label_path: Path,
    *,
    num_classes: int,
    readers: Readers,
) -> Case:
    image, label = _read(image_path, readers.images), _read(label_path, readers.labels)
    hu_range = _check_image(image_path, image)
    if label.shape != image.shape:
        raise _BadFileError(label_path, f"is {_size(label)}, but its image {_size(image)}")
    if not np.issubdtype(label.dtype, np.integer):
        raise _BadFileError(label_path, f"has labels of type {label.dtype}; expected integers")
    values, counts = np.unique(label, return_counts=True)
    outside = [int(v) for v in values if not 0 <= v < num_classes and v != IGNORE_INDEX]
    if outside:
        raise _BadFileError(
            label_path,
            f"has labels {', '.join(map(str, outside[:5]))}{', ...' if len(outside) > 5 else ''} outside the "
            f"{num_classes} classes 0 to {num_classes - 1} (255 marks pixels that do not count)",
        )
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    shape = (1, *image.shape) if image.ndim == 2 else image.shape
    pixels = tuple(found.get(c, 0) for c in range(num_classes))
    return Case(name, patient, image_path, label_path, shape, pixels, hu_range)


def _check_image(path: Path, image: NDArray[Any]) -> tuple[float, float]:
    """The range of HU."""
    if image.ndim == 3 and image.shape[0] == image.shape[1] != image.shape[2]:
        raise _BadFileError(path, f"is {_size(image)}, which looks like (H, W, Z); expected (Z, H, W)")
    if image.ndim not in (2, 3) or image.size == 0 or min(image.shape[-2:]) < MIN_SIZE:
        raise _BadFileError(path, f"is {_size(image)}; expected (H, W) or (Z, H, W), at least {MIN_SIZE} x {MIN_SIZE}")
    if not (np.issubdtype(image.dtype, np.integer) or np.issubdtype(image.dtype, np.floating)):
        raise _BadFileError(path, f"has values of type {image.dtype}; expected HU as integers or floats")
    low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN anywhere makes both NaN
        raise _BadFileError(path, "has values that are not finite")
    # scaled to [0, 1] or [0, 255], or standardised; stored values without the rescale intercept
    is_scaled = np.issubdtype(image.dtype, np.floating) and ((low >= 0 and high <= 255) or high - low < 50)
    if is_scaled or np.issubdtype(image.dtype, np.unsignedinteger) or low < -32768 or high > 32767:
        raise _BadFileError(path, f"has values from {low:g} to {high:g}, which are no HU; expected about -1024 to 3071")
    return low, high


def _read(path: Path, readers: Mapping[str, Reader]) -> NDArray[Any]:
    try:
        return read(path, readers)
    except DataError as error:
        raise _BadFileError(path, str(error).removeprefix(f"{path}: ")) from error


def _size(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "a single number"
