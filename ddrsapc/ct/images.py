"""NIfTI, MetaImage and NRRD files, by SimpleITK: scans to volumes, label images as they stand, and written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, reason_of
from ddrsapc.ct.nifti import read_nifti_header, read_nifti_planes
from ddrsapc.ct.volume import (
    AIR,
    MAX_HU,
    MIN_HU,
    ROUNDING,
    Volume,
    VolumeMeta,
    check_spacing,
    make_affine,
    suffix_of,
)
from ddrsapc.files import write_atomically

__all__ = ["Image", "open_image", "read_image", "save_image"]

FORMATS = {
    ".nii": ("nifti", "NiftiImageIO"),
    ".nii.gz": ("nifti", "NiftiImageIO"),
    ".mha": ("metaimage", "MetaImageIO"),
    ".mhd": ("metaimage", "MetaImageIO"),
    ".nrrd": ("nrrd", "NrrdImageIO"),
    ".nhdr": ("nrrd", "NrrdImageIO"),
}
MAX_VOXELS = 1 << 31  # 8,192 slices of 512 x 512; more is a damaged header
SAME_CORNER = 0.05  # mm that two forms of a header may differ by at a corner
# where MetaImage and NRRD name the file of their values
DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
MAX_HEADER = 1 << 18  # bytes in which it stands


@dataclass(frozen=True, eq=False)
class Image:
    """An image file's geometry, and its values a plane at a time: those of a scan may take several times its HU."""

    shape: tuple[int, int, int]
    """(Z, H, W)"""
    affine: NDArray[np.float64]
    """(4, 4), of (column, row, slice, 1) in mm."""
    spacing: tuple[float, float, float]
    """(z, y, x) in mm."""
    planes: Iterator[NDArray[Any]]
    """(H, W) each, Z of them, once; going through them may raise CTError."""


def read_image(path: Path) -> Volume:
    """See `read_volume`."""
    image = open_image(path)
    hu = np.empty(image.shape, np.int16)  # (Z, H, W)
    for z, plane in enumerate(image.planes):
        low, high = float(plane.min()), float(plane.max())  # NaN anywhere makes both NaN
        if not (np.isfinite(low) and np.isfinite(high)):
            raise CTError(f"{path}: slice {z} has values that are not finite; mend them (air is {AIR})")
        if low < MIN_HU or high > MAX_HU:
            raise CTError(f"{path}: slice {z} has values from {low:g} to {high:g}, which are no HU; export it again")
        hu[z] = np.floor(plane + ROUNDING) if plane.dtype.kind == "f" else plane
        np.maximum(hu[z], AIR, out=hu[z])
    along = image.affine[:3, 2] @ image.affine[:3, 3] / image.spacing[0]  # mm, of the first slice
    positions = np.arange(len(hu)) * image.spacing[0] + along  # (Z,)
    return Volume(hu, image.spacing, image.affine, positions, VolumeMeta(FORMATS[suffix_of(path)][0], (path,)))


def open_image(path: Path) -> Image:
    """An image file, with its values still to be read.

    Raises:
        CTError: if it is damaged, or no 3D image of single values at right angles.
    """
    suffix = suffix_of(path)
    is_nifti = FORMATS[suffix][0] == "nifti"
    if not is_nifti:
        _check_data_files(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(FORMATS[suffix][1])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # ITK's only one
        raise _unreadable(path, error) from error
    size = reader.GetSize()
    if len(size) == 4 and size[3] == 1:
        size = size[:3]
    if len(size) != 3 or reader.GetNumberOfComponents() != 1 or 0 in size:
        raise CTError(
            f"{path}: is an image of {' x '.join(map(str, reader.GetSize()))} voxels with "
            f"{reader.GetNumberOfComponents()} value(s) each; expected one 3D image of single values"
        )
    spacing = (reader.GetSpacing()[2], reader.GetSpacing()[1], reader.GetSpacing()[0])
    check_spacing(path, spacing)
    if np.prod([float(side) for side in size]) > MAX_VOXELS:
        raise CTError(f"{path}: claims to have {' x '.join(map(str, size))} voxels; get it again, it is damaged")
    header = read_nifti_header(path) if is_nifti else None
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)[:3, :3]
    origin = np.array(reader.GetOrigin()[:3])
    if not (np.isfinite(direction).all() and np.isfinite(origin).all()):
        raise CTError(f"{path}: origin or direction is not finite; export it again")
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise CTError(f"{path}: its axes are not at right angles; resample it to upright voxels")
    affine = make_affine(origin, direction, spacing)
    if reader.HasMetaDataKey("sform_code"):
        if reader.GetMetaData("sform_code") == reader.GetMetaData("qform_code") == "0":
            raise CTError(f"{path}: does not say where it lies (sform and qform are unset); set one of them")
        if reader.GetMetaData("sform_code") != "0":
            _check_sform(path, reader, affine)
    shape = (size[2], size[1], size[0])
    planes = _read_planes(path, reader, shape) if header is None else read_nifti_planes(path, header, shape)
    return Image(shape, affine, spacing, planes)


def save_image(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write values (Z, H, W) with an affine (4, 4); the file is whole or not there.

    Raises:
        CTError: if it cannot be written.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)  # (x, y, z)
    image = sitk.GetImageFromArray(values)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    suffix = suffix_of(path)
    try:
        with TemporaryDirectory() as folder:
            whole = Path(folder, "image" + suffix)
            sitk.WriteImage(image, str(whole), useCompression=suffix != ".nii", imageIO=FORMATS[suffix][1])
            write_atomically(path, whole.read_bytes())
    except (RuntimeError, OSError) as error:
        raise CTError(f"{path}: cannot be written ({reason_of(error)})") from error


def _check_sform(path: Path, reader: sitk.ImageFileReader, affine: NDArray[np.float64]) -> None:
    """Refuse a NIfTI file whose sform, which others go by, says otherwise than what ITK made of qform and spacing."""
    try:
        sform = np.array([reader.GetMetaData(f"srow_{axis}").split() for axis in "xyz"], np.float64)  # (3, 4), RAS
    except ValueError:
        sform = np.full((3, 4), np.nan)
    sides = [(0, side) for side in reader.GetSize()[:3]]
    corners = np.stack(np.meshgrid(*sides, [1], indexing="ij"), -1).reshape(-1, 4)  # (8, 4)
    apart = corners @ (sform - np.diag([-1, -1, 1]) @ affine[:3]).T  # (8, 3) mm
    if not np.abs(apart).max() < SAME_CORNER:  # NaN is not
        raise CTError(f"{path}: its sform contradicts its qform or pixdim; export it again with one geometry")


def _check_data_files(path: Path) -> None:
    """Refuse a MetaImage or NRRD header whose values lie in another folder: what it names there may be anything."""
    with path.open("rb") as file:
        header = file.read(MAX_HEADER)
    found = DATA_FILE.search(header)
    if found is None:
        return
    is_list = found[1].strip().upper().startswith(b"LIST")
    for line in header[found.end() :].splitlines() if is_list else [found[1]]:
        name = line.decode(errors="replace").strip()
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(name).is_absolute() or ".." in kind(name).parts:
                raise CTError(f"{path}: has its values in another folder ({name[:80]!r}); put that file beside it")


def _read_planes(path: Path, reader: sitk.ImageFileReader, shape: tuple[int, int, int]) -> Iterator[NDArray[Any]]:
    """The planes (H, W) of what ITK reads whole."""
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    yield from sitk.GetArrayViewFromImage(image).reshape(shape)


def _unreadable(path: Path, error: Exception) -> CTError:
    return CTError(f"{path}: cannot be read ({reason_of(error)}); get the file again")
