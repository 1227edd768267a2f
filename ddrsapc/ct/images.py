"""NIfTI, MetaImage and NRRD files, by SimpleITK: scans to volumes, label images as they stand, and written."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, reason_of
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

__all__ = ["load_image", "read_image", "save_image"]

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
MIN_HEADER = 352  # bytes before the values of a NIfTI file, at least
FLOATS = {16: "f4", 64: "f8"}  # NIfTI's codes


def read_image(path: Path) -> Volume:
    """See `read_volume`."""
    values, affine, spacing = load_image(path)
    hu = np.empty(values.shape, np.int16)  # (Z, H, W)
    for z, plane in enumerate(values):
        low, high = float(plane.min()), float(plane.max())  # NaN anywhere makes both NaN
        if not (np.isfinite(low) and np.isfinite(high)):
            raise CTError(f"{path}: slice {z} has values that are not finite; mend them (air is {AIR})")
        if low < MIN_HU or high > MAX_HU:
            raise CTError(f"{path}: slice {z} has values from {low:g} to {high:g}, which are no HU; export it again")
        hu[z] = np.maximum(np.floor(plane + ROUNDING), AIR)
    positions = np.arange(len(hu)) * spacing[0] + affine[:3, 2] @ affine[:3, 3] / spacing[0]  # (Z,)
    return Volume(hu, spacing, affine, positions, VolumeMeta(FORMATS[suffix_of(path)][0], (path,)))


def load_image(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], tuple[float, float, float]]:
    """Values (Z, H, W), affine (4, 4) and spacing (z, y, x) in mm of an image file.

    Raises:
        CTError: if it is damaged, cut short, or no 3D image of single values.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO(FORMATS[suffix_of(path)][1])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
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
        if suffix_of(path) in {".nii", ".nii.gz"}:
            _check_nifti(path, reader)
        image = reader.Execute()
    except RuntimeError as error:  # ITK's only one
        raise CTError(f"{path}: cannot be read ({reason_of(error)}); get the file again") from error
    values = sitk.GetArrayFromImage(image)
    direction = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:3, :3]
    origin = np.array(image.GetOrigin()[:3])
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
    return values.reshape(size[::-1]), affine, spacing


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


def _check_nifti(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse what ITK would mend in silence: a file that is cut short, values that are not finite, no pixel size.

    It fills up with whatever was in memory, with 0, and with 1 mm.
    """
    try:
        bits, kind = int(reader.GetMetaData("bitpix")), int(reader.GetMetaData("datatype"))
        start = max(int(float(reader.GetMetaData("vox_offset"))), MIN_HEADER)
        needed = start + int(np.prod(reader.GetSize(), dtype=np.int64)) * bits // 8
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as data:
            header = data.read(start)
            order = {b"\x5c\x01": "<", b"\x01\x5c": ">"}.get(header[:4].strip(b"\0"))  # 348, the header's size
            if order is None or header[344:347] != b"n+1":  # else ITK takes it for Analyze, without orientation
                raise CTError(f"{path}: is no NIfTI-1 file; convert it to one")
            sizes = np.frombuffer(header, f"{order}f4", 3, offset=80)  # pixdim, mm
            if not (np.isfinite(sizes).all() and (sizes != 0).all()):
                raise CTError(f"{path}: has voxels of {' x '.join(f'{size:g}' for size in sizes)} mm; export it again")
            length = len(header)
            while block := data.read(1 << 20):
                if kind in FLOATS:
                    count = max(0, min(len(block), needed - length)) // (bits // 8)  # not what follows the values
                    if not np.isfinite(np.frombuffer(block, order + FLOATS[kind], count)).all():
                        raise CTError(f"{path}: has values that are not finite; mend them (air is {AIR})")
                length += len(block)
    except CTError:
        raise
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise CTError(f"{path}: is damaged or cut short ({reason_of(error)}); get the file again") from error
    if length < needed:
        raise CTError(f"{path}: is cut short, {length} of {needed} bytes; get the file again")
