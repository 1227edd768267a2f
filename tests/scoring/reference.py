"""The rules again, as plain and slow as they are said; its options are the wrong rules that open scorers have."""

import itertools
import math
import operator
from dataclasses import dataclass

FOUR = [(0, 1), (0, -1), (1, 0), (-1, 0)]
EIGHT = [*FOUR, (1, 1), (1, -1), (-1, 1), (-1, -1)]
TWENTY_SIX = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


@dataclass
class Score:
    agatston: float = 0.0
    volume_mm3: float = 0.0
    hu_ml: float = 0.0
    lesions: int = 0


def flood_fill(voxels, steps):
    """Sets of voxels that touch by any of the steps."""
    left, components = set(voxels), []
    while left:
        component, front = set(), [left.pop()]
        while front:
            voxel = front.pop()
            component.add(voxel)
            for step in steps:
                neighbour = tuple(map(operator.add, voxel, step))
                if neighbour in left:
                    left.remove(neighbour)
                    front.append(neighbour)
        components.append(component)
    return components


def continuous(peak):
    return 1 if peak < 200 else 2 if peak < 300 else 3 if peak < 400 else 4


def integer_bands(peak):
    """As written for integers: a peak between two bands has no weight."""
    bands = {(130, 199): 1, (200, 299): 2, (300, 399): 3, (400, math.inf): 4}
    return next((weight for (low, high), weight in bands.items() if low <= peak <= high), 0)


def score(
    hu,
    labels,
    spacing,
    *,
    increments=None,
    min_area=1.0,
    min_pixels=1,
    threshold=130,
    reaches=operator.ge,
    steps=EIGHT,
    weight_of=continuous,
    peak_in="component",
    rounded=lambda part: part,
    count_mask=False,
):
    """Sum over vessels, slices and components; `hu` and `labels` (Z, H, W) are nested lists or arrays."""
    pixel_area = spacing[1] * spacing[2]
    vessels = {}
    for voxel in itertools.product(*map(range, hu.shape)):
        if labels[voxel] and (count_mask or reaches(hu[voxel], threshold)):
            vessels.setdefault(int(labels[voxel]), []).append(voxel)
    total = Score()
    for voxels in vessels.values():
        in_space = flood_fill(voxels, TWENTY_SIX)
        counted = []
        for z in sorted({voxel[0] for voxel in voxels}):
            increment = spacing[0] if increments is None else increments[z]
            in_slice = [voxel[1:] for voxel in voxels if voxel[0] == z]
            for component in flood_fill(in_slice, steps):
                if len(component) * pixel_area < min_area or len(component) < min_pixels:
                    continue
                whole = {(z, *pixel) for pixel in component}
                seen = {
                    "component": whole,
                    "lesion": next(lesion for lesion in in_space if whole <= lesion),
                    "slice": {(z, *pixel) for pixel in in_slice},
                }[peak_in]
                area = len(component) * pixel_area
                weight = weight_of(max(float(hu[voxel]) for voxel in seen))
                mean = sum(float(hu[voxel]) for voxel in whole) / len(whole)
                total.agatston += rounded(area * weight * increment / 3)
                total.volume_mm3 += area * increment
                total.hu_ml += mean * area * increment / 1000
                counted += whole
        total.lesions += len(flood_fill(counted, TWENTY_SIX))
    return total
