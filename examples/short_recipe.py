"""How `pretrain.py` and `table1.py --recipe adamw` train where the paper's schedule is too long."""

from __future__ import annotations

from typing import Any

from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss


def short_settings(steps: int, lr: float) -> dict[str, Any]:
    """Fields of `TrainConfig`: every image once, a learning rate that rises to `lr` and falls to nothing."""
    return {
        "epochs": 1,
        "optimizer": "adamw",
        "lr": lr,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": min(50, steps // 5),
        "clip_norm": 5.0,
    }


def short_criterion() -> WeightedSumLoss:
    """The hard pixels, at least a hundredth, and the overlap, which counts what is small as much as what is large."""
    return WeightedSumLoss([(OhemCrossEntropyLoss(min_kept=0.01), 1.0), (DiceLoss(), 1.0)])
