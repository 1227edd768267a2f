"""The phantom beside real scans: a page of slices, and how far apart HU histograms and noise are.

    python examples/phantom_figures.py --real ../shared/data --out outputs/phantom
    python examples/phantom_figures.py --real ../shared/data --out outputs/phantom --all

Without --real the page has simulated slices only; --all also measures what takes minutes: volumes, the growth of
labels, what a threshold finds, speed. Needs the extras: pip install "ddrsapc[phantom,ct,train]"
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from phantom_measures import (
    autocorrelation,
    blooming,
    calibration,
    hu_distances,
    radial_spectrum,
    simulated_insert,
    speed,
    threshold,
    threshold_slices,
    tissue_peaks,
    volumes,
)
from provenance import made_by

from ddrsapc.ct import read_volume
from ddrsapc.phantom import PhantomParameters, draw_case
from ddrsapc.phantom.render import render_slice

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
INSERT = (slice(14, 20), slice(70, 134), slice(70, 134))
"""Uniform plastic in the crop of the QRM insert: slices, rows, columns."""
GROWTH = {512: 36, 96: 3}
"""Cases of each size in pixels, of which the growth of labels is measured; and of what a threshold finds."""
THRESHOLD = {256: 40, 512: 60}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the page, print and write the figures; one line on stderr and 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with the real scans")
    parser.add_argument("--out", type=Path, default=Path("outputs/phantom"))
    parser.add_argument("--cases", type=int, default=40, help="simulated cases in the histograms")
    parser.add_argument("--all", action="store_true", help="also what takes minutes")
    arguments = parser.parse_args(argv)
    if arguments.cases < 1:
        parser.error(f"--cases must be at least 1, got {arguments.cases}")
    try:
        figures = run(arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=2))
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, draw, write; the figures."""
    scans = {}
    if arguments.real is not None:  # before what takes minutes
        scans = {name: read_volume(arguments.real / place).hu for name, (place, _) in REAL.items()}
        insert = read_volume(arguments.real / "qrm_cci_canon/qrm_insert_crop.nii.gz").hu[INSERT].astype(float)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"calibration": calibration()}
    if arguments.all:
        figures["speed"] = speed(120)
        figures["volumes"] = volumes(2000)
        for size, cases in GROWTH.items():
            figures[f"labelled volume over the lesions' own, {cases} cases of {size} x {size}, by the blood's HU"] = {
                hu or "no contrast": round(blooming(cases, contrast_hu=hu, size=size), 2)
                for hu in (None, 150, 300, 450)
            }
        for size, cases in THRESHOLD.items():
            figures[f"130 HU in the heart, {size} x {size}"] = threshold(threshold_slices(cases, size))
    real: dict[str, NDArray[np.int16]] = {}
    if arguments.real is not None:
        no_contrast = PhantomParameters(contrast_rate=0.0)
        draws = [draw_case(9, index, parameters=no_contrast) for index in range(arguments.cases)]
        simulated = np.concatenate([render_slice(draw, z).hu.ravel()[::7] for draw in draws for z in (6, 16, 24, 32)])
        figures["peaks of fat and soft tissue"] = tissue_peaks(simulated)
        for name, hu in scans.items():
            real[name] = hu[REAL[name][1]]
            figures[name] = {
                "peaks of fat and soft tissue": tissue_peaks(hu),
                "soft tissue, -200 to 300 HU": hu_distances(hu, simulated, -200, 300),
                "lung, -1000 to -600 HU": hu_distances(hu, simulated, -1000, -600),
            }
        corners = np.concatenate([insert[:, :48, :48], insert[:, -48:, -48:]])
        edges = np.arange(0.05, 0.8, 0.05)
        both = corners, simulated_insert()
        theirs, ours = (radial_spectrum(patches, 0.488, edges) for patches in both)
        figures["noise of the insert"] = {
            "sd_hu": [round(float(patches.std((1, 2)).mean()), 1) for patches in both],
            "spectrum_total_variation": round(0.5 * float(np.abs(ours - theirs).sum()), 3),
            "autocorrelation": [autocorrelation(patches) for patches in both],
        }
    figures |= made_by(torch.device("cpu"))
    draw_page(real, arguments.out / "phantom.jpg")
    (arguments.out / "phantom.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    sys.exit(main())
