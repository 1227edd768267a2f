"""CT scans and their masks in a folder of training data: found by name, nothing of them read.

folder/images/p01/*.dcm     a folder with a DICOM series; or images/p01.nii.gz, .mha, .mhd, .nrrd
folder/labels/p01.nii.gz    a mask in the scan's geometry; or .dcm (DICOM SEG), .xml, .plist (COCA)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ddrsapc.ct.sources import HEADERS, is_dicom_file
from ddrsapc.ct.volume import IMAGES, suffix_of
from ddrsapc.data.problems import Problem
from ddrsapc.data.readers import READERS, Reader, Readers, extension

__all__ = ["COCA", "SPLITS", "ScanFiles", "ScanPair", "find_scans", "split_folders"]

SPLITS = ("train", "val", "test")
COCA = (".xml", ".plist")
_MASKS = (*IMAGES, ".dcm", *COCA)
_VALUES = (".raw", ".zraw", ".gz", ".bz2")  # of formats with values in a file beside


@dataclass(frozen=True)
class ScanPair:
    """A scan and its mask."""

    folder: Path
    """With images/ and labels/ inside."""
    name: str
    """The scan's path below images/, without suffix."""
    scan: Path
    """A file, or the folder of a DICOM series."""
    mask: Path


@dataclass(frozen=True)
class ScanFiles:
    """What of a folder are scans and masks."""

    pairs: tuple[ScanPair, ...]
    """Sorted by name."""
    problems: tuple[Problem, ...]
    """Scans without a mask, masks without a scan, names that occur twice."""
    files: frozenset[Path]
    """All files of the scans and masks; the others are arrays, or of no known format."""


def split_folders(folder: Path) -> list[Path]:
    """The folders `train`, `val` and `test` where there are some, else the folder itself."""
    return [folder / split for split in SPLITS if (folder / split).is_dir()] or [folder]


def find_scans(folder: Path, readers: Readers = READERS) -> ScanFiles:
    """Find the scans and masks of a folder with images/ and labels/ inside; what `readers` read is none.

    A mask has its scan's name, or that of a folder around it in which there is no other scan: COCA's `0.xml` is the
    mask of `0/Pro_Gated_CS/`.
    """
    problems: list[Problem] = []
    files: set[Path] = set()
    scans = _named(_scans(folder, readers, files, problems), problems)
    masks = _named(_masks(folder, readers, files), problems)
    inside = Counter(around for name in scans for around in _around(name))
    pairs = []
    for name, scan in scans.items():
        mask = next((key for key in _around(name) if key in masks and (key == name or inside[key] == 1)), None)
        if mask is None:
            problems.append(Problem(scan, f"is a scan without a mask labels/{name}.* ({', '.join(_MASKS)})"))
        else:
            pairs.append(ScanPair(folder, name, scan, masks.pop(mask)))
    problems += [Problem(mask, f"is a mask without a scan images/{name}") for name, mask in masks.items()]
    return ScanFiles(tuple(sorted(pairs, key=lambda pair: pair.name)), tuple(problems), frozenset(files))


def _scans(folder: Path, readers: Readers, files: set[Path], problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    root = folder / "images"
    for parent, paths in _walk(root, readers.images):
        images = _images(paths, files)
        yield from ((_name(image, root), image) for image in images)
        others = [path for path in paths if path not in files]
        first = next((path for path in others if is_dicom_file(path)), None)
        if first is not None and parent == root:
            files.update(path for path in others if is_dicom_file(path))
            problems.append(Problem(first, "lies directly in images/; give each DICOM series a folder there"))
        elif first is not None:
            files.update(others)
            yield parent.relative_to(root).as_posix(), parent


def _masks(folder: Path, readers: Readers, files: set[Path]) -> Iterator[tuple[str, Path]]:
    root = folder / "labels"
    for _, paths in _walk(root, readers.labels):
        masks = [*_images(paths, files), *(path for path in paths if suffix_of(path) in _MASKS[len(IMAGES) :])]
        files.update(masks)
        yield from ((_name(mask, root), mask) for mask in masks)


def _walk(root: Path, readers: Mapping[str, Reader]) -> Iterator[tuple[Path, list[Path]]]:
    """The folders from `root` on with their files that are no arrays."""
    for parent, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield Path(parent), [path for path in paths if extension(path, readers) is None]


def _images(paths: list[Path], files: set[Path]) -> list[Path]:
    """The image files; they are added to `files`, as are the files beside them that hold their values."""
    images = [path for path in paths if suffix_of(path) in IMAGES]
    headers = tuple(f"{path.stem}." for path in images if suffix_of(path) in HEADERS)
    files.update(images)
    files.update(path for path in paths if path.suffix.lower() in _VALUES and path.name.startswith(headers or ("/",)))
    return images


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()[: -len(suffix_of(path))]


def _around(name: str) -> list[str]:
    """A path and the paths of the folders around it, the nearest first."""
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _named(found: Iterator[tuple[str, Path]], problems: list[Problem]) -> dict[str, Path]:
    """The first path of every name."""
    known: dict[str, Path] = {}
    for name, path in found:
        if name in known:
            problems.append(Problem(path, f"has the same name as {known[name].name}"))
        known.setdefault(name, path)
    return known
