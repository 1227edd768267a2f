"""Quickstart: a real CT, the pretrained `ddr_sapc_u`, a minute of fine-tuning, an overlay.

A smoke test of the whole chain, not a medical result: the labels are made from the scan itself, by
density, and the network is evaluated on the slices that it was trained on.

    python examples/quickstart.py                    # a calcium phantom's scan if at hand, else pydicom's CT slice
    python examples/quickstart.py path/to/series     # your own: a DICOM folder, NIfTI, MHA or NRRD
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

import ddrsapc
from ddrsapc.hub import WeightsError
from ddrsapc.losses import OhemCrossEntropyLoss
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.models import SegmentationModel

try:
    import SimpleITK as sitk  # noqa: N813
    from PIL import Image, ImageDraw, ImageFont
    from pydicom.data import get_testdata_file

    from ddrsapc.ct import read_volume
    from ddrsapc.report.overlay import OPACITY, legend, panel
except ImportError as error:
    print(f'error: {error.name} is missing; install the extra with: pip install "ddrsapc[ct]"', file=sys.stderr)
    raise SystemExit(2) from None

MODEL = "ddr_sapc_u"
CROP, BATCH, LEARNING_RATE = 64, 8, 3e-3  # side of a training image in pixels, images per step


class BadScanError(ValueError):
    """What was given cannot be used; the message says why and what is expected."""


def default_scan() -> Path:
    """The calcium phantom in the test data, or the CT slice that pydicom brings along."""
    shared = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    phantom = Path(os.environ.get("DDRSAPC_TEST_DATA", shared)) / "qrm_cci_canon" / "qrm_insert_crop.nii.gz"
    return phantom if phantom.is_file() else Path(str(get_testdata_file("CT_small.dcm", download=False)))


def read_scan(path: Path) -> tuple[Tensor, float]:
    """HU (Z, H, W) of a scan, and the area of a pixel in mm2.

    Raises:
        ValueError: if it cannot be read, or its slices are too small.
    """
    volume = read_volume(path)
    if min(volume.hu.shape[1:]) < CROP:
        raise BadScanError(f"{path}: its slices are {volume.hu.shape[1:]}; expected at least {CROP} x {CROP} pixels")
    _, y, x = volume.spacing or (1.0, 1.0, 1.0)
    return torch.from_numpy(volume.hu).float(), y * x


def label(hu: Tensor, pixel_area: float) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (Z, H, W) of four classes by density, and the classes' names.

    In a calcium phantom, the inserts: compact spots of at least 130 HU, by their peak. Elsewhere bone.
    """
    image = sitk.GetImageFromArray(hu.numpy())
    spots = sitk.ConnectedComponent(image >= 130, True)
    spot = sitk.LabelIntensityStatisticsImageFilter()
    spot.Execute(spots, image)
    classes = {}
    for index in spot.GetLabels():
        area, peak = spot.GetNumberOfPixels(index) * pixel_area, spot.GetMaximum(index)
        if 10 < area < 150 and peak > 230:  # noise is fainter, bone is larger
            classes[index] = int(np.digitize(peak, (420, 700))) + 1
    if set(classes.values()) == {1, 2, 3}:
        lookup = np.zeros(max(spot.GetLabels()) + 1, dtype=np.int64)
        lookup[list(classes)] = list(classes.values())
        return torch.from_numpy(lookup[sitk.GetArrayFromImage(spots)]), ("none", "200 mg/ml", "400 mg/ml", "800 mg/ml")
    labels = torch.bucketize(hu, torch.tensor([150.0, 300.0, 600.0]), right=True)
    if labels.unique().tolist() != [0, 1, 2, 3]:
        raise BadScanError("it has neither calcium inserts nor bone of three densities to learn from")
    return labels, ("none", "bone 150-300 HU", "bone 300-600 HU", "bone over 600 HU")


def region_of(labels: Tensor) -> tuple[Tensor, slice, slice]:
    """The slices that have labels, and the rows and columns of a box around all labels, in steps of 64."""
    slices = labels.flatten(1).any(1).nonzero().flatten()
    sides = []
    for axis, length in ((2, labels.shape[1]), (1, labels.shape[2])):
        where = labels.any(0).any(axis - 1).nonzero()
        first, last = int(where.min()), int(where.max())
        size = min(-(-(last - first + 32) // 64) * 64, length)
        start = min(max((first + last - size) // 2, 0), length - size)
        sides.append(slice(start, start + size))
    return slices, sides[0], sides[1]


def random_batch(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Crops (BATCH, 1, CROP, CROP) and their labels, each around a pixel of a class that is drawn first."""
    crops = []
    for c in torch.randint(4, (BATCH,)).tolist():
        pixels = (labels == c).nonzero()
        z, row, column = pixels[torch.randint(len(pixels), ())].tolist()
        top, left = (
            min(max(centre - int(torch.randint(CROP // 4, 3 * CROP // 4, ())), 0), length - CROP)
            for centre, length in zip((row, column), x.shape[2:], strict=True)
        )
        rows, columns = slice(top, top + CROP), slice(left, left + CROP)
        crops.append((x[z, :, rows, columns], labels[z, rows, columns]))
    images, targets = zip(*crops, strict=True)
    return torch.stack(images), torch.stack(targets)


def fine_tune(model: SegmentationModel, x: Tensor, labels: Tensor, steps: int) -> None:
    """Train on random crops, with warm-up and a cosine schedule."""
    device = next(model.parameters()).device
    model.train()
    for module in model.modules():  # crops this small, all of calcium, are no sample for batch statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    criterion = OhemCrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.param_groups(LEARNING_RATE))
    peaks = [LEARNING_RATE] * len(optimizer.param_groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.2)
    progress = tqdm(range(steps), desc="fine-tuning", unit="step")
    for _ in progress:
        images, targets = (t.to(device) for t in random_batch(x, labels))
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")


@torch.inference_mode()
def predict(model: SegmentationModel, x: Tensor) -> Tensor:
    """Labels (Z, H, W) of (Z, 1, H, W), slice by slice."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(image[None].to(device)).argmax(1).cpu() for image in x])


def iou(prediction: Tensor, labels: Tensor) -> Tensor:
    """IoU per class (4,)."""
    confusion = ConfusionMatrix(4)
    confusion.update(prediction, labels)
    return confusion.scores().iou


def overlay(hu: Tensor, labels: Tensor, prediction: Tensor, names: tuple[str, ...], title: str) -> Image.Image:
    """Input, labels and prediction of one slice (H, W) side by side, with a legend."""
    zoom = max(1, 400 // hu.shape[1])
    shown = {"Input": None, "Labels, from density": labels, "Prediction": prediction}
    panels = [panel(hu, x, zoom, opacity=OPACITY) for x in shown.values()]
    width, height = panels[0].size
    canvas = Image.new("RGB", (3 * width + 80, height + 150), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((20, 14), title, "black", ImageFont.load_default(20))
    for i, (heading, picture) in enumerate(zip(shown, panels, strict=True)):
        left = 20 + i * (width + 20)
        draw.text((left, 50), heading, "black", ImageFont.load_default(16))
        canvas.paste(picture, (left, 78))
    canvas.paste(legend(dict(enumerate(names[1:], 1)), font_size=16, across=True), (20, height + 98))
    return canvas


def check_output(path: Path) -> None:
    """See that the picture can be written, before a minute is spent on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadScanError(f"{path} cannot be written; give the name of a picture in a folder that can")


def run(arguments: argparse.Namespace) -> None:
    """The whole chain; raises BadScanError before anything is written."""
    scan = arguments.scan or default_scan()
    whole, pixel_area = read_scan(scan)
    try:
        labels, names = label(whole, pixel_area)
    except BadScanError as error:
        raise BadScanError(f"{scan}: {error}") from error
    slices, rows, columns = region_of(labels)
    hu, labels = whole[slices, rows, columns], labels[slices, rows, columns]
    check_output(arguments.output)
    print(f"{scan.name}: {len(whole)} slices; labels from density on {len(slices)}: {', '.join(names[1:])}")
    print("A smoke test: it learns and is evaluated on the same slices, with labels made from the scan itself.")

    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ddrsapc.create_model(MODEL, pretrained=True).to(device)
    x = model.input_config.normalize(hu)[:, None]  # (Z, 1, H, W)
    before = iou(predict(model, x), labels)
    fine_tune(model, x, labels, arguments.steps)
    prediction = predict(model, x)
    after = iou(prediction, labels)

    print(f"{'IoU':<18}{'before':>8}{'after':>8}")
    for name, old, new in zip(names, before.tolist(), after.tolist(), strict=True):
        print(f"{name:<18}{old:>8.3f}{new:>8.3f}")
    print(f"{'mean, foreground':<18}{before[1:].nanmean():>8.3f}{after[1:].nanmean():>8.3f}")

    best = int((labels > 0).flatten(1).sum(1).argmax())
    title = f"{MODEL} on {scan.name}, slice {int(slices[best]) + 1} of {len(whole)}"
    picture = overlay(hu[best], labels[best], prediction[best], names, title)
    partial = arguments.output.with_name(arguments.output.name + ".part")
    picture.save(partial, "PNG")
    partial.replace(arguments.output)
    print(f"overlay: {arguments.output}")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; one line on stderr and 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("scan", type=Path, nargs="?", help="DICOM folder or file, NIfTI, MHA or NRRD")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart.png"), help="picture (%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=120, help="training steps, one to three minutes in all on 2 cores (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and crops (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.steps < 10:
        parser.error(f"--steps must be at least 10, got {arguments.steps}")
    try:
        run(arguments)
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
