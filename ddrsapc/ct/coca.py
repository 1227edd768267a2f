"""Masks of public data sets as labels of a scan: COCA's annotations and orCaScore's images."""

from __future__ import annotations

import ast
import os
import plistlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, needs_extra, reason_of
from ddrsapc.ct.masks import read_mask
from ddrsapc.ct.volume import Volume

__all__ = ["COCA_NAMES", "read_coca_plist", "read_orcascore"]

COCA_NAMES = {
    "Left Coronary Artery": 1,  # the left main artery, which counts with the LAD
    "Left Anterior Descending Artery": 1,
    "Left Circumflex Artery": 2,
    "Right Coronary Artery": 3,
}
"""Labels of COCA's names."""
CALCIUM = 130  # HU
UNKNOWN_VESSEL = 4  # orCaScore's label of it


def read_coca_plist(
    path: str | os.PathLike[str], volume: Volume, *, names: Mapping[str, int] = COCA_NAMES
) -> NDArray[np.uint8]:
    """Read an annotation of COCA (XML plist): what lies in a polygon and has at least 130 HU.

    `ImageIndex` counts the names of the slices' files in reverse order. Where `Point_mm` is given, its z must be that
    of the slice, so that another order or another scan does not go unnoticed.

    Args:
        path: the plist.
        volume: the scan, read from its DICOM folder.
        names: label of each region's name.

    Returns:
        Labels (Z, H, W), uint8: 1 LAD with the left main artery, 2 LCX, 3 RCA.

    Raises:
        CTError: if it cannot be read or belongs to another scan.
        ImportError: without the extra `ct`.
    """
    path = Path(path)
    slices = _slices_by_index(path, volume)
    labels = np.zeros(volume.hu.shape, np.uint8)  # (Z, H, W)
    for index, region in _regions(path):
        place = f"{path}: image {index}"
        points = _points(region.get("Point_px"), 2, place)
        if not len(points):
            continue
        name = str(region.get("Name"))[:80]
        if name not in names:
            raise CTError(f"{place}: a region is called {name!r}; expected one of {', '.join(names)}")
        if not 0 <= index < len(slices):
            raise CTError(f"{place}: the scan has images 0 to {len(slices) - 1} only; give the scan it was made on")
        z = slices[index]
        _check_z(_points(region.get("Point_mm"), 3, place), z, volume, place)
        labels[z][_polygon(points, labels.shape[1:]) & (volume.hu[z] >= CALCIUM)] = names[name]
    return labels


def read_orcascore(path: str | os.PathLike[str], volume: Volume, *, unknown: int = 255) -> NDArray[np.uint8]:
    """Read a mask of orCaScore (MHD): 1 LAD with the left main artery, 2 LCX, 3 RCA.

    Args:
        path: the mask.
        volume: the scan.
        unknown: label of calcium of an unknown vessel, 4 in the file; 255 does not count in training.

    Returns:
        Labels (Z, H, W), uint8.

    Raises:
        CTError: if it cannot be read, lies on another scan, or has other labels.
        ImportError: without the extra `ct`.
    """
    labels = read_mask(path, volume)
    if labels.max() > UNKNOWN_VESSEL:
        raise CTError(f"{path}: has labels up to {labels.max()}; orCaScore's are 0 to {UNKNOWN_VESSEL}")
    labels[labels == UNKNOWN_VESSEL] = unknown
    return labels


def _slices_by_index(path: Path, volume: Volume) -> list[int]:
    """The slice of each `ImageIndex`."""
    names = [file.name for file in volume.meta.files]
    if volume.meta.format != "dicom" or len(set(names)) != len(volume.hu):
        raise CTError(f"{path}: counts the DICOM files of its scan; read the scan from its DICOM folder")
    return sorted(range(len(names)), key=lambda z: names[z], reverse=True)


def _regions(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`ImageIndex` and entry of every region."""
    try:
        content = plistlib.loads(path.read_bytes())
    except (OSError, ExpatError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise CTError(f"{path}: cannot be read as a plist ({reason_of(error)}); get the file again") from error
    try:
        for image in content["Images"]:
            for region in image["ROIs"]:
                yield int(image["ImageIndex"]), dict(region)
    except (TypeError, ValueError, LookupError) as error:
        raise CTError(
            f"{path}: is no annotation of COCA ({type(error).__name__}: {reason_of(error)}); "
            "expected Images, each with ImageIndex and ROIs"
        ) from error


def _points(texts: Any, count: int, place: str) -> NDArray[np.float64]:
    """Points (N, count) of texts like "(x, y)"."""
    try:
        points = np.array([ast.literal_eval(text) for text in texts or ()], np.float64).reshape(-1, count)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise CTError(f"{place}: a region has points that cannot be read ({reason_of(error)})") from error
    if not np.isfinite(points).all():
        raise CTError(f"{place}: a region has points that are not finite")
    return points


def _check_z(points: NDArray[np.float64], z: int, volume: Volume, place: str) -> None:
    """Refuse points (N, 3) in mm that lie on another slice than `z`."""
    if not len(points):
        return
    column, row = volume.hu.shape[2] / 2, volume.hu.shape[1] / 2
    expected = float((volume.affine @ (column, row, z, 1))[2])
    distance = float(np.abs(points[:, 2] - expected).max())
    if distance > abs(volume.affine[2, 2]) / 2:
        raise CTError(
            f"{place}: its points lie at z = {points[0, 2]:g} mm, the image {volume.meta.files[z].name} at "
            f"{expected:g} mm; give the scan it was made on, with the files' own names"
        )


def _polygon(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels (H, W) inside a polygon (N, 2) of x, y, and on its edge."""
    with needs_extra():
        from PIL import Image, ImageDraw  # noqa: PLC0415  # an extra
    if len(points) == 1:
        points = np.repeat(points, 2, axis=0)  # a single pixel
    picture = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=1, outline=1)
    return np.array(picture)
