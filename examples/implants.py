"""Calcium put into a real scan, on its arteries and elsewhere: is it found, and called by its vessel?

    python examples/implants.py -o outputs/implants
    python examples/implants.py -o outputs/implants --weights outputs/run/best.safetensors

No scan with calcified coronary arteries may be redistributed. The contrast-enhanced chest of the test data is the one
that the phantom's arteries were read off (+-6 mm), so that they are known in it: one disc of calcium at a time, 3 mm
thick, is put on them, or where calcium is not coronary, with the contrast or with blood of 40 HU in its place. A disc
counts as found where a pixel of it is. Nothing put in, all that is found outside the heart's mask is false. Writes
implants.json and a picture of the discs in blood of 40 HU. The scan is looked for in $DDRSAPC_TEST_DATA.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from PIL import Image
from provenance import made_by
from real_scans import FINER, THICKER, command_line, finer_mask, finer_slice, heart_mask
from scipy.ndimage import binary_dilation, gaussian_filter, label  # type: ignore[import-untyped]

import ddrsapc
from ddrsapc.hub import verify_weights
from ddrsapc.inference import CALCIUM_HU
from ddrsapc.models import SegmentationModel
from ddrsapc.phantom.frame import COURSES
from ddrsapc.phantom.lesions import LABELS
from ddrsapc.report.overlay import panel
from ddrsapc.scoring import VESSELS

RADIUS, SIGMA, CALCIUM = 2.0, 0.68, 600.0  # mm, mm of the point spread, HU (400 mg/ml)
BLOOD = (40.0, 15.0)  # HU and its noise
ELSEWHERE: dict[str, list[Sequence[float]]] = {
    "aortic wall": [(28, 62, 10), (2, 62, 10), (15, 75, -10), (15, 49, 30), (-31, 0, 40), (-15, 15, 45)],
    "aortic valve": [(-14, 2, 17), (-8, -4, 17), (-18, 6, 20)],
    "mitral annulus": [(15, 25, 12), (8, 22, 10), (0, 24, 4)],
}
"""Where calcium is not coronary: x, y and z in the heart's frame, mm (aorta and annulus as the phantom has them)."""


@dataclass(frozen=True)
class RealHeart:
    """A scan whose arteries are known."""

    hu: NDArray[np.float64]
    """(Z, H, W)."""
    blood: NDArray[np.bool_]
    """Chambers and vessels with contrast (Z, H, W)."""
    mask: NDArray[np.bool_]
    """Of the heart (Z, H, W)."""
    centroid: NDArray[np.float64]
    """Of the heart: z, y, x in voxels; the origin of the phantom's frame."""
    mm: float
    """Of a voxel, along all axes."""


def read_heart(folder: Path) -> RealHeart:
    """The chest of the test data.

    Raises:
        FileNotFoundError: if it is not there.
    """
    paths = [folder / "totalseg_cta" / f"pulmonary_report_{name}.nii.gz" for name in ("ct_cropped", "heart")]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no {path}; set DDRSAPC_TEST_DATA to the folder of test data")
    scan = sitk.ReadImage(str(paths[0]))
    hu, heart = sitk.GetArrayFromImage(scan).astype(float), heart_mask(paths[1], scan)
    bright, _ = label(hu > 200)
    names, counts = np.unique(bright[heart & (bright > 0)], return_counts=True)
    blood = np.isin(bright, names[counts > 1000])  # chambers, and the vessels that begin there
    blood = binary_dilation(blood, iterations=2) & (hu > 90)
    return RealHeart(hu, blood, heart, np.array([axis.mean() for axis in np.nonzero(heart)]), scan.GetSpacing()[0])


def slab(heart: RealHeart, first: int, *, contrast: bool) -> NDArray[np.float64]:
    """THICKER slices (THICKER, H, W) of the scan; without contrast blood is dark where it was bright."""
    part = slice(first, first + THICKER)
    hu = heart.hu[part]
    if contrast:
        return hu
    noise = np.random.default_rng(0).normal(*BLOOD, hu.shape)
    return np.where(heart.blood[part], np.minimum(hu, noise), hu)


def implant(
    heart: RealHeart, place: Sequence[float], *, contrast: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """A slice of 3 mm with calcium, and where it is 130 HU or more; None: the place is outside the scan.

    Args:
        heart: the scan.
        place: x, y and z in the heart's frame, mm.
        contrast: whether the contrast stays.
    """
    z, row, column = heart.centroid + np.array(place)[[2, 1, 0]] / heart.mm
    first = round(z - (THICKER - 1) / 2)
    if not (0 <= first <= len(heart.hu) - THICKER and 0 < row < heart.hu.shape[1] and 0 < column < heart.hu.shape[2]):
        return None
    fine, mm = finer_slice(slab(heart, first, contrast=contrast)), heart.mm / FINER
    rows, columns = (np.arange(n) - ((at + 0.5) * FINER - 0.5) for n, at in zip(fine.shape, (row, column), strict=True))
    disc = gaussian_filter((np.hypot(rows[:, None], columns) * mm < RADIUS).astype(float), SIGMA / mm)
    fine += disc * (CALCIUM - fine)
    return fine.astype(np.float32), (disc > 0.2) & (fine >= CALCIUM_HU)


def find(model: SegmentationModel, hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Labels (H, W) of a slice, as `ddrsapc predict` gives them."""
    x = model.input_config.normalize(torch.from_numpy(hu))[None, None]  # (1, 1, H, W)
    with torch.inference_mode():
        labels = model(x.expand(-1, model.in_chans, -1, -1)).argmax(1)[0].to(torch.uint8).numpy()
    return np.where(hu < CALCIUM_HU, np.uint8(0), labels)


def false_outside(model: SegmentationModel, heart: RealHeart, *, contrast: bool) -> float:
    """What is called calcium outside the heart's mask in all slices of the scan, nothing put in; mm3."""
    pixels = 0
    for i, inside in enumerate(finer_mask(heart.mask)):
        labels = find(model, finer_slice(slab(heart, i * THICKER, contrast=contrast)))
        pixels += int(((labels > 0) & ~inside).sum())
    return pixels * THICKER * heart.mm * (heart.mm / FINER) ** 2


def evaluate(model: SegmentationModel, heart: RealHeart, *, contrast: bool) -> tuple[dict[str, Any], list[Image.Image]]:
    """What became of each disc, and a picture of each."""
    rows, pictures = [], []
    everywhere = {name: points.tolist() for name, points in COURSES.items()} | ELSEWHERE
    tried: set[tuple[float, ...]] = set()  # the LM's end is where LAD and LCX begin
    for site, places in everywhere.items():
        for place in places:
            if tuple(place) in tried:
                continue
            tried.add(tuple(place))
            made = implant(heart, place, contrast=contrast)
            if made is None:
                continue
            hu, calcium = made
            labels = find(model, hu)
            found = np.bincount(labels[calcium], minlength=4)[1:]
            called = int(found.argmax()) + 1 if found.any() else 0
            other = float(((labels > 0) & ~calcium).sum()) * (heart.mm / FINER) ** 2
            rows.append({"site": site, "place": place, "called": VESSELS.get(called, "none"), "other_mm2": other})
            pictures.append(panel(hu, labels, 0.7))
    arteries = {name: [row for row in rows if row["site"] == name] for name in LABELS}
    summary = {
        "contrast": contrast,
        "on arteries": sum(map(len, arteries.values())),
        "found": sum(row["called"] != "none" for some in arteries.values() for row in some),
        "called by their vessel": sum(
            row["called"] == VESSELS[LABELS[name]] for name, some in arteries.items() for row in some
        ),
        "LM and LAD called LAD": [
            sum(row["called"] == "LAD" for name in ("LM", "LAD") for row in arteries[name]),
            len(arteries["LM"] + arteries["LAD"]),
        ],
        "other, mm2 a slice": round(float(np.mean([row["other_mm2"] for row in rows])), 1),
        "false outside the heart, mm3": round(false_outside(model, heart, contrast=contrast), 1),
        "elsewhere": sum(row["site"] in ELSEWHERE for row in rows),
        "elsewhere, called coronary": sum(row["site"] in ELSEWHERE and row["called"] != "none" for row in rows),
        "discs": rows,
    }
    return summary, pictures


def run(output: Path, name: str, weights: Path | None, folder: Path) -> dict[str, Any]:
    """Try all places, with and without contrast; write the figures, which are returned, and the picture."""
    heart = read_heart(folder)
    model = ddrsapc.optimize_for_inference(ddrsapc.create_model(name, pretrained=weights is None, weights=weights))
    output.mkdir(parents=True, exist_ok=True)
    summaries: list[dict[str, Any]] = []
    tiles: list[Image.Image] = []
    for contrast in (False, True):
        summary, pictures = evaluate(model, heart, contrast=contrast)
        summaries.append(summary)
        if not contrast:
            tiles = pictures
        print(
            "{} contrast: {found} of {on arteries} on arteries found, {called by their vessel} called by their vessel; "
            "{elsewhere, called coronary} of {elsewhere} elsewhere called coronary; "
            "{false outside the heart, mm3} mm3 outside the heart".format("with" if contrast else "without", **summary)
        )
    across = 7
    width, height = tiles[0].size
    canvas = Image.new("RGB", (across * width, -(-len(tiles) // across) * height))
    for i, tile in enumerate(tiles):
        canvas.paste(tile, (i % across * width, i // across * height))
    canvas.save(output / "implants.png")
    about = {
        "model": name,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else verify_weights(weights).sha256,
        "scans": summaries,
        **made_by(torch.device("cpu")),
    }
    (output / "implants.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


def main(argv: Sequence[str] | None = None) -> int:
    """Run by the command line."""
    return command_line(run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
