"""What the pretrained weights find on real scans that show no heart, or a heart with a mask.

    python examples/real_scans.py -o outputs/real_scans
    python examples/real_scans.py -o outputs/real_scans --weights outputs/run/best.safetensors

Coronary calcium found outside the heart is false. Writes real_scans.json, and a picture of each scan: the slices with
most of what was found, else some at even distances, with the heart's outline where its mask is known. The scans are
looked for in $DDRSAPC_TEST_DATA; pydicom brings one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from provenance import made_by
from pydicom.data import get_testdata_file
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

import ddrsapc
from ddrsapc.ct import SliceOrientation, Volume, read_volume
from ddrsapc.hub import WeightsError
from ddrsapc.inference import predict
from ddrsapc.models import SegmentationModel
from ddrsapc.report.overlay import OPACITY, legend, panel
from ddrsapc.scoring import VESSELS

SHOWN, SIDE = 4, 360  # slices of a scan in its picture, side of each in pixels
OUTLINE = 4  # beside the labels of vessels


@dataclass(frozen=True)
class RealScan:
    """A scan, and how much coronary calcium outside the heart may be found in it."""

    name: str
    path: Path
    limit_mm3: float
    heart: Path | None = None
    """Mask of the heart; None: the scan shows none, so that all that is found is false."""


@dataclass(frozen=True)
class Found:
    """What was found in a scan, in mm3."""

    name: str
    slices: int
    spacing: tuple[float, float, float]
    false_mm3: float
    """Outside the heart."""
    limit_mm3: float
    vessels_mm3: dict[str, float]
    """By vessel, inside the heart or not."""


def real_scans(folder: Path) -> list[RealScan]:
    """The scans in the folder of test data, and pydicom's."""
    cta = folder / "totalseg_cta"
    heart = cta / "pulmonary_report_heart.nii.gz"
    return [
        RealScan("totalseg_cta_pulmonary", cta / "pulmonary_report_ct_cropped.nii.gz", 20.0, heart),
        RealScan("totalseg_cta_aorta", cta / "aorta_report_ct_cropped.nii.gz", 20.0, heart),
        RealScan("totalseg_dicom_j2k", folder / "totalseg_dicom_j2k", 0.0),
        RealScan("ct_small", Path(str(get_testdata_file("CT_small.dcm", download=False))), 0.0),
    ]


def heart_mask(path: Path, scan: sitk.Image) -> NDArray[np.bool_]:
    """A mask file in a scan's geometry, (Z, H, W)."""
    mask = sitk.Resample(sitk.ReadImage(str(path)), scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(mask) > 0


def heart_of(scan: RealScan) -> NDArray[np.bool_] | None:
    """The scan's mask of the heart (Z, H, W), if it has one."""
    return None if scan.heart is None else heart_mask(scan.heart, sitk.ReadImage(str(scan.path)))


def evaluate(
    model: SegmentationModel, scan: RealScan, volume: Volume, heart: NDArray[np.bool_] | None
) -> tuple[Found, NDArray[np.uint8]]:
    """What the network finds in a scan that was read, with its mask of the heart; and its labels (Z, H, W)."""
    labels = predict(model, volume)
    outside = labels > 0 if heart is None else (labels > 0) & ~heart
    spacing = volume.spacing or (1.0, 1.0, 1.0)
    voxel = float(np.prod(spacing))
    vessels = {name: float((labels == label).sum()) * voxel for label, name in VESSELS.items()}
    found = Found(scan.name, len(labels), spacing, float(outside.sum()) * voxel, scan.limit_mm3, vessels)
    return found, labels


def picture(
    found: Found, volume: Volume, labels: NDArray[np.uint8], heart: NDArray[np.bool_] | None = None
) -> Image.Image:
    """The slices with most of what was found, else some at even distances, with labels and the heart's outline."""
    pixels = (labels > 0).sum((1, 2))
    shown = sorted(np.argsort(-pixels, kind="stable")[:SHOWN].tolist())
    if not pixels.any():
        shown = np.unique(np.linspace(0, len(labels) - 1, SHOWN).astype(int)).tolist()
    orientation = SliceOrientation.of(volume.affine)
    colours = labels
    if heart is not None:
        edge = heart & ~binary_erosion(heart, np.ones((1, 3, 3), bool))
        colours = np.where((labels == 0) & edge, np.uint8(OUTLINE), labels)
    canvas = Image.new("RGB", (SHOWN * (SIDE + 12) + 12, SIDE + 96), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    vessels = ", ".join(f"{name} {mm3:.0f}" for name, mm3 in found.vessels_mm3.items())
    title = f"{found.name}: false {found.false_mm3:.0f} mm3 (at most {found.limit_mm3:.0f}); found in mm3: {vessels}"
    draw.text((12, 8), title, "black", font)
    for i, z in enumerate(shown):
        upright = [
            orientation.upright(torch.from_numpy(np.ascontiguousarray(x[z : z + 1])))[0] for x in (volume.hu, colours)
        ]
        image = panel(upright[0], upright[1], SIDE / max(upright[0].shape), opacity=OPACITY)
        canvas.paste(image, (12 + i * (SIDE + 12), 56))
        draw.text((12 + i * (SIDE + 12), 34), f"slice {z + 1} of {len(labels)}, {pixels[z]} pixels", "black", font)
    names = dict(VESSELS) if heart is None else {**VESSELS, OUTLINE: "heart"}
    canvas.paste(legend(names, across=True), (12, SIDE + 68))
    return canvas


def run(output: Path, name: str, weights: Path | None, folder: Path) -> dict[str, Any]:
    """Look at every scan that is there; write the pictures, and the summary that is returned."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; set DDRSAPC_TEST_DATA to the one with the real scans")
    model = ddrsapc.optimize_for_inference(ddrsapc.create_model(name, pretrained=weights is None, weights=weights))
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for scan in real_scans(folder):
        if not scan.path.exists():
            print(f"{scan.name}: not here")
            continue
        volume, heart = read_volume(scan.path), heart_of(scan)
        found, labels = evaluate(model, scan, volume, heart)
        picture(found, volume, labels, heart).save(output / f"{scan.name}.png")
        rows.append(asdict(found))
        print(f"{found.name}: {found.false_mm3:.1f} mm3 false, at most {found.limit_mm3:g} expected")
    summary = {
        "model": name,
        "weights": None if weights is None else str(weights),
        "scans": rows,
        **made_by(torch.device("cpu")),
    }
    (output / "real_scans.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run by the command line."""
    return command_line(run, __doc__, argv)


def command_line(
    run: Callable[[Path, str, Path | None, Path], object], about: str | None, argv: Sequence[str] | None
) -> int:
    """Parse output, model and weights, and run; one line on stderr and 2 for input that cannot be used."""
    shared = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the JSON and the pictures")
    parser.add_argument("--model", default="ddr_sapc_u", help="name of weights (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a safetensors file of weights for the model")
    args = parser.parse_args(argv)
    try:
        run(args.output, args.model, args.weights, Path(os.environ.get("DDRSAPC_TEST_DATA", shared)))
    except (WeightsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
