"""Train or fine-tune a network on a folder of image/label pairs.

    DATA/images/p01/0001.npy    HU, (H, W) or (Z, H, W); also .npz and .png
    DATA/labels/p01/0001.npy    0 none, 1 LAD, 2 LCX, 3 RCA, 255 where a pixel does not count

Patients are split at random into training, validation and test, or as DATA/train, DATA/val and DATA/test
say, each with images/ and labels/ inside. Without further options this is the recipe of the DDR-SAPC-U paper.

    python examples/train.py DATA -o outputs/run                         # from scratch, one GPU or the CPU
    python examples/train.py DATA -o outputs/run --resume                # go on after a crash, bit for bit
    python examples/train.py DATA -o outputs/tuned --init outputs/run/best.safetensors --backbone-lr-scale 0.1
    torchrun --nproc-per-node 4 examples/train.py DATA -o outputs/run    # four GPUs
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from torch.distributed.elastic.multiprocessing.errors import record

import ddrsapc
from ddrsapc import data
from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.models import SegmentationModel
from ddrsapc.training import CheckpointError, NonFiniteError, TrainConfig, fit, load_trained, process_group


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the recipe's options are the fields of `TrainConfig`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with images/ and labels/, or with train/, val/ and test/")
    add("-o", "--output", type=Path, required=True, help="folder for weights, checkpoints, log and curves")
    add("--resume", action="store_true", help="go on from the last checkpoint in the output folder, if there is one")
    add("--device", help="cpu, cuda, ... (a GPU where there is one)")
    add("--model", help=f"{', '.join(ddrsapc.list_models())} (ddr_sapc_u)")
    add("--width", type=int, help="channels of the network's first layer (the network's own)")
    add("--aux-head", action="store_true", help="add an auxiliary head in training")
    add("--init", type=Path, help="weights to begin with: best.safetensors of an earlier run")
    add("--num-classes", type=int, help="background included (4, or those of --init)")
    add(
        "--fractions",
        type=float,
        nargs=3,
        default=(0.7, 0.15, 0.15),
        metavar=("TRAIN", "VAL", "TEST"),
        help="of patients",
    )
    add("--split-seed", type=int, default=0, help="another draw of the patients (%(default)s)")
    add("--patient", help="regular expression for the patient in a path below images/, as '^(.{4})' (folder, or stem)")
    add("--png-window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU that 8-bit PNGs span")
    add("--augment", action="store_true", help="shift, scale, rotate, add noise; no mirror, for vessels have sides")
    add("--crop", type=int, help="augment to crops of this many pixels, half of them around calcium (whole images)")
    add("--loss", choices=("ohem", "ohem+dice"), default="ohem", help="(%(default)s)")
    recipe = parser.add_argument_group("recipe")
    hints = get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        kinds = [kind for kind in get_args(hints[field.name]) if kind is not NoneType] or [hints[field.name]]
        how: dict[str, Any] = {"type": kinds[0]}
        if kinds[0] is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif isinstance(kinds[0], str):
            how = {"choices": kinds}
        text = f"{field.metadata['help']} (%(default)s)"
        recipe.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, help=text, **how)
    arguments = parser.parse_args(argv)
    if arguments.crop and not arguments.augment:
        parser.error("--crop is a part of --augment; give both")
    if arguments.init and (arguments.model or arguments.width or arguments.aux_head):
        parser.error("--init brings its network; leave --model, --width and --aux-head out")
    return arguments


def build(arguments: argparse.Namespace) -> SegmentationModel:
    """The network, with the weights of `--init` where given."""
    torch.manual_seed(arguments.seed)
    if arguments.init is None:
        options = {"aux_head": arguments.aux_head} | ({"width": arguments.width} if arguments.width else {})
        return ddrsapc.create_model(arguments.model or "ddr_sapc_u", num_classes=arguments.num_classes, **options)
    model = load_trained(arguments.init)
    if arguments.num_classes not in (None, model.num_classes):
        print(f"a new head: {arguments.num_classes} classes, {arguments.init} has {model.num_classes}", file=sys.stderr)
        model.reset_classifier(arguments.num_classes)
    return model


def run(arguments: argparse.Namespace, config: TrainConfig) -> None:
    """Check the data, train, say where the result lies."""
    window = tuple(arguments.png_window) if arguments.png_window else None
    readers = data.Readers(images={**data.READERS.images, ".png": partial(data.read_png_image, window=window)})
    patient = data.patient_by_pattern(arguments.patient) if arguments.patient else data.patient_of
    model = build(arguments)
    with process_group(arguments.device) as device:
        splits, reports = data.load_splits(
            arguments.data,
            fractions=tuple(arguments.fractions),
            seed=arguments.split_seed,
            num_classes=model.num_classes,
            patient=patient,
            readers=readers,
        )
        is_first = int(os.environ.get("RANK", "0")) == 0
        if is_first:
            print(*(report.summary() for report in reports), splits.summary(), sep="\n")
        ohem = OhemCrossEntropyLoss()
        result = fit(
            model,
            data.SliceDataset(splits.train, readers=readers),
            data.SliceDataset(splits.val, readers=readers),
            arguments.output,
            config=config,
            criterion=ohem if arguments.loss == "ohem" else WeightedSumLoss([(ohem, 1.0), (DiceLoss(), 1.0)]),
            augmentation=data.Augmentation(crop=arguments.crop) if arguments.augment else None,
            device=device,
            resume=arguments.resume,
        )
    if is_first:
        print(f"best weights: {result.best}")


def main(argv: list[str] | None = None) -> int:
    """One line on stderr and 2 for input that cannot be used, 130 after Ctrl-C."""
    arguments = parse(argv)
    try:
        run(arguments, TrainConfig(**{field.name: getattr(arguments, field.name) for field in fields(TrainConfig)}))
    except (CheckpointError, data.DataError, NonFiniteError, OSError, ValueError) as error:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # torchrun then reports the error of the process that failed first
    sys.exit(record(main)() if "TORCHELASTIC_RUN_ID" in os.environ else main())
