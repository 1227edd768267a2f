"""Label volumes: read into a scan's geometry, and written in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import CTError, needs_extra
from ddrsapc.ct.volume import IMAGES, Volume, check_name, suffix_of
from ddrsapc.scoring.rules import VESSELS

__all__ = ["place", "read_mask", "write_mask"]

NAMES = tuple(VESSELS.values())
WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm")
SAME_VOXEL = 0.01  # voxels that rounded headers may move a corner by


def read_mask(path: str | os.PathLike[str], volume: Volume) -> NDArray[np.uint8]:
    """Read a mask (NIfTI, NRRD, MHA, MHD or DICOM SEG) that lies on a scan.

    Axes that are flipped or exchanged are turned back, exactly; nothing is resampled. In a DICOM SEG the segments
    are the labels, and slices without a frame are empty.

    Args:
        path: the mask.
        volume: the scan that it belongs to.

    Returns:
        Labels (Z, H, W), uint8.

    Raises:
        CTError: if it cannot be read, has other values than 0 to 255, or another geometry; it says which.
        ImportError: without the extra `ct`.
    """
    path = Path(path)
    check_name(path)
    if not path.is_file():
        raise CTError(f"{path}: there is no such file; expected a mask as NIfTI, NRRD, MHA or DICOM SEG")
    with needs_extra():
        if suffix_of(path) in IMAGES:
            from ddrsapc.ct.images import open_image  # noqa: PLC0415  # an extra

            image = open_image(path)
            labels, affine = _as_labels(image.planes, image.shape, path), image.affine
            is_whole = True
        else:
            from ddrsapc.ct.seg import load_seg  # noqa: PLC0415  # an extra

            labels, affine = load_seg(path, volume)
            is_whole = False
    placed, (z, y, x) = place(labels, affine, volume)
    depth, height, width = placed.shape
    outside = min(z, y, x) < 0 or any(
        start + side > whole for start, side, whole in zip((z, y, x), placed.shape, volume.hu.shape, strict=True)
    )
    if outside or (is_whole and placed.shape != volume.hu.shape):
        raise CTError(f"{path}: {_difference(labels.shape, affine, volume)}")
    if placed.shape == volume.hu.shape:
        return np.ascontiguousarray(placed)
    result = np.zeros(volume.hu.shape, np.uint8)  # (Z, H, W)
    result[z : z + depth, y : y + height, x : x + width] = placed
    return result


def write_mask(
    labels: NDArray[Any],
    volume: Volume,
    path: str | os.PathLike[str],
    *,
    vessels: Sequence[str] = NAMES,
) -> None:
    """Write labels as a file with exactly the scan's geometry; it is whole or not there.

    Args:
        labels: (Z, H, W) of the scan's shape, integers from 0 to 255.
        volume: the scan.
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha`, or `.dcm` for a DICOM SEG, which only scans read from DICOM have.
        vessels: of the labels 1, 2, ...; written in a DICOM SEG, as coded regions.

    Raises:
        CTError: if the labels do not fit, or the file cannot be written.
        ImportError: without the extra `ct`.
    """
    path = Path(path)
    check_name(path)
    suffix = suffix_of(path)
    if suffix not in WRITTEN:
        raise CTError(f"{path}: masks are written as {', '.join(WRITTEN)}; give one of these suffixes")
    if labels.shape != volume.hu.shape:
        raise CTError(f"{path}: labels of shape {labels.shape} do not fit a scan of shape {volume.hu.shape}")
    values = labels if labels.dtype == np.uint8 else _as_labels(labels, labels.shape, path)
    with needs_extra():
        if suffix == ".dcm":
            from ddrsapc.ct.seg import save_seg  # noqa: PLC0415  # an extra

            save_seg(path, values, volume, vessels)
        else:
            from ddrsapc.ct.images import save_image  # noqa: PLC0415  # an extra

            save_image(path, values, volume.affine)


def place(
    values: NDArray[np.uint8], affine: NDArray[np.float64], volume: Volume
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Values (Z', H', W') along the scan's axes, and the scan's voxel (z, y, x) that their first one lies on.

    If voxels do not lie on voxels, the first one lies outside.

    Args:
        values: along axes of their own.
        affine: (4, 4) of these.
        volume: the scan.
    """
    to_scan = np.linalg.inv(volume.affine) @ affine  # of (x, y, z, 1)
    exact = np.rint(to_scan)
    turn = exact[:3, :3].astype(np.int64)
    corners = np.stack(np.meshgrid(*((0, side - 1) for side in values.shape[::-1]), indexing="ij"), -1).reshape(-1, 3)
    moved = corners @ (to_scan - exact)[:3, :3].T + (to_scan - exact)[:3, 3]
    is_turn = np.array_equal(np.abs(turn).sum(0), (1, 1, 1)) and np.array_equal(np.abs(turn).sum(1), (1, 1, 1))
    if not is_turn or np.abs(moved).max() > SAME_VOXEL:
        return values, (-1, -1, -1)
    order = np.abs(turn).argmax(1)  # the own axis (x, y, z) that lies along the scan's x, y, z
    turned = values.transpose(2, 1, 0).transpose(order.tolist())  # (x, y, z)
    flipped = tuple(axis for axis in range(3) if turn[axis].sum() < 0)
    start = (corners @ turn.T + exact[:3, 3].astype(np.int64)).min(0)
    return np.flip(turned, flipped).transpose(2, 1, 0), (int(start[2]), int(start[1]), int(start[0]))


def _as_labels(planes: Iterable[NDArray[Any]], shape: tuple[int, ...], path: Path) -> NDArray[np.uint8]:
    """Whole numbers from 0 to 255 as uint8 (Z, H, W), of planes (H, W)."""
    labels = np.empty(shape, np.uint8)
    for z, plane in enumerate(planes):
        low, high = (float(plane.min()), float(plane.max())) if plane.size else (0.0, 0.0)
        if low >= 0 and high <= 255:  # NaN is neither
            labels[z] = plane
        if not (low >= 0 and high <= 255 and np.array_equal(labels[z], plane)):
            raise CTError(
                f"{path}: slice {z} has values from {low:g} to {high:g}; expected labels, whole numbers from 0 to 255"
            )
    return labels


def _difference(shape: tuple[int, ...], affine: NDArray[np.float64], volume: Volume) -> str:
    """How a mask's geometry differs from the scan's."""
    texts = []
    for (what, own), (_, scan) in zip(_geometry(shape, affine), _geometry(volume.hu.shape, volume.affine), strict=True):
        if not np.allclose(own, scan, atol=1e-3):
            texts.append(f"{what} {_text(own)} instead of {_text(scan)}")
    differs = "; ".join(texts) or "voxels that are not quite those of the scan"
    return f"lies on another scan: {differs} (in x, y, z); resample it to the scan, or give the scan it was made on"


def _geometry(shape: tuple[int, ...], affine: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return [
        ("size", np.array(shape[::-1], np.float64)),
        ("spacing", spacing),
        ("origin", affine[:3, 3]),
        ("direction", (affine[:3, :3] / spacing).ravel()),
    ]


def _text(numbers: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"
