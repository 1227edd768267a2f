"""Is the phantom neither trivial nor hopeless? A small U-Net learns it from scratch.

    python examples/phantom_difficulty.py -o outputs/difficulty

A `unet` of width 8 first learns where the arteries run, then their calcium, in slices of 128 x 128 pixels, each of
another case. Writes difficulty.json: its IoU by vessel on slices of `test`. About an hour on one core; killed, the
same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pretrain import INPUT, train_once
from pretrain_data import Courses
from provenance import made_by

import ddrsapc
from ddrsapc.data import make_loader, shard_batches
from ddrsapc.files import write_atomically
from ddrsapc.phantom import PhantomDataset
from ddrsapc.phantom.parameters import PHANTOM_VERSION
from ddrsapc.training import BatchPreparation, CheckpointError, NonFiniteError, evaluate, load_trained

WIDTH, SIDE, BATCH_SIZE = 8, 128, 8
COURSES, CALCIUM = (1000, 3e-3), (4000, 2e-3)  # steps and learning rate
TESTED = 1000  # slices


def train(output: Path) -> Path:
    """The weights of the small U-Net after both lessons."""
    torch.manual_seed(0)
    model = ddrsapc.create_model("unet", num_classes=4, width=WIDTH)
    model.input_config = INPUT
    val = PhantomDataset("val", SIDE, 100)
    courses, calcium = (
        PhantomDataset("train", SIDE, steps * BATCH_SIZE, seed) for seed, (steps, _) in enumerate((COURSES, CALCIUM))
    )
    first = train_once(
        model, Courses(courses), val, output / "courses", batch_size=BATCH_SIZE, lr=COURSES[1], seed=courses.seed
    )
    return train_once(
        load_trained(first), calcium, val, output / "calcium", batch_size=BATCH_SIZE, lr=CALCIUM[1], seed=calcium.seed
    )


def iou_by_class(weights: Path) -> list[float]:
    """On slices of `test`: none, LAD, LCX, RCA."""
    model, data = load_trained(weights), PhantomDataset("test", SIDE, TESTED)
    loader = make_loader(data, shard_batches(len(data), 20))
    result = evaluate(model, loader, BatchPreparation(model.input_config, torch.device("cpu")))
    return [round(value, 4) for value in result.scores.iou.tolist()]


def settings() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "model": f"unet of width {WIDTH}",
        "phantom_version": PHANTOM_VERSION,
        "size": SIDE,
        "batch_size": BATCH_SIZE,
        "courses": {"steps": COURSES[0], "lr": COURSES[1]},
        "calcium": {"steps": CALCIUM[0], "lr": CALCIUM[1]},
        "seed": 0,
        "test_slices": TESTED,
    }


def runs(output: Path) -> dict[str, Any]:
    """Optimizer, loss, window and all else of both lessons, as `fit` wrote it."""
    return {
        lesson: json.loads((output / lesson / "config.json").read_text(encoding="utf-8"))
        for lesson in ("courses", "calcium")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train, test, write; one line on stderr and 2 for a folder that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for checkpoints and difficulty.json")
    args = parser.parse_args(argv)
    try:
        iou = iou_by_class(train(args.output))
        result = settings() | {"iou": iou, "runs": runs(args.output)} | made_by(torch.device("cpu"))
        write_atomically(args.output / "difficulty.json", (json.dumps(result, indent=1) + "\n").encode())
    except (CheckpointError, NonFiniteError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(dict(zip(("none", "LAD", "LCX", "RCA"), iou, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
