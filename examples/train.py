"""Train a network in a program of one's own: data in, weights out, a prediction with them.

    python examples/train.py DATA outputs/run

DATA has images/ and labels/ inside, of arrays or CT scans. The command `ddrsapc train` does the same, with options.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ddrsapc
from ddrsapc.data import Augmentation, SliceDataset, load_splits, prepare_scans
from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.training import TrainConfig, fit, load_trained, process_group


def train(folder: Path, output: Path, name: str = "ddr_sapc_u", *, epochs: int = 50) -> Path:
    """Fine-tune a network on the pairs in `folder`, and give its best weights."""
    torch.manual_seed(0)
    model = ddrsapc.create_model(name, num_classes=4)  # weights="best.safetensors": begin with those
    with process_group() as device:  # one process, or those that torchrun started
        scans = prepare_scans(folder, output / "prepared")  # nothing to do where there are only arrays
        splits, reports = load_splits(folder, scans=scans)
        print(*(report.summary() for report in reports), splits.summary(), sep="\n")
        result = fit(
            model,
            SliceDataset(splits.train),  # or any torch Dataset of (HU, labels)
            SliceDataset(splits.val),
            output,
            config=TrainConfig(epochs=epochs, warmup_steps=2),
            criterion=WeightedSumLoss([(OhemCrossEntropyLoss(), 1.0), (DiceLoss(), 1.0)]),
            augmentation=Augmentation(),
            device=device,
            resume=True,
        )
    print("best epoch:", result.best_epoch["epoch"], "IoU by class:", result.best_epoch["val_iou"])

    best = load_trained(result.best)
    hu = SliceDataset(splits.val)[0].image  # (H, W)
    with torch.inference_mode():
        labels = best(best.input_config.normalize(hu)[None, None]).argmax(1)  # (1, H, W)
    print("pixels by class in a slice of the validation data:", torch.bincount(labels.flatten(), minlength=4).tolist())
    return result.best


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
