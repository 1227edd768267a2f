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
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import commit, hardware
from torch import nn
from torch.utils.data import DataLoader, Dataset

import ddrsapc
from ddrsapc.ct import Volume, VolumeMeta
from ddrsapc.data import Augmentation, make_loader, shard_batches
from ddrsapc.files import write_atomically
from ddrsapc.hub import WeightsError
from ddrsapc.inference import CALCIUM_HU, predict
from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.models import SegmentationModel
from ddrsapc.phantom import PhantomCase, PhantomDataset, PhantomParameters, make_case
from ddrsapc.profile import count_parameters, macs, table1_macs
from ddrsapc.scoring import RESEARCH_ONLY, LesionDetection, detect_lesions, score_agreement, score_volume
from ddrsapc.training import BatchPreparation, CheckpointError, NonFiniteError, TrainConfig, evaluate, fit, load_trained
from ddrsapc.training.report import without_nan

ABLATIONS: dict[str, dict[str, Any]] = {
    "ddr_sapc_u_no_dam": {"dam": False},
    "ddr_sapc_u_no_pbb": {"pbb": False},
    "ddr_sapc_u_no_skips": {"skips": False},
}
"""Rows that are DDR-SAPC-U without a part; any other row is a network's name."""
SPLITS = ("test", "shifted")
EVALUATION_SEED = 0
"""Of the cases that all are evaluated on, whatever seed they were trained with."""
PARAMETERS = PhantomParameters()
COUNTED_SIDE = 512
"""Pixels per side at which operations are counted and time is taken, as in the paper."""
PASSES = {"cpu": 7, "cuda": 100}


class Cases(Dataset[PhantomCase]):
    """The first whole scans of a split."""

    def __init__(self, split: Any, size: int, n: int) -> None:
        self.split, self.size, self.n = split, size, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> PhantomCase:
        return make_case(EVALUATION_SEED, index, split=self.split, size=self.size, parameters=PARAMETERS)


def train(
    model: SegmentationModel, args: argparse.Namespace, device: torch.device
) -> tuple[Path, dict[str, Any], float]:
    """Train for some steps, every image a slice of another case; the weights of the end, all settings, and seconds."""
    settings: dict[str, Any] = {key: getattr(args, key) for key in ("batch_size", "seed", "workers", "amp")}
    settings |= {"epochs": 1, "checkpoint_steps": 100}
    criterion: nn.Module = OhemCrossEntropyLoss()
    if args.recipe == "adamw":
        settings |= {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "clip_norm": 5.0}
        settings |= {"warmup_steps": min(50, args.steps // 5)}
        criterion = WeightedSumLoss([(OhemCrossEntropyLoss(min_kept=0.01), 1.0), (DiceLoss(), 1.0)])
    config = TrainConfig(**settings)  # what is not said is the paper's
    augmentation = None
    if args.crop is not None:
        off: dict[str, Any] = {"shift": 0, "scale": (1, 1), "rotation": 0, "noise": 0, "gain": 0, "offset": 0}
        augmentation = Augmentation(**off, crop=args.crop, calcium_crops=0.7)
    result = fit(
        model,
        PhantomDataset("train", args.size, args.steps * args.batch_size, args.seed, parameters=PARAMETERS),
        PhantomDataset("val", args.size, 8, EVALUATION_SEED, parameters=PARAMETERS),  # chooses nothing: one epoch
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


def evaluate_slices(
    model: SegmentationModel,
    split: Any,
    size: int,
    n: int,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    parameters: PhantomParameters,
) -> dict[str, Any]:
    """IoU on slices, of the labels as the network gives them."""
    data = PhantomDataset(split, size, n, EVALUATION_SEED, parameters=parameters)
    loader = make_loader(data, shard_batches(n, batch_size), workers=workers)
    found = evaluate(model, loader, BatchPreparation(model.input_config, device))
    return {
        "count": found.images,
        "confusion": found.confusion.counts.tolist(),
        "iou": found.scores.iou.tolist(),
        "mean_iou": found.scores.mean_iou,
        "foreground_mean_iou": found.scores.foreground_mean_iou,
    }


def evaluate_cases(
    model: SegmentationModel, split: Any, size: int, n: int, *, batch_size: int, workers: int
) -> dict[str, Any]:
    """Scores and lesions of whole scans, labelled as `ddrsapc predict` does: what is below 130 HU is no calcium."""
    rows, detections = [], []
    loader = DataLoader(Cases(split, size, n), batch_size=None, num_workers=workers) if n else ()
    for case in loader:
        volume = Volume(
            case.hu, case.spacing, case.affine, np.arange(len(case.hu)) * case.spacing[0], VolumeMeta("", ())
        )
        labels = predict(model, volume, threshold=CALCIUM_HU, batch_size=batch_size)
        true, predicted = (score_volume(case.hu, given, case.spacing) for given in (case.labels, labels))
        detections.append(detect_lesions(case.hu, case.labels, labels, case.spacing))
        rows.append(
            {
                "name": case.name,
                "agatston": {"true": true.agatston, "predicted": predicted.agatston},
                "category": {"true": true.category, "predicted": predicted.category},
                "vessels": {
                    name: {"true": score.agatston, "predicted": predicted.vessels[name].agatston}
                    for name, score in true.vessels.items()
                },
                "lesions": detections[-1].to_dict(),
            }
        )
    scores = {key: [row["agatston"][key] for row in rows] for key in ("predicted", "true")}
    return {
        "count": n,
        "agatston": score_agreement(**scores).to_dict(),
        "lesions": LesionDetection.total(detections).to_dict(),
        "scans": rows,
    }


def measure_speed(model: SegmentationModel, device: torch.device) -> dict[str, Any]:
    """The median time of a slice, one at a time; the fastest one tells whether the machine was busy."""
    x = torch.randn(1, model.in_chans, COUNTED_SIDE, COUNTED_SIDE, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(PASSES.get(device.type, 7) + 2):
            begin = time.perf_counter()
            model(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    ms = [1000 * one for one in seconds[2:]]  # the first passes are slower
    about = {"size": COUNTED_SIDE, "batch_size": 1, "passes": len(ms)}
    return {"ms_per_slice": statistics.median(ms), "fastest_ms": min(ms), **about}


def build(row: str, width: int | None, weights: str | None) -> tuple[SegmentationModel, dict[str, Any]]:
    """The network of a row, with weights where they are given, and the keywords by which it is not its usual self."""
    name = "ddr_sapc_u" if row in ABLATIONS else row
    options = ABLATIONS.get(row, {}) | ({} if width is None else {"width": width})
    if weights is None:
        return ddrsapc.create_model(name, num_classes=4, **options), options
    if Path(weights).suffix == ".safetensors":
        return ddrsapc.create_model(name, num_classes=4, weights=weights, **options), options
    model = ddrsapc.create_model(weights, True)
    if model.architecture != name or any(model.model_args.get(key) != value for key, value in options.items()):
        raise ValueError(f"{weights} is {model.architecture} {dict(model.model_args)}, which is not the row {row}")
    return model, options


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one row, and write what came out."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(args.seed)
    model, options = build(args.row, args.width, args.weights)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    recipe, train_seconds = None, None
    if args.weights is None:
        last, recipe, train_seconds = train(model, args, device)
        shutil.copyfile(last, args.output.with_suffix(".safetensors"))
        model = load_trained(last)
    model.to(device).eval()

    begin = time.perf_counter()
    results: dict[str, dict[str, Any]] = {}
    common = {"batch_size": 2 if device.type == "cpu" else 8, "workers": args.workers}
    for split in SPLITS:
        print(f"{args.row}: evaluating {args.slices} slices and {args.cases} scans of {split}", file=sys.stderr)
        slices = evaluate_slices(model, split, args.size, args.slices, device=device, parameters=PARAMETERS, **common)
        results[split] = {"slices": slices, "scans": evaluate_cases(model, split, args.size, args.cases, **common)}
    plain = replace(PARAMETERS, contrast_rate=0.0)  # an eighth of the cases has contrast, and hides what else is wrong
    results["test"]["slices_without_contrast"] = evaluate_slices(
        model, "test", args.size, args.slices, device=device, parameters=plain, **common
    )
    evaluation_seconds = time.perf_counter() - begin
    shape = (1, model.in_chans, COUNTED_SIDE, COUNTED_SIDE)
    summary = {
        "note": RESEARCH_ONLY,
        "row": args.row,
        "network": model.architecture,
        "options": options,
        "weights": args.weights,
        "recipe": recipe,
        "seed": args.seed,
        "evaluation": {"seed": EVALUATION_SEED, "size": args.size, "slices": args.slices, "scans": args.cases},
        "parameters": count_parameters(model),
        "macs": macs(model, shape),
        "table1_macs": table1_macs(model, shape),
        "speed": measure_speed(model, device),
        **results,
        "train_seconds": train_seconds,
        "evaluation_seconds": evaluation_seconds,
        "hardware": hardware(device),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
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
    parser.add_argument("--weights", metavar="FILE|NAME", help="evaluate these, .safetensors or arch.tag; do not train")
    parser.add_argument(
        "--amp", choices=("none", "bfloat16"), default="none", help="precision of training (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that simulate (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (a GPU where there is one)")
    args = parser.parse_args(argv)
    if args.output.suffix != ".json":
        parser.error(f"--output must end in .json, got {args.output}")
    if min(args.cases, args.seed, args.workers) < 0:
        parser.error("--cases, --seed and --workers must be at least 0")
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
