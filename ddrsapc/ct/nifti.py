"""The values of NIfTI-1 files, plane by plane.

ITK reads their geometry, but not their values: it fills up a file that is cut short with whatever was in memory, sets
values that are not finite to 0, takes those of `scan.nii` for `scan.nii.gz` if both are there, and needs several times
their memory.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, reason_of

__all__ = ["NiftiHeader", "read_nifti_header", "read_nifti_planes"]

MIN_HEADER = 352  # bytes before the values of a NIfTI file, at least
MAX_TAIL = 1 << 16  # bytes that are read behind the values, so that the checksum of what is packed is checked
MAX_START = 1 << 24  # bytes before the values; comments and the like may stand there
DTYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8"}


@dataclass(frozen=True)
class NiftiHeader:
    """How values are stored."""

    dtype: np.dtype[Any]
    start: int
    """Bytes before the values."""
    slope: float
    intercept: float


def read_nifti_header(path: Path) -> NiftiHeader:
    """The header of a `.nii` or `.nii.gz` file.

    Raises:
        CTError: if it is none, damaged, without a voxel size, or of values that are no single numbers.
    """
    try:
        with _open(path) as file:
            header = file.read(MIN_HEADER)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    order = {b"\x5c\x01\0\0": "<", b"\0\0\x01\x5c": ">"}.get(header[:4])  # 348, the header's size
    if order is None or header[344:347] != b"n+1":  # else ITK takes it for Analyze, without orientation
        raise CTError(f"{path}: is no NIfTI-1 file; convert it to one")
    sizes = np.frombuffer(header, f"{order}f4", 3, offset=80)  # pixdim, mm
    if not (np.isfinite(sizes).all() and (sizes != 0).all()):
        raise CTError(f"{path}: has voxels of {' x '.join(f'{size:g}' for size in sizes)} mm; export it again")
    code = int(np.frombuffer(header, f"{order}i2", 1, offset=70)[0])
    if code not in DTYPES:
        raise CTError(f"{path}: has values of NIfTI's type {code}; expected single whole or decimal numbers")
    offset, slope, intercept = np.frombuffer(header, f"{order}f4", 3, offset=108).astype(np.float64).tolist()
    if not 0 <= offset <= MAX_START:
        raise CTError(f"{path}: has its values at byte {offset:g}; get the file again, it is damaged")
    if slope == 0 and intercept != 0:  # programs differ in whether it counts
        raise CTError(f"{path}: has an intercept of {intercept:g} and a slope of 0; set the slope (scl_slope) to 1")
    if slope == 0 or not np.isfinite(slope):  # there is none
        slope, intercept = 1.0, 0.0
    return NiftiHeader(np.dtype(order + DTYPES[code]), max(int(offset), MIN_HEADER), slope, intercept)


def read_nifti_planes(path: Path, header: NiftiHeader, shape: tuple[int, int, int]) -> Iterator[NDArray[Any]]:
    """The values of each plane (H, W), scaled; no more than the header's size is unpacked.

    Args:
        path: the file.
        header: its own.
        shape: (Z, H, W).

    Raises:
        CTError: if it is damaged or cut short.
    """
    length = shape[1] * shape[2] * header.dtype.itemsize
    needed = header.start + shape[0] * length
    try:
        with _open(path) as file:
            read = len(file.read(header.start))
            for _ in range(shape[0]):
                data = file.read(length)
                read += len(data)
                if len(data) < length:
                    raise CTError(f"{path}: is cut short, {read} of {needed} bytes; get the file again")
                plane = np.frombuffer(data, header.dtype).reshape(shape[1:])
                is_scaled = (header.slope, header.intercept) != (1, 0)
                yield plane * header.slope + header.intercept if is_scaled else plane
            file.read(MAX_TAIL)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The unpacked bytes; a file that is named `.nii.gz` need not be packed."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_packed else path.open("rb")


def _damaged(path: Path, error: Exception) -> CTError:
    return CTError(f"{path}: is damaged or cut short ({reason_of(error)}); get the file again")
