"""Which voxels touch each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["connected_components", "import_simpleitk", "merge_components"]


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


def connected_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The 8-connected components of slices, each on its own.

    Args:
        mask: (N, H, W).

    Returns:
        Indices (z, y, x) of the voxels in the mask, (3, n), and each one's component, from 0 over all slices in the
        order of their first voxels, (n,).
    """
    voxels = np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape))  # (3, n); faster than nonzero
    if not voxels.size:
        return voxels, voxels[0]
    sitk = import_simpleitk()
    z, y, x = voxels - [[0], [voxels[1].min()], [voxels[2].min()]]  # in the box around them, small mostly
    box = np.zeros((len(mask), y.max() + 2, x.max() + 1), np.uint8)
    box[z, y, x] = 1
    # one below the other, with a row of zeros between: one image, as it takes longer to start than to count in a slice
    numbered = sitk.ConnectedComponent(sitk.GetImageFromArray(box.reshape(-1, box.shape[2])), True)
    numbers = sitk.GetArrayViewFromImage(numbered).reshape(box.shape)  # does not keep it alive
    return voxels, numbers[z, y, x].astype(np.intp) - 1


def merge_components(count: int, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the groups of components that touch, directly or by others.

    Args:
        count: components are numbered from 1 to this.
        pairs: of components that touch, (n, 2).

    Returns:
        The group of each component, (count,), from 0 in the order of the groups' first components.
    """
    earlier = list(range(count + 1))  # a component of the same group that comes earlier; of the first one, itself

    def first(component: int) -> int:
        while earlier[component] != component:
            earlier[component] = earlier[earlier[component]]
            component = earlier[component]
        return component

    for one, other in pairs.tolist():
        low, high = sorted((first(one), first(other)))
        earlier[high] = low
    firsts = np.array([first(component) for component in range(1, count + 1)], np.intp)  # (count,)
    return np.unique(firsts, return_inverse=True)[1]
