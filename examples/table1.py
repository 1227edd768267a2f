"""A row of the DDR-SAPC-U paper's Table I, on simulated scans: train a network, evaluate it, write all numbers as JSON.

    python examples/table1.py unet --steps 1000 --batch-size 4 --size 512 --cases 20 -o outputs/table1/unet.json
    python examples/table1.py unet --width 8 --steps 1000 --size 256 -o outputs/narrow/unet.json
    python examples/table1.py ddr_sapc_u --weights best.safetensors -o outputs/given/ddr_sapc_u.json

All rows are comparable that were made with the same options but for the network. The trained weights and a folder with
checkpoints lie beside the JSON; killed, the same command goes on from the last one. Needs the extras:
pip install "ddrsapc[phantom,ct]"
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from provenance import made_by
from short_recipe import short_criterion, short_settings
from table1_evaluation import Cases, evaluate_cases, evaluate_slices, measure_speed
from torch import nn

import ddrsapc
from ddrsapc.data import Augmentation
from ddrsapc.files import write_atomically
from ddrsapc.hub import WeightsError, verify_weights
from ddrsapc.losses import OhemCrossEntropyLoss
from ddrsapc.models import SegmentationModel
from ddrsapc.phantom import PhantomDataset, PhantomParameters
from ddrsapc.phantom.parameters import PHANTOM_VERSION
from ddrsapc.profile import count_parameters, macs, table1_macs
from ddrsapc.scoring import RESEARCH_ONLY
from ddrsapc.training import CheckpointError, NonFiniteError, TrainConfig, fit, load_trained
from ddrsapc.training.report import without_nan

ABLATIONS: dict[str, dict[str, Any]] = {
    "ddr_sapc_u_no_dam": {"dam": False},
    "ddr_sapc_u_no_pbb": {"pbb": False},
    "ddr_sapc_u_no_skips": {"skips": False},
}
"""Rows that are DDR-SAPC-U without a part; any other row is a network's name."""
SPLITS = ("test", "shifted")
PARAMETERS = PhantomParameters()
CALCIUM = 0.7
"""Of the slices, those that are drawn through a lesion; of whole scans three in ten are."""
COUNTED_SIDE = 512
"""Pixels per side at which operations are counted and time is taken, as in the paper."""


def train(
    model: SegmentationModel, args: argparse.Namespace, device: torch.device
) -> tuple[Path, dict[str, Any], float]:
    """Train for some steps, every image a slice of another case; the weights of the end, all settings, and seconds."""
    settings: dict[str, Any] = {key: getattr(args, key) for key in ("batch_size", "seed", "workers", "amp")}
    settings |= {"epochs": 1, "checkpoint_steps": 100}
    criterion: nn.Module = OhemCrossEntropyLoss()
    if args.recipe == "adamw":
        settings |= short_settings(args.steps, 1e-3)
        criterion = short_criterion()
    config = TrainConfig(**settings)  # what is not said is the paper's
    augmentation = None
    if args.crop is not None:
        off: dict[str, Any] = {"shift": 0, "scale": (1, 1), "rotation": 0, "noise": 0, "gain": 0, "offset": 0}
        augmentation = Augmentation(**off, crop=args.crop, calcium_crops=0.7)
    result = fit(
        model,
        PhantomDataset("train", args.size, args.steps * args.batch_size, args.seed, parameters=PARAMETERS),
        PhantomDataset("val", args.size, 8, 0, parameters=PARAMETERS),  # chooses nothing: one epoch
        args.output.with_suffix(""),
        config=config,
        criterion=criterion,
        augmentation=augmentation,
        device=device,
        resume=True,
    )
    used = {"name": args.recipe, "steps": args.steps, "size": args.size, "crop": args.crop, **asdict(config)}
    used |= {"criterion": repr(criterion), "augmentation": repr(augmentation)}
    return result.last, used, sum(record["seconds"] for record in result.history)


def build(row: str, width: int | None, weights: str | None) -> tuple[SegmentationModel, dict[str, Any]]:
    """The network of a row, with weights where they are given, and the keywords by which it is not its usual self."""
    name = "ddr_sapc_u" if row in ABLATIONS else row
    options = ABLATIONS.get(row, {}) | ({} if width is None else {"width": width})
    if weights is None:
        return ddrsapc.create_model(name, num_classes=4, **options), options
    if Path(weights).suffix == ".safetensors":
        model = ddrsapc.create_model(name, weights=weights, **options)
    else:
        model = ddrsapc.create_model(weights, True)
    if model.num_classes != 4:
        raise ValueError(f"{weights} has {model.num_classes} classes; the phantom has 4: none, LAD, LCX, RCA")
    if model.architecture != name or any(model.model_args.get(key) != value for key, value in options.items()):
        raise ValueError(f"{weights} is {model.architecture} {dict(model.model_args)}, which is not the row {row}")
    return model, options


def device_of(name: str | None) -> torch.device:
    """The device of a name; None: a GPU where there is one.

    Raises:
        ValueError: if it is not here.
    """
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:  # PyTorch raises either
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one row, and write what came out."""
    device = device_of(args.device)
    torch.manual_seed(args.seed)
    model, options = build(args.row, args.width, args.weights)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    recipe, train_seconds = None, None
    if args.weights is None:
        last, recipe, train_seconds = train(model, args, device)
        shutil.copyfile(last, args.output.with_suffix(".safetensors"))
        model = load_trained(last)
    model.to(device).eval()
    fast = ddrsapc.optimize_for_inference(model)  # as `ddrsapc predict` does

    begin = time.perf_counter()
    results: dict[str, dict[str, Any]] = {}
    loading = {"batch_size": 2 if device.type == "cpu" else 8, "workers": args.workers}

    def slices_of(split: Any, parameters: PhantomParameters) -> dict[str, Any]:
        seed = args.evaluation_seed
        data = PhantomDataset(split, args.size, args.slices, seed, calcium=CALCIUM, parameters=parameters)
        return evaluate_slices(fast, data, device=device, **loading)

    for split in SPLITS:
        print(f"{args.row}: evaluating {args.slices} slices and {args.cases} scans of {split}", file=sys.stderr)
        scans = Cases(split, args.size, args.cases, args.evaluation_seed, PARAMETERS)
        results[split] = {"slices": slices_of(split, PARAMETERS), "scans": evaluate_cases(fast, scans, **loading)}
    plain = replace(PARAMETERS, contrast_rate=0.0)  # an eighth of the cases has contrast, and hides what else is wrong
    results["test"]["slices_without_contrast"] = slices_of("test", plain)
    evaluation_seconds = time.perf_counter() - begin
    shape = (1, model.in_chans, COUNTED_SIDE, COUNTED_SIDE)
    summary = {
        "note": RESEARCH_ONLY,
        "row": args.row,
        "network": model.architecture,
        "options": options,
        "weights": args.weights,
        "weights_sha256": verify_weights(args.weights).sha256 if str(args.weights).endswith(".safetensors") else None,
        "recipe": recipe,
        "seed": args.seed,
        "evaluation": {
            "phantom_version": PHANTOM_VERSION,
            "seed": args.evaluation_seed,
            "size": args.size,
            "slices": args.slices,
            "calcium": CALCIUM,
            "scans": args.cases,
        },
        "parameters": count_parameters(model),
        "macs": macs(model, shape),
        "table1_macs": table1_macs(model, shape),
        "speed": measure_speed(model, device, COUNTED_SIDE),
        **results,
        "train_seconds": train_seconds,
        "evaluation_seconds": evaluation_seconds,
        **made_by(device),
    }
    summary = without_nan(summary)
    text = json.dumps(summary, indent=2, allow_nan=False)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)  # rows in lines
    write_atomically(args.output, (text + "\n").encode())
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run; one line on stderr and 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    rows = [*ddrsapc.list_models(), *ABLATIONS]
    parser.add_argument("row", choices=rows, metavar="ROW", help=f"one of {', '.join(rows)}")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=_count, default=1000, help="optimizer steps (%(default)s)")
    parser.add_argument("--batch-size", type=_count, default=4, help="slices per step (%(default)s)")
    parser.add_argument("--size", type=_count, default=512, help="pixels per side of the slices (%(default)s)")
    parser.add_argument("--crop", type=_count, help="train on crops of that side, 0.7 of them around calcium")
    parser.add_argument(
        "--recipe", choices=("paper", "adamw"), default="paper", help="%(default)s; adamw needs fewer steps"
    )
    parser.add_argument("--width", type=_count, help="channels of the network's first level (the network's own)")
    parser.add_argument("--slices", type=_count, default=100, help="slices per split to evaluate on (%(default)s)")
    parser.add_argument("--cases", type=int, default=20, help="whole scans per split to evaluate on (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and training cases (%(default)s)")
    parser.add_argument("--evaluation-seed", type=int, default=0, help="of the cases to evaluate on (%(default)s)")
    parser.add_argument("--weights", metavar="FILE|NAME", help="evaluate these, .safetensors or arch.tag; do not train")
    parser.add_argument(
        "--amp", choices=("none", "bfloat16"), default="none", help="precision of training (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that simulate (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (a GPU where there is one)")
    args = parser.parse_args(argv)
    if args.output.suffix != ".json":
        parser.error(f"--output must end in .json, got {args.output}")
    if args.output.is_dir():
        parser.error(f"--output {args.output} is a folder")
    if min(args.cases, args.seed, args.evaluation_seed, args.workers) < 0:
        parser.error("--cases, --seed, --evaluation-seed and --workers must be at least 0")
    try:
        summary = run(args)
    except (CheckpointError, ImportError, NonFiniteError, OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split in SPLITS:
        slices, scans = summary[split]["slices"], summary[split]["scans"]
        numbers = {"foreground IoU": slices["foreground_mean_iou"], "ICC": scans["agatston"]["icc"]}
        numbers |= {key: scans["lesions"][key] for key in ("sensitivity", "false_per_scan")}
        print(f"{split}:", ", ".join(f"{key} {'-' if x is None else f'{x:.3f}'}" for key, x in numbers.items()))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
