"""Evaluate trained weights on a folder of image/label pairs: scores, speed and colour-coded pictures.

DATA is laid out as for train.py. With the training's options for the split (--fractions, --split-seed,
--patient), the test patients are those that it left out.

    python examples/evaluate.py outputs/run/best.safetensors DATA -o outputs/evaluation
    python examples/evaluate.py outputs/run/best.safetensors DATA -o outputs/val --split val --split-seed 3
    python examples/evaluate.py best.safetensors DATA -o outputs/two --classes none calcium --pictures 50

    outputs/evaluation/scores.json, scores.csv       IoU, Dice, precision, recall per class; the speed
    outputs/evaluation/contact_sheet.png             the slices with most foreground: input, truth, prediction
    outputs/evaluation/pictures/01_p03_0007.png ...  the same, larger, one by one
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import re
import statistics
import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc import data
from ddrsapc.files import write_atomically
from ddrsapc.metrics import ConfusionMatrix, SegmentationScores
from ddrsapc.training import BatchPreparation, CheckpointError, evaluate, load_trained

try:
    from PIL import Image, ImageColor, ImageDraw, ImageFont
except ImportError:
    print('error: Pillow is missing; install the extra with: pip install "ddrsapc[train]"', file=sys.stderr)
    raise SystemExit(2) from None

IGNORED, MUTED, FRAME = 255, "#5f587d", "cyan"
# red, green and yellow are the paper's LAD, LCX and RCA
COLOURS = ("red", "lime", "yellow", "dodgerblue", "magenta", "darkorange", "mediumpurple", "pink")
PALETTE = torch.tensor([(0, 0, 0), *map(ImageColor.getrgb, (COLOURS * 32)[:254]), ImageColor.getrgb(MUTED)]).byte()
WINDOW = (-160, 240)  # HU shown
CROP, MARGIN = 96, 16  # smallest side of a crop, pixels around the foreground
TEXT, GAP, LINE = 220, 12, 18  # width of the text beside the panels, space between, height of a line


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    how: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=__doc__, **how)
    add = parser.add_argument
    add("weights", type=Path, help="best.safetensors of a training run")
    add("data", type=Path, help="folder with images/ and labels/, or with train/, val/ and test/")
    add("-o", "--output", type=Path, required=True, help="folder for scores and pictures")
    add("--split", choices=("test", "val", "train", "all"), default="test", help="which patients (%(default)s)")
    add("--fractions", type=float, nargs=3, default=(0.7, 0.15, 0.15), metavar="PART", help="train, val, test patients")
    add("--split-seed", type=int, default=0, help="another draw of the patients (%(default)s)")
    add("--patient", help="regular expression for the patient in a path below images/, as '^(.{4})' (folder, or stem)")
    add("--png-window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU that 8-bit PNGs span")
    add("--batch-size", type=int, default=1, help="slices at once (%(default)s)")
    add("--device", help="cpu, cuda, ... (a GPU where there is one)")
    add("--classes", nargs="+", metavar="NAME", help="names, background first (none LAD LCX RCA where there are four)")
    add("--pictures", type=int, default=20, help="slices in pictures, at most (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1 or arguments.pictures < 0:
        parser.error("--batch-size must be at least 1, --pictures at least 0")
    return arguments


def cases_of(arguments: argparse.Namespace, readers: data.Readers, num_classes: int) -> tuple[data.Case, ...]:
    """The cases of the split, at least one."""
    patient = data.patient_by_pattern(arguments.patient) if arguments.patient else data.patient_of
    how: Any = {"fractions": tuple(arguments.fractions), "seed": arguments.split_seed, "patient": patient}
    splits, reports = data.load_splits(arguments.data, num_classes=num_classes, readers=readers, **how)
    cases: tuple[data.Case, ...] = sum(splits, ()) if arguments.split == "all" else getattr(splits, arguments.split)
    if not cases:
        by_folders = reports[0].folder != arguments.data
        reason = f"there is no {arguments.data / arguments.split}" if by_folders else "--fractions gives it no patient"
        raise data.DataError(f"the {arguments.split} split is empty: {reason}")
    return cases


def time_passes(model: torch.nn.Module, device: torch.device) -> list[tuple[torch.Size, float]]:
    """A list that every forward pass from now on adds its input's shape and its seconds to."""
    passes: list[tuple[torch.Size, float]] = []
    begun = [0.0]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    model.register_forward_pre_hook(lambda *_: begun.__setitem__(0, now()))
    model.register_forward_hook(lambda _, inputs, __: passes.append((inputs[0].shape, now() - begun[0])))
    return passes


def speed(passes: list[tuple[torch.Size, float]], device: torch.device) -> dict[str, Any]:
    """The median over the passes of the most frequent shape, and where it was measured."""
    shape = Counter(shape for shape, _ in passes).most_common(1)[0][0]
    ms = 1000 * statistics.median(seconds for other, seconds in passes if other == shape) / shape[0]
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    name = f"{found[1] if found else device.type}, {torch.get_num_threads()} thread(s)"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return {"ms_per_slice": ms, "height": shape[2], "width": shape[3], "batch_size": shape[0], "device": name}


def rows_of(scores: SegmentationScores, names: list[str]) -> list[dict[str, Any]]:
    """The scores per class, then their means; None where undefined."""
    columns = {key: getattr(scores, key) for key in ("iou", "dice", "precision", "recall")}
    rows = [{"name": name} | {key: x[c].item() for key, x in columns.items()} for c, name in enumerate(names)]
    rows = [row | {"pixels": int(pixels)} for row, pixels in zip(rows, scores.support, strict=True)]
    for name, first in (("mean, classes present", 0), ("mean, foreground", 1)):
        rows.append({"name": name} | {key: columns[key][first:].nanmean().item() for key in ("iou", "dice")})
    return [{key: None if x != x else x for key, x in row.items()} for row in rows]  # noqa: PLR0124  # NaN


def table(rows: list[dict[str, Any]]) -> str:
    """The scores, to be read."""
    columns = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"}
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':<{width}}" + "".join(f"{title:>11}" for title in columns.values()) + "  pixels in truth"]
    for row in rows:
        cells = ["" if key not in row else "-" if row[key] is None else f"{row[key]:.4f}" for key in columns]
        cells = ["absent", "", "", ""] if row["iou"] is None else cells
        text = "".join(f"{cell:>11}" for cell in cells)
        lines.append(f"{row['name']:<{width}}{text}{row.get('pixels', ''):>17}".rstrip())
    return "\n".join(lines)


@dataclass(frozen=True)
class Slice:
    """What a picture shows: HU, true and predicted labels, (H, W) each."""

    name: str
    hu: Tensor
    truth: Tensor
    prediction: Tensor

    @cached_property
    def pixels(self) -> tuple[int, int]:
        """Foreground in the truth, and in the prediction."""
        return int(((self.truth > 0) & (self.truth != IGNORED)).sum()), int((self.prediction > 0).sum())


def panel(hu: Tensor, labels: Tensor | None, zoom: int = 1) -> Image.Image:
    """Grey values, labels in their colours, every pixel enlarged."""
    low, high = WINDOW
    rgb = ((hu.clamp(low, high) - low) / (high - low) * 255).to(torch.uint8)[..., None].repeat(1, 1, 3)  # (H, W, 3)
    if labels is not None:
        rgb = torch.where(labels[..., None] > 0, PALETTE[labels.long()], rgb)
    image = Image.fromarray(rgb.numpy())
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def crop_of(shown: Slice, side: int) -> tuple[slice, slice, int]:
    """Rows and columns around the foreground, or the whole slice; the zoom that makes them about `side` pixels."""
    shape = shown.hu.shape
    pixels = ((shown.truth > 0) & (shown.truth != IGNORED) | (shown.prediction > 0)).nonzero()  # (P, 2)
    bounds = [(int(x.min()), int(x.max()) + 1) for x in pixels.T] if len(pixels) else [(0, n) for n in shape]
    size = min(max(CROP, *(stop - start + 2 * MARGIN for start, stop in bounds)), max(shape))
    zoom = max(1, side // size)
    size = max(size, side // zoom)
    starts = [min(max((sum(bound) - size) // 2, 0), max(n - size, 0)) for bound, n in zip(bounds, shape, strict=True)]
    rows, columns = (slice(start, min(start + size, n)) for start, n in zip(starts, shape, strict=True))
    return rows, columns, zoom


def picture(shown: Slice, names: list[str], side: int) -> Image.Image:
    """Input, truth and prediction, beside them what they are, where in the slice, and the legend."""
    rows, columns, zoom = crop_of(shown, side)
    confusion = ConfusionMatrix(len(names))
    confusion.update(shown.prediction, shown.truth)
    iou = confusion.scores().foreground_mean_iou
    lines = [*textwrap.wrap(shown.name, 26), "no foreground" if math.isnan(iou) else f"foreground IoU {iou:.3f}",
             "{} px true, {} predicted".format(*shown.pixels), f"rows {rows.start}-{rows.stop - 1}, enlarged {zoom} x",
             f"columns {columns.start}-{columns.stop - 1} in:"]  # fmt: skip
    whole = panel(shown.hu, None)
    ImageDraw.Draw(whole).rectangle(
        (columns.start, rows.start, columns.stop - 1, rows.stop - 1), outline=FRAME, width=max(whole.size) // CROP + 1
    )
    whole.thumbnail((CROP, CROP), Image.Resampling.BOX)
    labels = {"Input": None, "Truth": shown.truth, "Prediction": shown.prediction}
    panels = [panel(shown.hu[rows, columns], x if x is None else x[rows, columns], zoom) for x in labels.values()]
    below = GAP + LINE * len(lines) + whole.height + GAP  # where the legend begins
    height = max(panels[0].height + GAP + LINE + 6, below + LINE * (len(names) + 1)) + GAP
    canvas = Image.new("RGB", (TEXT + 3 * (panels[0].width + GAP), height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    draw.multiline_text((GAP, GAP), "\n".join(lines), "black", font, spacing=LINE - 14)
    canvas.paste(whole, (GAP, below - GAP - whole.height))
    for i, (heading, image) in enumerate(zip(labels, panels, strict=True)):
        left = TEXT + i * (image.width + GAP)
        draw.text((left, GAP), heading, "black", font)
        canvas.paste(image, (left, GAP + LINE + 6))
    for i, (c, name) in enumerate([*list(enumerate(names))[1:], (IGNORED, "does not count")]):
        box = (GAP, below + LINE * i, GAP + 14, below + LINE * i + 14)
        draw.rectangle(box, tuple(PALETTE[c].tolist()), "black")
        draw.text((GAP + 22, below + LINE * i), name, "black", font)
    draw.text((GAP, below + LINE * len(names)), "CT window {} to {} HU".format(*WINDOW), "dimgrey", font)
    return canvas


def save_pictures(folder: Path, slices: list[Slice], names: list[str]) -> list[str]:
    """A picture per slice, and the contact sheet; the files' names."""
    (folder / "pictures").mkdir(exist_ok=True)
    sheet = [picture(shown, names, 3 * CROP) for shown in slices]
    canvas = Image.new("RGB", (max(row.width for row in sheet), sum(row.height for row in sheet)), "white")
    for i, row in enumerate(sheet):
        canvas.paste(row, (0, sum(above.height for above in sheet[:i])))
    safe = [re.sub(r"[^\w.-]+", "_", shown.name.replace("]", ""))[-80:] for shown in slices]
    files = [f"pictures/{i:02}_{name}.png" for i, name in enumerate(safe, 1)]
    large = (picture(shown, names, 6 * CROP) for shown in slices)
    for file, image in [("contact_sheet.png", canvas), *zip(files, large, strict=True)]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_atomically(folder / file, buffer.getvalue())
    return files


def run(arguments: argparse.Namespace) -> None:
    """Load and check everything, evaluate, write."""
    model = load_trained(arguments.weights)
    classes = model.num_classes
    names = arguments.classes or ["none", *(("LAD", "LCX", "RCA") if classes == 4 else map(str, range(1, classes)))]
    if len(names) != classes or model.in_chans != 1:
        raise ValueError(f"{arguments.weights} has {classes} classes and {model.in_chans} input channel(s), "
                         f"expected {len(names)} (--classes, background included) and 1")  # fmt: skip
    window = tuple(arguments.png_window) if arguments.png_window else None
    readers = data.Readers(images={**data.READERS.images, ".png": partial(data.read_png_image, window=window)})
    cases = cases_of(arguments, readers, classes)
    try:
        device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch raises either where there is no such device
        raise ValueError(f"--device {arguments.device}: {error}") from error
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not os.access(arguments.output, os.W_OK):
        raise OSError(f"{arguments.output} cannot be written to")

    dataset = data.SliceDataset(cases, readers=readers)
    loader = data.make_loader(dataset, data.shard_batches(len(dataset), arguments.batch_size))
    prepare = BatchPreparation(model.input_config, device)
    slices: list[Slice] = []

    def keep(batch: data.Batch, prediction: Tensor) -> None:
        labels = prediction.to("cpu", torch.uint8)
        slices.extend(map(Slice, batch.names, batch.hu[:, 0], batch.labels, labels))
        slices.sort(key=lambda shown: shown.pixels, reverse=True)  # stable
        del slices[arguments.pictures :]

    with torch.no_grad():
        model(prepare(next(iter(loader)))[0])  # the first pass is slower
    passes = time_passes(model, device)
    result = evaluate(
        model, tqdm(loader, "evaluating", unit="batch", leave=False, disable=None), prepare, on_batch=keep
    )

    rows, fast = rows_of(result.scores, names), speed(passes, device)
    patients = len({case.patient for case in cases})
    print(
        f"{model.architecture} on {arguments.data}, {arguments.split} split: {patients} patients, {len(dataset)} slices"
    )
    print(table(rows))
    print("{ms_per_slice:.2f} ms per slice ({height} x {width}, batch {batch_size}) on {device}".format(**fast))
    pictures = save_pictures(arguments.output, slices, names) if slices else []
    listed = [{"slice": shown.name, "file": file} for shown, file in zip(slices, pictures, strict=True)]
    summary = {"weights": str(arguments.weights), "data": str(arguments.data), "split": arguments.split,
               "patients": patients, "slices": len(dataset), "classes": rows[:-2], "mean": rows[-2],
               "foreground_mean": rows[-1], "confusion": result.confusion.counts.tolist(), "speed": fast,
               "pictures": listed}  # fmt: skip
    write_atomically(arguments.output / "scores.json", (json.dumps(summary, indent=2) + "\n").encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows[:-2])
    write_atomically(arguments.output / "scores.csv", text.getvalue().encode())
    print(f"scores and pictures: {arguments.output}")


def main(argv: list[str] | None = None) -> int:
    """One line on stderr and 2 for input that cannot be used; files with problems are listed below it."""
    arguments = parse(argv)
    try:
        run(arguments)
    except (CheckpointError, data.DataError, OSError, ValueError) as error:
        text = str(error) if isinstance(error, data.DataError) else " ".join(str(error).split())
        print(f"error: {text}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
