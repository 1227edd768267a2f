"""One epoch of training, and an evaluation: to be used by `fit`, or in a loop of one's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ddrsapc.data import Augmentation, Batch
from ddrsapc.metrics import ConfusionMatrix, SegmentationScores
from ddrsapc.models import InputConfig, SegmentationOutput
from ddrsapc.training.distributed import rank_and_world_size, unwrap

__all__ = ["BatchPreparation", "Evaluation", "NonFiniteError", "TrainStats", "evaluate", "train_one_epoch"]


class NonFiniteError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the weights are those of before the step."""


class Loader(Protocol):
    """A sized iterable of `Batch`: a `DataLoader` from `make_loader`, or a list."""

    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class BatchPreparation:
    """From a batch of HU to a network's input and target, on the device.

    Args:
        input_config: the network's; see `SegmentationModel.input_config`.
        device: where to compute.
        channels_last: memory layout of the input.
        augmentation: changes the batch at random; None for evaluation.
        generator: of the augmentation, on `device`.
    """

    input_config: InputConfig
    device: torch.device
    channels_last: bool = False
    augmentation: Augmentation | None = None
    generator: torch.Generator | None = None

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Input (N, C, H, W), float32, and labels (N, H, W), int64."""
        hu = batch.hu.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        if self.augmentation is not None:
            if self.generator is None:
                raise ValueError("augmentation needs a generator")
            fill = self.input_config.hu_window[0]
            hu, labels = self.augmentation(hu.float(), labels, generator=self.generator, fill=fill)
        x = self.input_config.normalize(hu)
        return (x.contiguous(memory_format=torch.channels_last) if self.channels_last else x), labels.long()


@dataclass
class TrainStats:
    """What an epoch's steps have come to so far, on this process."""

    num_classes: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batches: int = 0
    images: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    confusion: ConfusionMatrix = field(init=False)

    def __post_init__(self) -> None:
        self.confusion = ConfusionMatrix(self.num_classes, device=self.device)

    @property
    def loss(self) -> float:
        """Mean of the batches' losses."""
        return self.loss_sum / self.batches if self.batches else math.nan

    @property
    def images_per_second(self) -> float:
        """On this process, reading and augmentation included."""
        return self.images / self.seconds if self.seconds else math.nan

    def all_reduce(self) -> TrainStats:
        """The sum over all processes; the seconds are this process's."""
        batches, images, loss_sum = _sum_over_processes((self.batches, self.images, self.loss_sum), self.device)
        total = TrainStats(self.num_classes, self.device, int(batches), int(images), loss_sum, self.seconds)
        total.confusion = self.confusion.all_reduce()
        return total

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint in the middle of an epoch."""
        return {"batches": self.batches, "images": self.images, "loss_sum": self.loss_sum, "seconds": self.seconds,
                "counts": self.confusion.counts.cpu()}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.batches, self.images = state["batches"], state["images"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        self.confusion.counts.copy_(state["counts"])


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`, over all processes."""

    loss: float
    """Mean over the images of their batches' losses; NaN without a criterion."""
    scores: SegmentationScores
    confusion: ConfusionMatrix
    images: int


def train_one_epoch(
    model: nn.Module,
    loader: Loader,
    criterion: nn.Module,
    optimizer: Optimizer,
    prepare: Callable[[Batch], tuple[Tensor, Tensor]],
    *,
    scheduler: LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
    autocast: torch.dtype | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    freeze_bn: bool = False,
    ema: AveragedModel | None = None,
    stats: TrainStats | None = None,
    on_step: Callable[[TrainStats], None] | None = None,
) -> TrainStats:
    """Train on every batch of the loader once.

    Args:
        model: a network, or one in `DistributedDataParallel`.
        loader: the batches; see `ddrsapc.data.make_loader`.
        criterion: loss of (what the network returns, labels (N, H, W)), a scalar; see `AuxiliaryLoss`.
        optimizer: stepped after every `accumulate` batches, and after the last.
        prepare: input and labels of a batch, as `BatchPreparation`.
        scheduler: stepped with the optimizer.
        scaler: loss scaling for float16.
        autocast: dtype of autocast; None: float32 throughout.
        accumulate: batches whose gradients are averaged for a step.
        clip_norm: largest norm of the gradient.
        freeze_bn: batch norm normalizes by its running statistics, which stay as they are.
        ema: average of the weights, updated with every step.
        stats: statistics of the epoch's beginning, to go on from.
        on_step: called after every optimizer step.

    Returns:
        The statistics of this process.

    Raises:
        NonFiniteError: if loss or gradient is NaN or infinite: with the step, the batch's files and the learning rate.
    """
    network = unwrap(model)
    device = next(network.parameters()).device
    stats = stats or TrainStats(network.num_classes, device)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = len(loader)
    names: list[str] = []
    model.train()
    if freeze_bn:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    optimizer.zero_grad(set_to_none=True)
    clock = time.perf_counter()
    for index, batch in enumerate(loader):
        share = min(accumulate, total - index // accumulate * accumulate)  # batches of this optimizer step
        steps_now = index % accumulate == share - 1
        x, labels = prepare(batch)
        names += batch.names
        # between processes the gradients are averaged once per step
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not steps_now else nullcontext():
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                output = model(x)
                loss = criterion(output, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise _non_finite("loss", value, stats, optimizer, names)
            scaler.scale(loss / share).backward()
        logits = output.logits if isinstance(output, SegmentationOutput) else output
        stats.confusion.update(logits.detach().argmax(1), labels)
        stats.batches, stats.images, stats.loss_sum = stats.batches + 1, stats.images + len(x), stats.loss_sum + value
        if steps_now:
            scaler.unscale_(optimizer)
            norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
            is_finite = math.isfinite(norm.item())
            # a large scale makes gradients overflow now and then; one below 1 does not
            if not is_finite and (not scaler.is_enabled() or scaler.get_scale() < 1):
                raise _non_finite("gradient", norm.item(), stats, optimizer, names)
            if clip_norm is not None:
                clip_grads_with_norm_(parameters, clip_norm, norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if scheduler is not None and is_finite:  # otherwise the scaler has left the step out
                scheduler.step()
            if ema is not None and is_finite:
                ema.update_parameters(network)
            names = []
            stats.seconds, clock = stats.seconds + time.perf_counter() - clock, time.perf_counter()
            if on_step is not None:
                on_step(stats)
                clock = time.perf_counter()  # saving is not training
    return stats


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    prepare: Callable[[Batch], tuple[Tensor, Tensor]],
    *,
    criterion: nn.Module | None = None,
    autocast: torch.dtype | None = None,
    on_batch: Callable[[Batch, Tensor], None] | None = None,
) -> Evaluation:
    """Evaluate a network on every batch of the loader; every process its own, summed at the end.

    The network's mode is restored. Give each process its share with `ddrsapc.data.shard_batches`.

    Args:
        model: a network, with its class count as `num_classes`.
        loader: the batches.
        prepare: input and labels of a batch, as `BatchPreparation` without augmentation.
        criterion: for the loss.
        autocast: dtype of autocast; None: float32 throughout.
        on_batch: called with every batch and its predicted labels (N, H, W).
    """
    network = unwrap(model)  # DistributedDataParallel would wait for processes that have fewer batches
    device = next(network.parameters()).device
    confusion = ConfusionMatrix(network.num_classes, device=device)
    loss_sum, images = 0.0, 0
    was_training = network.training
    network.eval()
    try:
        for batch in loader:
            x, labels = prepare(batch)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits = network(x)
                loss_sum += math.nan if criterion is None else criterion(logits, labels).item() * len(x)
            prediction = logits.argmax(1)  # (N, H, W)
            confusion.update(prediction, labels)
            images += len(x)
            if on_batch is not None:
                on_batch(batch, prediction)
    finally:
        network.train(was_training)
    loss_sum, total = _sum_over_processes((loss_sum, images), device)
    confusion = confusion.all_reduce()
    return Evaluation(loss_sum / total if total else math.nan, confusion.scores(), confusion, int(total))


def _sum_over_processes(values: tuple[float, ...], device: torch.device) -> list[float]:
    if rank_and_world_size()[1] == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def _non_finite(what: str, value: float, stats: TrainStats, optimizer: Optimizer, names: list[str]) -> NonFiniteError:
    rates = sorted({f"{group['lr']:.3g}" for group in optimizer.param_groups})
    batch = stats.batches + (what == "loss")
    return NonFiniteError(
        f"the {what} is {value} in batch {batch} of the epoch (learning rate {', '.join(rates)}; images "
        f"{', '.join(names)}); look at these images, or lower the learning rate, warm up or clip"
    )
