"""`ddrsapc evaluate`: scores, speed and pictures of trained weights."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc import data
from ddrsapc.cli.device import device_of
from ddrsapc.cli.sections import SectionedCommand, section
from ddrsapc.cli.training_data import LoadedData, data_options, load_data
from ddrsapc.ct.errors import needs_extra
from ddrsapc.files import write_atomically
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, parse_source
from ddrsapc.metrics import SegmentationScores
from ddrsapc.models import SegmentationModel
from ddrsapc.report import csv_bytes
from ddrsapc.scoring import VESSELS
from ddrsapc.training import BatchPreparation, load_trained
from ddrsapc.training import evaluate as evaluate_network

__all__ = ["evaluate"]

_SHEET, _LARGE = 288, 576  # sides of the panels

_run = section("Run")


@click.command(cls=SectionedCommand, short_help="Score trained weights on pairs or scans with masks, with pictures.")
@click.argument("weights")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DATA")
@_run("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for scores and pictures.")
@_run(
    *("--split", "split"),
    type=click.Choice([*data.Splits._fields[::-1], "all"]),
    default="test",
    show_default=True,
    help="Which patients.",
)
@_run("--classes", metavar="NAME,NAME,...", help="Background first.  [default: none,LAD,LCX,RCA where there are four]")
@_run("--pictures", type=click.IntRange(min=0), default=20, show_default=True, help="Slices in pictures, at most.")
@_run("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Slices at once.")
@_run("--device", help="cpu, cuda, ... (a GPU where there is one)")
@_run("--json", "as_json", is_flag=True, help="Print scores.json, and all else on stderr.")
@data_options
def evaluate(
    *,
    weights: str,
    folder: Path,
    output: Path,
    split: str,
    classes: str | None,
    pictures: int,
    batch_size: int,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate WEIGHTS (best.safetensors of a run, arch.tag or hf-hub:org/name) on DATA, laid out as for training.

    With the training's options for the split (--fractions, --split-seed, --patient), the test patients are those that
    it left out; with its --prepared, --orcascore and --series, scans are not prepared again. Scores are of the labels
    that the network gives; predict also takes away what is below 130 HU.

    \b
      ddrsapc evaluate outputs/run/best.safetensors DATA -o outputs/evaluation
      ddrsapc evaluate outputs/run/best.safetensors DATA -o outputs/val --split val --split-seed 3
      ddrsapc evaluate outputs/run/best.safetensors SCANS -o outputs/scans --prepared outputs/run/prepared
      ddrsapc evaluate best.safetensors DATA -o outputs/two --classes none,calcium --pictures 50

    \b
      outputs/evaluation/scores.json, scores.csv       IoU, Dice, precision, recall by class; the speed
      outputs/evaluation/contact_sheet.png             the slices with most foreground: input, truth, prediction
      outputs/evaluation/pictures/01_p03_0007.png ...  the same, larger, one by one

    For research only; not a medical device.
    """
    with needs_extra("train"):
        import PIL  # noqa: F401, PLC0415  # an extra, of which the pictures are made at the end
    place = device_of(device)
    model = _load(weights)
    names = _names(classes, model, weights)
    say = partial(click.echo, err=as_json)
    loaded = load_data(folder, output, num_classes=model.num_classes, say=say, **options)
    cases = _cases(loaded, folder, split)
    model.to(place)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        raise OSError(f"{output} cannot be written to")
    dataset = data.SliceDataset(cases, readers=loaded.readers)
    loader = data.make_loader(dataset, data.shard_batches(len(dataset), batch_size))
    prepare = BatchPreparation(model.input_config, place)
    with torch.no_grad():
        model(prepare(next(iter(loader)))[0])  # the first pass is slower
    passes = _time_passes(model, place)
    most = _MostForeground(pictures)
    bar = tqdm(loader, "evaluating", unit="batch", leave=False, disable=None)
    result = evaluate_network(model, bar, prepare, on_batch=most.add)

    rows, speed = _rows(result.scores, names), _speed(passes, place)
    patients = len({case.patient for case in cases})
    say(f"{model.architecture} on {folder}, {split} split: {patients} patients, {len(dataset)} slices")
    say(_table(rows))
    say("{ms_per_slice:.2f} ms per slice ({height} x {width}, batch {batch_size}) on {device}".format(**speed))
    summary = {"weights": weights, "data": str(folder), "split": split, "patients": patients, "slices": len(dataset),
               "classes": rows[:-2], "mean": rows[-2], "foreground_mean": rows[-1],
               "confusion": result.confusion.counts.tolist(), "speed": speed,
               "pictures": most.save(output, names)}  # fmt: skip
    text = json.dumps(summary, indent=2)
    write_atomically(output / "scores.json", (text + "\n").encode())
    write_atomically(output / "scores.csv", csv_bytes(list(rows[0]), rows[:-2]))
    say(f"scores and pictures: {output}")
    if as_json:
        click.echo(text)


def _load(weights: str) -> SegmentationModel:
    source = parse_source(weights)
    if isinstance(source, FileName):
        return load_trained(source.path)
    return build_with_weights(None, {}, open_weights(source, HubOptions())).eval()


def _names(classes: str | None, model: SegmentationModel, weights: str) -> list[str]:
    count = model.num_classes
    vessels = VESSELS.values() if count == len(VESSELS) + 1 else map(str, range(1, count))
    names = ["none", *vessels] if classes is None else [name.strip() for name in classes.split(",")]
    if len(names) != count or model.in_chans != 1:
        raise click.UsageError(
            f"{weights} has {count} classes and {model.in_chans} input channel(s), expected {len(names)} "
            "(--classes, background included) and 1"
        )
    return names


def _cases(loaded: LoadedData, folder: Path, split: str) -> tuple[data.Case, ...]:
    """The cases of the split, at least one."""
    splits = loaded.splits
    cases: tuple[data.Case, ...] = sum(splits, ()) if split == "all" else getattr(splits, split)
    if not cases:
        by_folders = loaded.reports[0].folder != folder
        reason = f"there is no {folder / split}" if by_folders else "--fractions gives it no patient"
        raise click.UsageError(f"the {split} split is empty: {reason}")
    return cases


def _time_passes(model: torch.nn.Module, device: torch.device) -> list[tuple[torch.Size, float]]:
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


def _speed(passes: list[tuple[torch.Size, float]], device: torch.device) -> dict[str, Any]:
    """The median over the passes of the most frequent shape, and where it was measured."""
    shape = Counter(shape for shape, _ in passes).most_common(1)[0][0]
    ms = 1000 * statistics.median(seconds for other, seconds in passes if other == shape) / shape[0]
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    name = f"{found[1] if found else device.type}, {torch.get_num_threads()} thread(s)"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return {"ms_per_slice": ms, "height": shape[2], "width": shape[3], "batch_size": shape[0], "device": name}


def _rows(scores: SegmentationScores, names: Sequence[str]) -> list[dict[str, Any]]:
    """The scores per class, then their means; None where undefined."""
    columns = {key: getattr(scores, key) for key in ("iou", "dice", "precision", "recall")}
    rows = [{"name": name} | {key: x[c].item() for key, x in columns.items()} for c, name in enumerate(names)]
    rows = [row | {"pixels": int(pixels)} for row, pixels in zip(rows, scores.support, strict=True)]
    for name, first in (("mean, classes present", 0), ("mean, foreground", 1)):
        rows.append({"name": name} | {key: columns[key][first:].nanmean().item() for key in ("iou", "dice")})
    return [{key: None if x != x else x for key, x in row.items()} for row in rows]  # noqa: PLR0124  # NaN


def _table(rows: list[dict[str, Any]]) -> str:
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


class _MostForeground:
    """The slices with most foreground, in the truth and then in the prediction, of the batches that were added."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.slices: list[Any] = []

    def add(self, batch: data.Batch, prediction: Tensor) -> None:
        """A batch and its predicted labels (N, H, W)."""
        from ddrsapc.report.comparison import ComparedSlice  # noqa: PLC0415  # an extra

        labels = prediction.to("cpu", torch.uint8)
        self.slices.extend(map(ComparedSlice, batch.names, batch.hu[:, 0], batch.labels, labels))
        self.slices.sort(key=lambda shown: shown.pixels, reverse=True)  # stable
        del self.slices[self.count :]

    def save(self, folder: Path, names: list[str]) -> list[dict[str, str]]:
        """A picture per slice, and the contact sheet; names of the slices and files."""
        from ddrsapc.report.comparison import comparison  # noqa: PLC0415  # an extra
        from ddrsapc.report.overlay import png_bytes, stack  # noqa: PLC0415

        if not self.slices:
            return []
        (folder / "pictures").mkdir(exist_ok=True)
        safe = [re.sub(r"[^\w.-]+", "_", shown.name.replace("]", ""))[-80:] for shown in self.slices]
        files = [f"pictures/{i:02}_{name}.png" for i, name in enumerate(safe, 1)]
        sheet = stack([comparison(shown, names, _SHEET) for shown in self.slices])
        large = (comparison(shown, names, _LARGE) for shown in self.slices)
        for file, image in [("contact_sheet.png", sheet), *zip(files, large, strict=True)]:
            write_atomically(folder / file, png_bytes(image))
        return [{"slice": shown.name, "file": file} for shown, file in zip(self.slices, files, strict=True)]
