"""What the pretrained weights find on real scans that show no heart, or a heart with a mask.

    python examples/real_scans.py -o outputs/real_scans
    python examples/real_scans.py -o outputs/real_scans --weights outputs/run/best.safetensors

Coronary calcium found outside the heart is false. The chest with contrast is stored in voxels of 1.5 mm, larger
than the weights were trained in: it is looked at as it is, and in pixels of 0.5 mm and slices of 3 mm. Writes
real_scans.json, and a picture of each scan: the slices with most of what was found and some at even distances, with
the heart's outline where its mask is known. The scans are looked for in $DDRSAPC_TEST_DATA; pydicom brings one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from provenance import made_by
from pydicom.data import get_testdata_file
from scipy.ndimage import binary_erosion, zoom  # type: ignore[import-untyped]

import ddrsapc
from ddrsapc.ct import SliceOrientation, Volume, read_volume
from ddrsapc.hub import WeightsError, verify_weights
from ddrsapc.inference import predict
from ddrsapc.models import SegmentationModel
from ddrsapc.report.overlay import OPACITY, legend, panel
from ddrsapc.scoring import VESSELS

FINER, THICKER = 3, 2  # pixels in the place of one, slices in one: 0.5 mm and 3 mm, as cardiac scans have them
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
    fine: bool = False
    """In finer pixels and thicker slices than it is stored in."""

    def read(self) -> tuple[Volume, NDArray[np.bool_] | None]:
        """The scan, and the heart in it (Z, H, W), if there is a mask."""
        volume = read_volume(self.path)
        heart = None if self.heart is None else heart_mask(self.heart, sitk.ReadImage(str(self.path)))
        return (volume, heart) if not self.fine else (finer(volume), None if heart is None else finer_mask(heart))


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
        RealScan("totalseg_cta_pulmonary_fine", cta / "pulmonary_report_ct_cropped.nii.gz", 20.0, heart, fine=True),
        RealScan("totalseg_cta_aorta_fine", cta / "aorta_report_ct_cropped.nii.gz", 20.0, heart, fine=True),
        RealScan("totalseg_dicom_j2k", folder / "totalseg_dicom_j2k", 0.0),
        RealScan("ct_small", Path(str(get_testdata_file("CT_small.dcm", download=False))), 0.0),
    ]


def heart_mask(path: Path, scan: sitk.Image) -> NDArray[np.bool_]:
    """A mask file in a scan's geometry, (Z, H, W).

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:  # SimpleITK's
        raise ValueError(f"cannot read {path}: {str(error).splitlines()[-1].strip()}") from error
    mask = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(mask) > 0


def finer_slice(hu: NDArray[Any]) -> NDArray[np.float32]:
    """Some slices (Z, H, W) as one of finer pixels (FINER H, FINER W)."""
    fine: NDArray[np.float32] = zoom(hu.astype(np.float32).mean(0), FINER, order=1, grid_mode=True, mode="nearest")
    return fine


def finer(volume: Volume) -> Volume:
    """A scan in slices of THICKER of its own, with FINER pixels; what is left over at its end is dropped."""
    parts = range(0, len(volume.hu) - THICKER + 1, THICKER)
    hu = np.stack([finer_slice(volume.hu[first : first + THICKER]) for first in parts])
    stored = np.diag([1 / FINER, 1 / FINER, THICKER, 1])  # indices of voxels, from those of the finer ones
    stored[:3, 3] = (np.diag(stored)[:3] - 1) / 2
    spacing = volume.spacing or (1.0, 1.0, 1.0)
    return replace(
        volume,
        hu=np.floor(hu).astype(np.int16),
        spacing=(THICKER * spacing[0], spacing[1] / FINER, spacing[2] / FINER),
        affine=volume.affine @ stored,
        slice_positions=volume.slice_positions[list(parts)],
    )


def finer_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (Z, H, W) in the voxels of `finer`: what is in one of the slices is in all."""
    parts = range(0, len(mask) - THICKER + 1, THICKER)
    thick = np.stack([mask[first : first + THICKER].any(0) for first in parts])
    return thick.repeat(FINER, 1).repeat(FINER, 2)


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


def slices_to_show(pixels: NDArray[np.integer]) -> list[int]:
    """At most SHOWN, ascending: those with most of what was found (Z,); where these are few, some at even distances."""
    most = [int(z) for z in np.argsort(-pixels, kind="stable") if pixels[z]]
    even = np.linspace(0, len(pixels) - 1, SHOWN).astype(int).tolist()
    return sorted(list(dict.fromkeys([*most, *even]))[:SHOWN])


def picture(
    found: Found, volume: Volume, labels: NDArray[np.uint8], heart: NDArray[np.bool_] | None = None
) -> Image.Image:
    """The slices with most of what was found and some at even distances, with labels and the heart's outline."""
    pixels = (labels > 0).sum((1, 2))
    shown = slices_to_show(pixels)
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
    scans = real_scans(folder)
    missing = [path for scan in scans for path in (scan.path, scan.heart) if path is not None and not path.exists()]
    if missing:
        raise FileNotFoundError(f"no {missing[0]}; set DDRSAPC_TEST_DATA to the folder with the real scans")
    model = ddrsapc.optimize_for_inference(ddrsapc.create_model(name, pretrained=weights is None, weights=weights))
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for scan in scans:
        volume, heart = scan.read()
        found, labels = evaluate(model, scan, volume, heart)
        picture(found, volume, labels, heart).save(output / f"{scan.name}.png")
        rows.append(asdict(found))
        print(f"{found.name}: {found.false_mm3:.1f} mm3 false, at most {found.limit_mm3:g} expected")
    summary = {
        "model": name,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else verify_weights(weights).sha256,
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
