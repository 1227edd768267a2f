"""What `phantom_figures.py` measures on the phantom: scores, histograms, noise, volumes, a threshold, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom import PhantomDataset, PhantomParameters, draw_case
from ddrsapc.phantom.canvas import Canvas
from ddrsapc.phantom.cylinders import CYLINDERS, scan_cylinder
from ddrsapc.phantom.draws import slice_of_item
from ddrsapc.phantom.render import render_slice
from ddrsapc.scoring import score_volume

REPEATS = 25
MOMENTS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "sd": lambda x: float(np.std(x)),
    "median": lambda x: float(np.median(x)),
}
ThresholdSlice = tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.bool_], bool]
"""HU, labels, the heart's inside, and whether there is contrast."""


def hu_distances(real: NDArray[np.int16], simulated: NDArray[np.int16], low: int, high: int) -> dict[str, float]:
    """Total variation (0 to 1) and earth mover's distance (HU) of two histograms between two HU."""
    bins = np.arange(low, high + 1, 5)
    first, second = (np.histogram(values, bins)[0].astype(float) for values in (real, simulated))
    difference = first / first.sum() - second / second.sum()
    mover = 5 * float(np.abs(np.cumsum(difference)).sum())
    return {"total_variation": round(0.5 * float(np.abs(difference).sum()), 3), "earth_mover_hu": round(mover, 1)}


def radial_spectrum(patches: NDArray[np.float64], pixel_mm: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise power of square patches (n, s, s) between radial frequencies, of sum 1."""
    patches = patches - patches.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(patches)) ** 2).mean(0)
    frequency = np.fft.fftfreq(patches.shape[1], pixel_mm)
    radius = np.hypot(frequency[:, None], frequency[None])
    rings = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(edges)]
    return np.array(rings) / np.sum(rings)


def autocorrelation(patches: NDArray[np.float64]) -> list[float]:
    """Of patches (n, s, s), along their rows, at 1, 2 and 3 pixels."""
    patches = patches - patches.mean((1, 2), keepdims=True)
    return [round(float((patches[..., lag:] * patches[..., :-lag]).mean() / patches.var()), 2) for lag in (1, 2, 3)]


def tissue_peaks(hu: NDArray[np.int16]) -> list[int]:
    """HU at which fat and soft tissue are most frequent, in bins of 4 HU."""
    return [
        int(np.argmax(np.histogram(hu, np.arange(low, high + 1, 4))[0])) * 4 + low + 2
        for low, high in ((-140, -40), (0, 100))
    ]


def simulated_insert() -> NDArray[np.float64]:
    """The insert's plastic (n, 48, 48): first and last slice of simulated scans, which the cylinder does not reach."""
    scans = [scan_cylinder(CYLINDERS["M200"], seed).hu for seed in range(24)]
    return np.concatenate([scan[[0, -1]] for scan in scans]).astype(float)


def blooming(cases: int, *, contrast_hu: float | None = None, size: int = 512) -> float:
    """Labelled volume over the lesions' own, over all cases whose lesions lie in the field of view.

    Args:
        cases: of seed 8; some have no lesions, or some outside the field, and are left out.
        contrast_hu: of the blood; None: no contrast.
        size: pixels per side.
    """
    blood = (150.0, 150.0) if contrast_hu is None else (contrast_hu, contrast_hu)
    parameters = PhantomParameters(contrast_rate=float(contrast_hu is not None), contrast=blood)
    own = labelled = 0.0
    for index in range(cases):
        draw = draw_case(8, index, size=size, parameters=parameters)
        place = draw.placement
        ranges = [item.shape.z_range for item in draw.lesions]
        half = place.slice_mm / 2 + 3
        through = [z for z in range(place.slices) if any(a - half < place.slice_z(z) < b + half for a, b in ranges)]
        slices = [render_slice(draw, z) for z in through]
        voxel = place.pixel_mm**2 * place.slice_mm  # mm3
        mass = sum(float(item.density.sum(dtype=np.float64)) for item in slices) * voxel / 1000
        if draw.lesions and abs(mass / sum(item.mass_mg for item in draw.lesions) - 1) < 0.02:
            own += sum(item.volume_mm3 for item in draw.lesions)
            labelled += voxel * sum(int((item.labels > 0).sum()) for item in slices)
    return labelled / own


def volumes(cases: int) -> dict[str, dict[str, float]]:
    """Volumes as labelled without contrast, mm3, of the cases of `test` in which a site is calcified."""
    parameters, found = PhantomParameters(), dict[str, list[float]]()
    for index in range(cases):
        draw = draw_case(0, index, split="test")
        sites: dict[str, float] = {}
        for item in (*draw.lesions, *draw.mimics):
            sites[item.site] = sites.get(item.site, 0.0) + item.volume_mm3
        for site, volume in sites.items():
            found.setdefault(site, []).append(volume * parameters.blooming)
    return {
        site: {"cases": len(mm3), **{name: round(f(mm3)) for name, f in MOMENTS.items()}} for site, mm3 in found.items()
    }


def threshold_slices(cases: int, size: int) -> list[ThresholdSlice]:
    """HU, labels and the heart's inside of a slice of each of the first cases of `test`, through its calcium if any."""
    found = []
    for index in range(cases):
        draw = draw_case(0, index, split="test", size=size)
        z = slice_of_item(draw, 1.0)
        rendered, canvas = render_slice(draw, z), Canvas(draw.placement, z, np.zeros((size, size), np.float32))
        heart = np.zeros(rendered.hu.shape, bool)
        ellipse = draw.anatomy.structures["heart"].at(canvas.z)
        if ellipse is not None and (depth := canvas.depth(ellipse.grown(5))) is not None:  # with the arteries on it
            heart[depth[0]] = depth[1] > 0
        found.append((rendered.hu, rendered.labels, heart, draw.anatomy.values["blood"] > 100))
    return found


def overlap(slices: Sequence[ThresholdSlice], vessel: int | None = None) -> NDArray[np.int64]:
    """What 130 HU in the heart shares with the labels of any vessel or of one, and both together, by slice: (2, n)."""
    found = [((hu >= 130) & heart, labels == vessel if vessel else labels > 0) for hu, labels, heart, _ in slices]
    return np.array([((bright & truth).sum(), (bright | truth).sum()) for bright, truth in found]).T


def threshold(slices: Sequence[ThresholdSlice]) -> dict[str, Any]:
    """How well 130 HU in a known heart does."""
    plain = [item for item in slices if not item[3]]
    calcified = [item for item in plain if item[1].any()]

    def pooled(some: Sequence[ThresholdSlice], vessel: int | None = None) -> float:
        both, either = overlap(some, vessel)
        return round(float(both.sum() / either.sum()), 3)

    both, either = overlap(calcified)
    fractions = [100 * (labels > 0).mean() for _, labels, _, _ in slices if labels.any()]
    return {
        "slices": len(slices),
        "without contrast": len(plain),
        "without contrast, with calcium": len(calcified),
        "IoU of any vessel": pooled(slices),
        "IoU of any vessel, without contrast": pooled(plain),
        "median IoU of a slice": round(float(np.median(both / either)), 3),
        "part of slices below 0.5": round(float((both / either < 0.5).mean()), 3),
        "part of the calcium found": round(float(both.sum() / sum((item[1] > 0).sum() for item in plain)), 3),
        "IoU of one vessel, without contrast": [pooled(plain, vessel) for vessel in (1, 2, 3)],
        "percent of the pixels, 5th, 50th and 95th percentile": [
            round(float(x), 4) for x in np.percentile(fractions, (5, 50, 95))
        ],
    }


def speed(slices: int) -> dict[str, float]:
    """Slices of 512 x 512 a second, one after the other on one core."""
    data = PhantomDataset("train", 512, slices + 1)
    data[0]
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(1, slices + 1):
        data[index]
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "slices": slices,
        "per second": round(slices / wall, 1),
        "per processor second": round(slices / processor, 1),
    }


def calibration() -> dict[str, dict[str, float]]:
    """Agatston scores of the insert's cylinders beside the reference."""
    rows = {}
    for name, cylinder in CYLINDERS.items():
        scans = [scan_cylinder(cylinder, seed) for seed in range(REPEATS)]
        scores = [score_volume(scan.hu, scan.labels, scan.spacing).agatston for scan in scans]
        mean, sd = cylinder.reference
        rows[name] = {
            "mean": round(float(np.mean(scores)), 1), "sd": round(float(np.std(scores)), 1),
            "reference_mean": mean, "reference_sd": sd, "sds_off": round((float(np.mean(scores)) - mean) / sd, 2),
        }  # fmt: skip
    return rows
