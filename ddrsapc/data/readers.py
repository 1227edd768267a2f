"""Files to arrays: one function per format, in dictionaries by extension that take further formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.data.problems import DataError

__all__ = [
    "READERS",
    "Reader",
    "Readers",
    "extension",
    "read",
    "read_npy",
    "read_npz",
    "read_png_image",
    "read_png_label",
]

Reader = Callable[[Path], NDArray[Any]]
"""Reads a file as an array (H, W), or (Z, H, W) for a volume: HU of an image, labels of a label file."""


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file, mapped into memory: a volume's slices are read one by one."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_npz(path: Path) -> NDArray[Any]:
    """The only array of a `.npz` file. A volume is decompressed whole for every slice: `.npy` is faster."""
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            raise DataError(f"holds the arrays {', '.join(archive.files) or '(none)'}; expected one")
        array: NDArray[Any] = archive[archive.files[0]]
        return array


def read_png_image(path: Path, *, window: tuple[float, float] | None = None) -> NDArray[Any]:
    """HU of a grey PNG: HU + 1024 with 16 bits; with 8 bits, the window (low, high) HU that 0 to 255 span."""
    grey = _read_png(path)
    if grey.dtype != np.uint8:
        return grey.astype(np.int32) - 1024
    if window is None:
        raise DataError("has 8-bit grey values, not HU; give the HU window they span (read_png_image's window)")
    low, high = window
    return (low + grey.astype(np.float32) * ((high - low) / 255)).astype(np.float32)


def read_png_label(path: Path) -> NDArray[Any]:
    """Labels of a PNG: its grey values, or the indices of its palette."""
    return _read_png(path)


def _read_png(path: Path) -> NDArray[Any]:
    try:
        from PIL import Image  # noqa: PLC0415  # an extra
    except ImportError:
        raise DataError('needs Pillow to be read: pip install "ddrsapc[train]"') from None
    with Image.open(path) as image:
        if image.mode not in {"1", "L", "P", "I", "I;16", "I;16B"}:
            raise DataError(f"is a colour picture (mode {image.mode}); expected one grey value or label per pixel")
        array = np.array(image)
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


@dataclass(frozen=True)
class Readers:
    """The readers by extension, for images and for label files.

    Example:
        >>> with_text = Readers(images={**Readers().images, ".txt": np.loadtxt})
    """

    images: Mapping[str, Reader] = field(
        default_factory=lambda: {".npy": read_npy, ".npz": read_npz, ".png": read_png_image}
    )
    labels: Mapping[str, Reader] = field(
        default_factory=lambda: {".npy": read_npy, ".npz": read_npz, ".png": read_png_label}
    )


READERS = Readers()


def extension(path: Path, readers: Mapping[str, Reader]) -> str | None:
    """The longest key of `readers` that the file's name ends with; None if there is none."""
    matches = [key for key in readers if path.name.lower().endswith(key.lower())]
    return max(matches, key=len, default=None)


def read(path: Path, readers: Mapping[str, Reader]) -> NDArray[Any]:
    """The array of a file, by the reader of its extension.

    Raises:
        DataError: if it cannot be read; the message names the file.
    """
    key = extension(path, readers)
    if key is None:
        raise DataError(f"{path}: no reader for this format; known are {', '.join(readers)}")
    try:
        return _read_in_threads(readers[key], path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # readers of damaged files raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason})") from error


def _read_in_threads(reader: Reader, path: Path, tries: int = 9) -> NDArray[Any]:
    try:
        return reader(path)
    except SystemError:  # Python 3.11 (gh-106905): NumPy parses headers by `ast`, which threads disturb there
        if not tries:
            raise
    return _read_in_threads(reader, path, tries - 1)
