"""The recipe of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

__all__ = ["TrainConfig"]

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["poly", "cosine"]
Amp = Literal["none", "bfloat16", "float16"]


def _field(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training recipe. The defaults are the DDR-SAPC-U paper's, and DDRNet's where the paper is silent (schedule).

    What a field means stands in its metadata, from which command lines take their help.

    Raises:
        ValueError: for a value out of its range, naming the field.
    """

    epochs: int = _field(50, "epochs")
    batch_size: int = _field(4, "images per batch and process")
    accumulate: int = _field(1, "batches whose gradients are averaged for an optimizer step")
    optimizer: Optimizer = _field("sgd", "AdamW needs a lower learning rate")
    lr: float = _field(0.01, "initial learning rate, after the warm-up")
    backbone_lr_scale: float = _field(1.0, "learning rate of all but the head over lr; below 1 to preserve weights")
    momentum: float = _field(0.9, "of SGD, and AdamW's first beta")
    weight_decay: float = _field(5e-4, "of all but norms and biases")
    schedule: Schedule = _field("poly", "the learning rate falls by (1 - t) ** 0.9, or along a half cosine")
    warmup_steps: int = _field(0, "optimizer steps in which the learning rate rises first")
    clip_norm: float | None = _field(None, "largest norm of the gradient")
    aux_weight: float = _field(0.4, "weight of the auxiliary head's loss")
    ema_decay: float | None = _field(None, "evaluate and keep an average of the weights, decaying so per step (0.999)")
    bn_batches: int = _field(0, "re-estimate batch norm on so many training batches before evaluating")
    freeze_bn: bool = _field(False, "leave batch norm's statistics as they are; to fine-tune on few images")
    sync_bn: bool = _field(False, "batch statistics over all GPUs")
    drop_last: bool = _field(True, "leave out the images that do not fill an epoch's last batch")
    seed: int = _field(0, "of order, augmentation and dropout")
    amp: Amp = _field("none", "precision of autocast")
    channels_last: bool = _field(False, "memory layout; faster on most machines")
    compile: bool = _field(False, "with torch.compile")
    deterministic: bool = _field(False, "reproducible bit for bit on a GPU as well, slower")
    workers: int = _field(0, "processes that read data, per training process")
    checkpoint_steps: int | None = _field(None, "optimizer steps between checkpoints within an epoch")
    keep: int = _field(2, "newest checkpoints kept, and best ones")

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", Optimizer), ("schedule", Schedule), ("amp", Amp)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        at_least_one = ("epochs", "batch_size", "accumulate", "keep")
        for name in (*at_least_one, "warmup_steps", "bn_batches", "workers", "seed"):
            value, least = getattr(self, name), int(name in at_least_one)
            self._check(name, isinstance(value, int) and value >= least, f"an integer of at least {least}")
        self._check("lr", 0 < self.lr < math.inf, "positive")
        self._check("backbone_lr_scale", 0 <= self.backbone_lr_scale < math.inf, "at least 0")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._check("aux_weight", 0 <= self.aux_weight < math.inf, "at least 0")
        self._check("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._check("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive")
        self._check("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1")
        self._check(
            "freeze_bn", not (self.freeze_bn and (self.bn_batches or self.sync_bn)), "off with bn_batches or sync_bn"
        )
        steps = self.checkpoint_steps
        self._check(
            "checkpoint_steps", steps is None or (isinstance(steps, int) and steps >= 1), "an integer of at least 1"
        )

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """The fields by which a run differs from an earlier one's, in words, but for those that change no result."""
        return [
            f"{field.name} was {earlier.get(field.name)!r}, is {getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in ("workers", "checkpoint_steps", "keep")
            and earlier.get(field.name) != getattr(self, field.name)
        ]
