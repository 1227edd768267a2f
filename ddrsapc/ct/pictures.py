"""Pictures (PNG, JPEG) as volumes of one slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL  # noqa: F401  # without it, the reader would name another extra

from ddrsapc.ct.errors import CTError, reason_of
from ddrsapc.ct.volume import AIR, MAX_HU, Volume, VolumeMeta, check_spacing, make_affine
from ddrsapc.data.readers import read_png_image

__all__ = ["read_picture"]


def read_picture(
    path: Path, *, spacing: tuple[float, float, float] | None = None, window: tuple[float, float] | None = None
) -> Volume:
    """See `read_volume`."""
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise CTError(f"{path}: expected a window (low, high) in HU, got {window}")
    if spacing is not None:
        check_spacing(path, spacing)
    try:
        values = read_png_image(path, window=window)
    except Exception as error:  # Pillow raises many kinds
        raise CTError(f"{path}: {reason_of(error)}") from error
    hu = np.rint(values)[None]  # (1, H, W)
    if hu.max() > MAX_HU:
        raise CTError(f"{path}: has values up to {hu.max():g} HU, which are none; expected HU + 1024 in 16 bits")
    affine = make_affine(np.zeros(3), np.eye(3), spacing or (1.0, 1.0, 1.0))
    meta = VolumeMeta("picture", (path,))
    return Volume(np.maximum(hu, AIR).astype(np.int16), spacing, affine, np.zeros(1), meta)
