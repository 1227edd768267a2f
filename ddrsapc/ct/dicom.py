"""DICOM CT images, single slices each, to a volume: geometry checked before any pixel is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEGExtended12Bit

from ddrsapc.ct.errors import CTError
from ddrsapc.ct.series import (
    Header,
    choose_series,
    group_series,
    read_dataset,
    read_header,
    read_headers,
    reading,
)
from ddrsapc.ct.volume import AIR, MAX_HU, ROUNDING, Volume, VolumeMeta, check_spacing, make_affine

__all__ = ["read_dicom"]

MAX_TILT = np.deg2rad(1.0)
SAME_PLACE = 1e-3  # mm
MAX_SHIFT = 0.1  # mm that a slice may lie beside the first one's normal, however small the pixels are
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP classes
_NO_AGENT = re.compile(  # text that somebody typed
    r"-*|0|n|na|n/a|nil|none|unenhanced|(no|non|without|w/o)([ -]*(iv|i\.v\.))?([ -]*contrast)?", re.IGNORECASE
)
ENHANCED = (f"{CT_IMAGE}.1", f"{CT_IMAGE}.2")  # the second one is converted from single slices


@dataclass(frozen=True)
class Slice:
    """A checked header."""

    header: Header
    shape: tuple[int, int]
    """(H, W)"""
    origin: NDArray[np.float64]
    """(3,) place of the first pixel, mm."""
    axes: NDArray[np.float64]
    """(3, 3) unit vectors in columns: x along a row, y along a column, z the normal."""
    pixel_spacing: tuple[float, float]
    """(y, x) in mm."""
    slope: float
    intercept: float
    kvp: float | None

    @property
    def file(self) -> Path:
        """Its file."""
        return self.header.file

    @property
    def position(self) -> float:
        """Along its normal, mm."""
        return float(self.origin @ self.axes[:, 2])


def read_dicom(path: Path, *, series: str | None = None) -> Volume:
    """See `read_volume`; `path` is a folder or a file."""
    if path.is_dir():
        headers: Sequence[Header] = choose_series(path, group_series(read_headers(path)), series).headers
    else:
        header = read_header(path)
        if header is None:
            raise CTError(
                f"{path}: is of no format that can be read; expected DICOM, NIfTI, MHD, MHA, NRRD, PNG or JPEG"
            )
        headers = [header]
    slices = sorted((check_header(header) for header in headers), key=lambda item: item.position)
    check_alike(slices)
    positions = np.array([item.position for item in slices])
    distance = check_positions(slices, positions)
    first = slices[0]
    spacing = (distance, *first.pixel_spacing)
    check_spacing(first.file, spacing)
    top = read_hu(first)  # before memory is taken for a size that only the header claims
    hu = np.empty((len(slices), *first.shape), np.int16)  # (Z, H, W)
    hu[0] = top
    for z, item in enumerate(slices[1:], 1):
        hu[z] = read_hu(item)
    return Volume(hu, spacing, make_affine(first.origin, first.axes, spacing), positions, _meta(slices))


def check_header(header: Header) -> Slice:
    """A slice's geometry and scale.

    Raises:
        CTError: if it is no CT slice, or its header lacks or contradicts something.
    """
    file = header.file
    if (modality := header.text("Modality")) != "CT":
        raise CTError(f"{file}: is no CT image but of modality {modality or '(none)'}; take it out of the folder")
    if header.sop_class not in ("", CT_IMAGE, *ENHANCED):
        raise CTError(f"{file}: is no CT image (SOP class {header.sop_class}); take it out of the folder")
    if header.is_localizer:
        raise CTError(f"{file}: is a localizer (scout view), no slice; take it out of the folder")
    if header.sop_class in ENHANCED or _numbers(header, "NumberOfFrames", 1, default=1.0)[0] != 1:
        raise CTError(f"{file}: has several frames in one file; convert it to single slices or NIfTI (dcm2niix does)")
    if _numbers(header, "SamplesPerPixel", 1, default=1.0)[0] != 1:
        raise CTError(f"{file}: is a colour picture, no CT slice; take it out of the folder")
    unit = header.text("RescaleType")
    if unit not in {"", "HU", "US"}:  # US: unspecified
        raise CTError(f"{file}: has values in {unit}, not HU; give another reconstruction")
    (rows,), (columns,) = _numbers(header, "Rows", 1), _numbers(header, "Columns", 1)
    row, column = _numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if not (np.abs(lengths - 1) < 1e-3).all() or abs(row @ column) > 1e-3:
        raise CTError(f"{file}: ImageOrientationPatient is not two unit vectors at right angles; export it again")
    row = row / lengths[0]
    column = column - (row @ column) * row  # rounded cosines are not quite at right angles, ITK wants them so
    column = column / np.linalg.norm(column)
    y, x = _numbers(header, "PixelSpacing", 2)
    (slope,), (intercept,) = _numbers(header, "RescaleSlope", 1), _numbers(header, "RescaleIntercept", 1)
    if slope <= 0:
        raise CTError(f"{file}: RescaleSlope is {slope:g}; expected more than 0; export it again")
    return Slice(
        header,
        (int(rows), int(columns)),
        _numbers(header, "ImagePositionPatient", 3),
        np.stack([row, column, np.cross(row, column)], axis=1),
        (float(y), float(x)),
        float(slope),
        float(intercept),
        _positive(header, "KVP"),
    )


def check_alike(slices: Sequence[Slice]) -> None:
    """Slices of one series have one size, spacing, orientation and tube voltage.

    Raises:
        CTError: if they do not; it names the first file that differs.
    """
    first = slices[0]
    for item in slices[1:]:
        for what, alike in (
            ("size", item.shape == first.shape),
            ("PixelSpacing", np.allclose(item.pixel_spacing, first.pixel_spacing, atol=1e-4)),
            ("ImageOrientationPatient", np.allclose(item.axes, first.axes, atol=1e-3)),
            ("KVP", item.kvp == first.kvp),
        ):
            if not alike:
                raise CTError(
                    f"{item.file}: differs in {what} from {first.file.name}; give a folder with one reconstruction only"
                )


def check_positions(slices: Sequence[Slice], positions: NDArray[np.float64]) -> float:
    """The distance of neighbouring slices, mm, where they are regular and lie straight behind each other.

    One slice has no neighbour: its SpacingBetweenSlices or SliceThickness stands in.

    Args:
        slices: in order of their positions.
        positions: (Z,) along the normal, mm.

    Raises:
        CTError: for duplicates, gaps, a tilted gantry, or slices beside the others.
    """
    first = slices[0]
    if len(slices) == 1:
        single = _positive(first.header, "SpacingBetweenSlices") or _positive(first.header, "SliceThickness")
        if single is None:
            raise CTError(f"{first.file}: one slice without SliceThickness; give the folder of its series")
        return single
    steps = np.diff(positions)  # (Z - 1,)
    if steps.min() < SAME_PLACE:
        z = int(steps.argmin())
        raise CTError(
            f"{slices[z + 1].file}: is at the same position as {slices[z].file.name} ({positions[z]:g} mm); "
            "give a folder with one phase and reconstruction, each slice once"
        )
    usual = float(np.median(steps))
    z = int(np.abs(steps - usual).argmax())
    if abs(steps[z] - usual) > max(0.05 * usual, 0.02):
        raise CTError(
            f"{slices[z].file}: the next slice is {steps[z]:g} mm away, others {usual:g} mm: slices are missing "
            f"between {positions[z]:g} and {positions[z + 1]:g} mm, or there are too many; get the whole series"
        )
    origins = np.array([item.origin for item in slices])  # (Z, 3)
    way = origins[-1] - origins[0]
    tilt = np.arccos(np.clip(way @ first.axes[:, 2] / np.linalg.norm(way), -1, 1))
    if tilt > MAX_TILT:
        raise CTError(
            f"{first.file}: the slices are tilted by {np.rad2deg(tilt):.1f} degrees against their direction (gantry "
            "tilt); resample the series to upright slices first"
        )
    beside = np.linalg.norm((origins - origins[0]) @ first.axes[:, :2], axis=1)  # (Z,), against the normal
    if beside.max() > max(MAX_SHIFT, 0.5 * min(first.pixel_spacing)):
        z = int(beside.argmax())
        raise CTError(
            f"{slices[z].file}: lies {beside[z]:.1f} mm beside the first slice, over half a pixel (a tilted gantry, or "
            "two reconstructions); resample the series to upright slices first"
        )
    return round(float(positions[-1] - positions[0]) / (len(slices) - 1), 6)  # as exact as DICOM's decimals


def read_hu(item: Slice) -> NDArray[np.int16]:
    """A slice's HU (H, W), decoded; padding and what is below air become air.

    Raises:
        CTError: if pixels are missing, damaged or not HU.
    """
    stored = _read_stored(item.file)
    if stored.shape != item.shape:
        raise CTError(
            f"{item.file}: holds an array of shape {stored.shape}, its header says {item.shape}; get it again"
        )
    with np.errstate(over="ignore"):
        values = stored * item.slope + item.intercept
    values[_padding(item.header, stored)] = AIR
    hu = np.maximum(np.floor(values + ROUNDING), AIR)
    if hu.max() > MAX_HU:
        raise CTError(f"{item.file}: has values up to {hu.max():g}, which are no HU; export it again")
    return hu.astype(np.int16)


def _read_stored(file: Path) -> NDArray[np.integer]:
    """The stored values of a file's pixels, decoded."""
    dataset = read_dataset(file, pixels=True)
    try:
        with reading(file):
            return dataset.pixel_array
    except CTError as error:
        if dataset.file_meta.get("TransferSyntaxUID") != JPEGExtended12Bit:
            raise
        raise CTError(
            f"{file}: cannot be decoded; it is compressed by JPEG Extended (12 bits, lossy), for which there is a "
            "decoder under GPL-3.0 only: pip install pylibjpeg-libjpeg"
        ) from error


def _padding(header: Header, stored: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Where stored values (H, W) are padding. Some files have the padding value with the other sign: wrapped."""
    limits = [
        int(_numbers(header, keyword, 1)[0])
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.get(keyword) is not None
    ]
    if not limits or header.get("PixelPaddingValue") is None:
        return np.zeros(stored.shape, np.bool_)
    low, high = np.sort(np.array(limits).astype(stored.dtype))[[0, -1]]
    return (stored >= low) & (stored <= high)


def _meta(slices: Sequence[Slice]) -> VolumeMeta:
    header = slices[0].header
    try:
        device = tuple(_numbers(header, "CalciumScoringMassFactorDevice", 3).tolist())
    except CTError:  # absent, or not as the standard has it: no reason to refuse a scan
        device = None
    agent = header.text("ContrastBolusAgent")
    return VolumeMeta(
        format="dicom",
        files=tuple(item.file for item in slices),
        modality="CT",
        kvp=slices[0].kvp,
        manufacturer=header.text("Manufacturer"),
        slice_thickness=_optional(header, "SliceThickness"),
        series_uid=header.text("SeriesInstanceUID"),
        series_description=header.text("SeriesDescription"),
        mass_factor=_positive(header, "CalciumScoringMassFactorPatient"),
        mass_factor_device=device,
        contrast_agent="" if _NO_AGENT.fullmatch(agent.strip(" .")) else agent,
    )


def _numbers(header: Header, keyword: str, count: int, *, default: float | None = None) -> NDArray[np.float64]:
    """A value of `count` finite numbers (count,)."""
    value = header.get(keyword) if default is not None else header.need(keyword)
    try:
        numbers = np.atleast_1d(np.array(default if value is None else value, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise CTError(
            f"{header.file}: {keyword} is {str(value)[:80]!r}; expected {count} finite number(s); export it again"
        )
    return numbers


def _optional(header: Header, keyword: str) -> float | None:
    return None if header.get(keyword) is None else float(_numbers(header, keyword, 1)[0])


def _positive(header: Header, keyword: str) -> float | None:
    """A number that need not be there; anonymised files have 0."""
    try:
        number = _optional(header, keyword)
    except CTError:
        return None
    return number if number is not None and number > 0 else None
