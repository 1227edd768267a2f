"""A whole training run: epochs, evaluation, checkpoints, logs; from the start or from where it was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ddrsapc.data import Augmentation
from ddrsapc.losses import AuxiliaryLoss, OhemCrossEntropyLoss
from ddrsapc.models import SegmentationModel
from ddrsapc.training.config import TrainConfig
from ddrsapc.training.report import best_first
from ddrsapc.training.run import Run

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What a run came to."""

    best: Path
    """Weights of the epoch with the best foreground mean IoU on the validation data; see `load_trained`."""
    last: Path
    history: tuple[dict[str, Any], ...]
    """A record per epoch, as in `log.jsonl`."""

    @property
    def best_epoch(self) -> dict[str, Any]:
        """The record of the epoch whose weights are `best`."""
        return best_first(self.history)[0]


def fit(
    model: SegmentationModel,
    train_data: Dataset[Any],
    val_data: Dataset[Any],
    output: str | os.PathLike[str],
    *,
    config: TrainConfig | None = None,
    criterion: nn.Module | None = None,
    augmentation: Augmentation | None = None,
    device: torch.device | str | None = None,
    resume: bool = False,
) -> FitResult:
    """Train a network and keep its best weights.

    Under `torchrun` every process calls this with the same arguments, inside `process_group`. Killed at any
    moment, the same call with `resume=True` ends with the same weights, bit for bit, on a CPU with as many
    threads, and on a GPU with `deterministic`. Dataset items must not depend on random numbers for that.
    Torch's random numbers are seeded by `config.seed`.

    Args:
        model: trained in place.
        train_data: items (image, label) or (image, label, name): HU (H, W) or (C, H, W), labels (H, W)
            with 255 where a pixel does not count. See `SliceDataset`.
        val_data: items alike, to choose the best epoch by.
        output: folder for checkpoints, weights, logs and curves.
        config: the recipe; None: the paper's, `TrainConfig()`.
        criterion: loss of (logits, labels); None: OHEM cross-entropy. Auxiliary heads are added by `config.aux_weight`.
        augmentation: of training batches; None: none, as in the paper.
        device: None: a GPU where there is one.
        resume: go on from the last checkpoint in `output`, if there is one.

    Raises:
        ValueError: for an empty dataset, or one too small for a batch.
        FileExistsError: if `output` holds a run already and `resume` is False, or another process trains there.
        CheckpointError: if the run in `output` has another recipe, data or number of processes, or is damaged.
        NonFiniteError: if loss or gradient is NaN or infinite.
        OSError: if `output` cannot be written to; its last checkpoint stays.
    """
    for what, data in (("training", train_data), ("validation", val_data)):
        if len(data) == 0:  # type: ignore[arg-type]
            raise ValueError(f"there is no {what} image; the {what} split is empty")
    config = config or TrainConfig()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if config.sync_bn and device.type != "cuda":
        raise ValueError(f"sync_bn needs GPUs; the device is {device}")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    criterion = AuxiliaryLoss(criterion or OhemCrossEntropyLoss(), config.aux_weight).to(device)
    with _determinism(config.deterministic):
        run = Run(
            model,
            train_data,
            val_data,
            Path(output),
            config=config,
            criterion=criterion,
            augmentation=augmentation,
            device=device,
        )
        try:
            run.begin(resume=resume)
            while run.epoch < config.epochs:
                run.train_epoch()
        finally:
            run.close()
    return FitResult(run.output / "best.safetensors", run.output / "last.safetensors", tuple(run.history))


@contextmanager
def _determinism(enable: bool) -> Iterator[None]:
    """Deterministic algorithms inside, as it was outside."""
    if not enable:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
