"""Which voxels touch each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["connected_components", "connected_components_in_slices", "import_simpleitk"]


def import_simpleitk() -> Any:
    """The module SimpleITK, which is an extra.

    Raises:
        ImportError: that says how to install it.
    """
    try:
        import SimpleITK  # noqa: PLC0415  # an extra
    except ImportError:
        raise ImportError('calcium scoring needs SimpleITK: pip install "ddrsapc[ct]"') from None
    return SimpleITK


def connected_components(voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the connected components of voxels; corners touch: 8 neighbours in a plane, 26 in space.

    Args:
        voxels: indices, (2, n) or (3, n).

    Returns:
        Each voxel's component, from 0, (n,).
    """
    if not voxels.size:
        return np.zeros(0, np.intp)
    sitk = import_simpleitk()
    inside = tuple(voxels - voxels.min(axis=1, keepdims=True))  # cropped to the box around the voxels
    mask = np.zeros([axis.max() + 1 for axis in inside], np.uint8)
    mask[inside] = 1
    numbered = sitk.ConnectedComponent(sitk.GetImageFromArray(mask), True)  # the view below does not keep it alive
    numbers: NDArray[np.intp] = sitk.GetArrayViewFromImage(numbered)[inside].astype(np.intp) - 1
    return numbers


def connected_components_in_slices(voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """`connected_components` of each slice on its own.

    Args:
        voxels: indices (z, y, x), sorted by z, (3, n).

    Returns:
        Each voxel's component, from 0 over all slices, (n,).
    """
    numbers = [np.zeros(0, np.intp)]
    first = 0
    for in_slice in np.split(voxels[1:], np.flatnonzero(np.diff(voxels[0])) + 1, axis=1):
        numbers.append(first + connected_components(in_slice))
        first = numbers[-1].max(initial=-1) + 1
    return np.concatenate(numbers)
