"""What a run tells: a progress bar or plain lines, tables, curves."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc.files import write_atomically
from ddrsapc.training.loop import Evaluation, TrainStats

__all__ = ["Progress", "best_first", "draw_curves", "epoch_line", "epoch_record", "without_nan", "write_log"]

Record = Mapping[str, Any]


class Progress:
    """The progress of a run on stderr: a bar on a terminal, elsewhere a line now and then; nothing if `quiet`.

    Args:
        total_steps: optimizer steps of the run.
        quiet: say nothing, as all processes but the first do.
        interval: seconds between lines where there is no bar.
    """

    def __init__(self, total_steps: int, *, quiet: bool = False, interval: float = 30.0) -> None:
        self.total_steps, self.quiet, self.interval = total_steps, quiet, interval
        self._bar: Any = None
        self.start(0)

    def start(self, done: int) -> None:
        """Begin to count after the steps that were done before."""
        self.close()
        self._first = self._step = done
        self._begin = self._last_line = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            self._bar = tqdm(total=self.total_steps, initial=done, unit="step", dynamic_ncols=True)

    def step(self, stats: TrainStats) -> None:
        """Count an optimizer step."""
        self._step += 1
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(_running(stats), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last_line >= self.interval:
            self._last_line = time.monotonic()
            left = (self._last_line - self._begin) / (self._step - self._first) * (self.total_steps - self._step)
            self.say(f"step {self._step}/{self.total_steps}: {_running(stats)}, {tqdm.format_interval(left)} left")

    def say(self, line: str) -> None:
        """Write a line, above the bar where there is one."""
        if not self.quiet:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_record(
    epoch: int, step: int, lr: float, stats: TrainStats, evaluation: Evaluation, *, eval_seconds: float
) -> dict[str, Any]:
    """The numbers of an epoch; scores of single classes are lists."""
    train, val = stats.confusion.scores(), evaluation.scores
    return {
        "epoch": epoch,
        "step": step,
        "lr": lr,
        "train_loss": stats.loss,
        "train_mean_iou": train.mean_iou,
        "train_foreground_mean_iou": train.foreground_mean_iou,
        "val_loss": evaluation.loss,
        "val_mean_iou": val.mean_iou,
        "val_foreground_mean_iou": val.foreground_mean_iou,
        "val_iou": val.iou.tolist(),
        "val_dice": val.dice.tolist(),
        "seconds": stats.seconds,
        "eval_seconds": eval_seconds,
        "images_per_second": stats.images_per_second,
    }


def best_first(history: Sequence[Record]) -> list[dict[str, Any]]:
    """The records by foreground mean IoU on the validation data, undefined ones last; of equals the earlier first."""

    def rank(record: Record) -> tuple[float, int]:
        score = record["val_foreground_mean_iou"]
        return -score if math.isfinite(score) else 1.0, record["step"]

    return [dict(record) for record in sorted(history, key=rank)]


def epoch_line(record: Record, epochs: int) -> str:
    """An epoch in a line."""
    classes = ", ".join(f"{iou:.3f}" for iou in record["val_iou"])
    return (
        f"epoch {record['epoch']}/{epochs}: loss {record['train_loss']:.4f}, "
        f"validation loss {record['val_loss']:.4f}, mIoU {record['val_mean_iou']:.4f} "
        f"(foreground {record['val_foreground_mean_iou']:.4f}; by class {classes}), "
        f"{record['images_per_second']:.1f} img/s"
    )


def write_log(folder: Path, history: Sequence[Record]) -> None:
    """Write one record per epoch to `log.csv` (flat) and `log.jsonl` (undefined values are null)."""
    rows = [_flat(record) for record in history]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "log.csv", table.getvalue().encode())
    lines = "".join(json.dumps(without_nan(record)) + "\n" for record in history)
    write_atomically(folder / "log.jsonl", lines.encode())


def draw_curves(path: Path, history: Sequence[Record]) -> bool:
    """Draw loss, IoU and learning rate by epoch as a PNG; False without Matplotlib (extra `train`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return False
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(13, 4), layout="constrained")
    loss, iou, rate = figure.subplots(1, 3)
    marker = "o" if len(epochs) < 20 else ""
    lines = (
        (loss, "train_loss", "training"),
        (loss, "val_loss", "validation"),
        (iou, "train_foreground_mean_iou", "training, foreground"),
        (iou, "val_foreground_mean_iou", "validation, foreground"),
        (iou, "val_mean_iou", "validation, all classes"),
        (rate, "lr", "head"),
    )
    for axes, key, label in lines:
        axes.plot(epochs, [record[key] for record in history], label=label, marker=marker, markersize=3)
    for axes, title in ((loss, "Loss"), (iou, "Mean IoU"), (rate, "Learning rate")):
        axes.set(title=title, xlabel="Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    loss.legend()
    iou.legend()
    iou.set_ylim(-0.02, 1.02)
    rate.set_yscale("log")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, format="png")
    write_atomically(path, picture.getvalue())
    return True


def _running(stats: TrainStats) -> str:
    iou = stats.confusion.scores().mean_iou
    return f"loss {stats.loss:.4f}, mIoU {iou:.3f}, {stats.images_per_second:.1f} img/s"


def _flat(record: Record) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= {f"{key}_{c}": item for c, item in enumerate(value)} if isinstance(value, list) else {key: value}
    return flat


def without_nan(value: Any) -> Any:
    """A record as JSON has it: numbers that are not finite are None."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
