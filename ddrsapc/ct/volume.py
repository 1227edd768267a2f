"""A CT scan as an array with its place in the patient, and reading one from any supported format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, needs_extra

__all__ = ["SeriesInfo", "Volume", "VolumeMeta", "list_series", "make_affine", "read_volume", "suffix_of"]

AIR = -1024
MIN_HU, MAX_HU = -32768, 32767
ROUNDING = 1e-3
"""HU that are added before the fraction is cut: 129.6 is below 130, but float32's 129.9999 is 130."""
IMAGES = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr")
PICTURES = (".png", ".jpg", ".jpeg")
DICOM = (".dcm", ".dicom", ".ima")
"""Suffixes that are DICOM's; its files often have none."""

MIN_MM, MAX_MM = 0.01, 50.0  # between voxels; anything else is a damaged header or another unit


@dataclass(frozen=True)
class SeriesInfo:
    """A DICOM series of a folder."""

    uid: str
    """SeriesInstanceUID; empty where it was removed."""
    description: str
    modality: str
    files: tuple[Path, ...]
    """Its files, by name."""

    def __str__(self) -> str:
        uid, description = self.uid or "(no UID)", self.description or "(no description)"
        return f"{uid}: {self.modality or '(no modality)'}, {len(self.files)} slices, {description}"


@dataclass(frozen=True)
class VolumeMeta:
    """What a file says of a scan besides its values; None or empty: it does not say."""

    format: str
    """"dicom", "nifti", "metaimage", "nrrd" or "picture"."""
    files: tuple[Path, ...]
    """The files it was read from; of a DICOM series in the order of the slices."""
    modality: str = ""
    kvp: float | None = None
    """Tube voltage, kV."""
    manufacturer: str = ""
    slice_thickness: float | None = None
    """mm; not the distance of slices."""
    series_uid: str = ""
    series_description: str = ""
    mass_factor: float | None = None
    """Calcium Scoring Mass Factor Patient (0018,9351), as it is in the file: taken for mg/(ml HU)."""
    mass_factor_device: tuple[float, ...] | None = None
    """Calcium Scoring Mass Factor Device (0018,9352), for small, medium and large patients."""
    contrast_agent: str = ""
    """Contrast/Bolus Agent (0018,0010), unless it says that there was none."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT scan.

    A voxel's place in the patient, in mm, is `affine @ (column, row, slice, 1)`: x grows to the patient's
    left, y to the back, z to the head (LPS, as DICOM and ITK have it). The slices of a DICOM series are in the
    order of their positions along the normal, rows times columns; those of other formats as in the file.
    """

    hu: NDArray[np.int16]
    """Hounsfield units (Z, H, W), from -1024: what was below, padding included, is air."""
    spacing: tuple[float, float, float] | None
    """(z, y, x) in mm; z is the distance of slice centres, of a single DICOM slice what it says of its thickness.
    None: a picture without one."""
    affine: NDArray[np.float64]
    """(4, 4); of a picture without spacing in pixels, not mm."""
    slice_positions: NDArray[np.float64]
    """(Z,) in mm along the affine's slice axis, ascending; for scores where they are not quite regular."""
    meta: VolumeMeta


def read_volume(
    path: str | os.PathLike[str],
    *,
    series: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> Volume:
    """Read a CT scan: a DICOM folder or file, NIfTI, MHD/MHA, NRRD, or a picture (PNG, JPEG).

    Args:
        path: a folder with the files of a DICOM series, whatever their names, or a file; one DICOM file is one slice.
        series: which series of a folder with several: its UID, an end of it, or its description.
        spacing: (z, y, x) in mm of a picture's pixels; refused for formats that have their own.
        window: (low, high) HU that the grey values 0 to 255 of an 8-bit picture span.

    Returns:
        The scan, HU int16 (Z, H, W).

    Raises:
        CTError: if it cannot be read, or not without guessing; one line that names the file and the way out.
        ImportError: without the extra `ct`.
    """
    path = Path(path)
    check_name(path)
    if not path.exists():
        raise CTError(f"{path}: there is no such file or folder")
    if not (path.is_file() or path.is_dir()):  # a pipe, from which nothing may ever come
        raise CTError(f"{path}: is neither a file nor a folder; copy what it gives to a file")
    suffix = suffix_of(path) if path.is_file() else ""
    is_picture = suffix in PICTURES
    if spacing is not None and not is_picture:
        raise CTError(f"{path}: has a spacing of its own; leave out spacing, which is for PNG and JPEG")
    if window is not None and not is_picture:
        raise CTError(f"{path}: has HU of its own; leave out window, which is for 8-bit PNG and JPEG")
    if series is not None and not path.is_dir():
        raise CTError(f"{path}: is a file; leave out series, which chooses among those of a DICOM folder")
    with needs_extra():
        if is_picture:
            from ddrsapc.ct.pictures import read_picture  # noqa: PLC0415  # an extra

            return read_picture(path, spacing=spacing, window=window)
        if suffix in IMAGES:
            from ddrsapc.ct.images import read_image  # noqa: PLC0415  # an extra

            return read_image(path)
        from ddrsapc.ct.dicom import read_dicom  # noqa: PLC0415  # an extra

    return read_dicom(path, series=series)


def list_series(folder: str | os.PathLike[str]) -> tuple[SeriesInfo, ...]:
    """The DICOM series of a folder, of all modalities, largest first.

    Raises:
        CTError: if it holds no DICOM files, or damaged ones.
        ImportError: without the extra `ct`.
    """
    with needs_extra():
        from ddrsapc.ct.series import group_series, read_headers  # noqa: PLC0415  # an extra

    return tuple(group.info for group in group_series(read_headers(Path(folder))))


def suffix_of(path: Path) -> str:
    """The suffix that says the format, in small letters; both parts of `.nii.gz`."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def check_name(path: Path) -> None:
    """Refuse a name that is no text: ITK would end the process.

    Raises:
        CTError: if it is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CTError(f"{str(path)!r}: the name is not in UTF-8; rename it") from error


def make_affine(
    origin: NDArray[np.float64], axes: NDArray[np.float64], spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """The affine (4, 4) of a first voxel's place (3,), unit vectors (3, 3) in columns x, y, z, and (z, y, x) mm."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing[::-1])
    affine[:3, 3] = origin
    return affine


def check_axial(volume: Volume) -> None:
    """Refuse a scan whose slices are not axial: networks and scores go by axial slices.

    Raises:
        CTError: if its slices lie closer to another plane.
    """
    if np.abs(volume.affine[:3, 2]).argmax() != 2:
        place = volume.meta.files[0] if volume.meta.files else "the scan"
        raise CTError(f"{place}: its slices are not axial; reorient it (SimpleITK.DICOMOrient does), and its mask")


def check_spacing(place: Path, spacing: tuple[float, float, float]) -> None:
    """Refuse distances (z, y, x) in mm that no CT scan has.

    Raises:
        CTError: if there are such.
    """
    if len(spacing) != 3 or not all(MIN_MM <= mm <= MAX_MM for mm in spacing):  # NaN is outside as well
        text = " x ".join(f"{mm:g}" for mm in spacing)
        raise CTError(
            f"{place}: voxels are {text} mm (z, y, x) apart; expected three numbers from {MIN_MM:g} to {MAX_MM:g} mm"
        )
