"""NIfTI, MetaImage and NRRD files, by SimpleITK: scans to volumes, label images as they stand, and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, reason_of, silence
from ddrsapc.ct.headers import check_metaimage_header, check_nrrd_header
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
    kind, reader_name = FORMATS[suffix_of(path)]
    header, held = None, None
    if kind == "nifti":
        header = read_nifti_header(path)
    else:
        held = check_metaimage_header(path) if kind == "metaimage" else check_nrrd_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(str(path))
    try:
        with silence:
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
    planes = _read_planes(path, reader, shape, held) if header is None else read_nifti_planes(path, header, shape)
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


def _read_planes(
    path: Path, reader: sitk.ImageFileReader, shape: tuple[int, int, int], held: int | None
) -> Iterator[NDArray[Any]]:
    """The planes (H, W) of what ITK reads whole; `held`: how many bytes it should be, if known."""
    try:
        with silence:
            image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    values = sitk.GetArrayViewFromImage(image)
    if held not in {None, values.nbytes}:  # ITK takes what it needs
        raise CTError(f"{path}: holds {held} bytes of values, by its header {values.nbytes}; get the file again")
    yield from values.reshape(shape)


def _unreadable(path: Path, error: Exception) -> CTError:
    return CTError(f"{path}: cannot be read ({reason_of(error)}); get the file again")
