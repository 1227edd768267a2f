"""Optimizer and learning-rate schedule of a `TrainConfig`, of torch's own classes."""

from __future__ import annotations

import math

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ddrsapc.models import SegmentationModel
from ddrsapc.training.config import TrainConfig

__all__ = ["build_optimizer", "build_scheduler", "lr_factor"]

POLY_POWER = 0.9  # DDRNet, arXiv 2101.06085


def build_optimizer(model: SegmentationModel, config: TrainConfig) -> Optimizer:
    """SGD with momentum, or AdamW, over the network's parameter groups: no decay on norms and biases."""
    groups = model.param_groups(config.lr, weight_decay=config.weight_decay, backbone_lr_scale=config.backbone_lr_scale)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return SGD(groups, lr=config.lr, momentum=config.momentum)


def build_scheduler(optimizer: Optimizer, config: TrainConfig, total_steps: int) -> LambdaLR:
    """The schedule, to be stepped after each of `total_steps` optimizer steps.

    Raises:
        ValueError: if the warm-up takes all of them.
    """
    if config.warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps ({config.warmup_steps}) must be fewer than the run's {total_steps} steps")
    return LambdaLR(optimizer, lambda step: lr_factor(step, config, total_steps))


def lr_factor(step: int, config: TrainConfig, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) over the initial one."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    t = min((step - config.warmup_steps) / (total_steps - config.warmup_steps), 1.0)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    return float((1 - t) ** POLY_POWER)


def build_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaling that float16 needs; does nothing for other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.amp == "float16")
