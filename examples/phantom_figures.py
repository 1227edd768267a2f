"""The phantom beside real scans: a page of slices, and how far apart HU histograms and noise are.

    python examples/phantom_figures.py --real ../shared/data --out outputs/phantom

Without --real the page has simulated slices only. Needs the extras: pip install "ddrsapc[phantom,ct,train]"
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct import read_volume
from ddrsapc.phantom import PhantomParameters, draw_case
from ddrsapc.phantom.cylinders import CYLINDERS, scan_cylinder
from ddrsapc.phantom.render import render_slice
from ddrsapc.scoring import score_volume

REAL = {
    "contrast CT (TotalSegmentator)": ("totalseg_cta/pulmonary_report_ct_cropped.nii.gz", 58),
    "upper abdomen (TotalSegmentator)": ("totalseg_dicom_j2k", 3),
    "liver dome (dcmqi)": ("dcmqi_ct3slice", 1),
}
SIMULATED = (
    (31, 0, 16),
    (31, 1, 19),
    (31, 4, 28),
    (2, 2, 24),
    (31, 6, 24),
    (31, 8, 29),
    (1, 1, 4),
    (31, 9, 23),
    (2, 6, 12),
)
"""Seed, case and slice of the page."""
REPEATS = 25
INSERT = (slice(14, 20), slice(70, 134), slice(70, 134))
"""Uniform plastic in the crop of the QRM insert: slices, rows, columns."""


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


def draw_page(real: dict[str, NDArray[np.int16]], path: Path) -> None:
    """Real and simulated slices on one page, all in the window from -160 to 240 HU."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # after the backend is chosen

    tiles: list[tuple[str, NDArray[np.int16]]] = [(f"real: {name}", image) for name, image in real.items()]
    for seed, index, z in SIMULATED:
        draw = draw_case(seed, index)
        side = draw.placement.pixel_mm * draw.placement.size
        tiles.append((f"simulated, seed {seed}, case {index}, {side:.0f} mm", render_slice(draw, z).hu))
    columns = 4 if real else 3
    rows = -(-len(tiles) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.7 * rows), squeeze=False)
    for axis, (title, image) in zip(axes.flat, tiles, strict=False):
        axis.imshow(image, cmap="gray", vmin=-160, vmax=240)
        axis.set_title(title, fontsize=6, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=130, pil_kwargs={"quality": 82, "optimize": True})
    plt.close(figure)


def main() -> None:
    """Draw the page, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder with the real scans")
    parser.add_argument("--out", type=Path, default=Path("outputs/phantom"))
    parser.add_argument("--cases", type=int, default=40, help="simulated cases in the histograms")
    parser.add_argument("--blooming", type=int, default=0, help="cases to measure the labels' growth on; 0: none")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    figures: dict[str, Any] = {"calibration": calibration()}
    if arguments.blooming:
        figures["labelled volume over the lesions' own, by the blood's HU"] = {
            hu or "no contrast": round(blooming(arguments.blooming, contrast_hu=hu), 2) for hu in (None, 150, 300, 450)
        }
    real: dict[str, NDArray[np.int16]] = {}
    if arguments.real is not None:
        no_contrast = PhantomParameters(contrast_rate=0.0)
        draws = [draw_case(9, index, parameters=no_contrast) for index in range(arguments.cases)]
        simulated = np.concatenate([render_slice(draw, z).hu.ravel()[::7] for draw in draws for z in (6, 16, 24, 32)])
        for name, (place, z) in REAL.items():
            hu = read_volume(arguments.real / place).hu
            real[name] = hu[z]
            figures[name] = {
                "soft tissue, -200 to 300 HU": hu_distances(hu, simulated, -200, 300),
                "lung, -1000 to -600 HU": hu_distances(hu, simulated, -1000, -600),
            }
        insert = read_volume(arguments.real / "qrm_cci_canon/qrm_insert_crop.nii.gz").hu[INSERT].astype(float)
        corners = np.concatenate([insert[:, :48, :48], insert[:, -48:, -48:]])
        edges = np.arange(0.05, 0.8, 0.05)
        ours, theirs = (radial_spectrum(patches, 0.488, edges) for patches in (simulated_insert(), corners))
        figures["noise of the insert"] = {
            "sd_hu": [round(float(patches.std((1, 2)).mean()), 1) for patches in (corners, simulated_insert())],
            "spectrum_total_variation": round(0.5 * float(np.abs(ours - theirs).sum()), 3),
        }
    draw_page(real, arguments.out / "phantom.jpg")
    (arguments.out / "phantom.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
