"""The state of a training run, and how it is saved and found again."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import Dataset

from ddrsapc.data import Augmentation, EpochBatches, make_loader, shard_batches
from ddrsapc.files import lock, write_atomically
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.models import SegmentationModel
from ddrsapc.training.checkpoints import CheckpointError, Checkpoints, state_bytes
from ddrsapc.training.config import TrainConfig
from ddrsapc.training.distributed import broadcast_buffers, gather, rank_and_world_size, unwrap
from ddrsapc.training.loop import BatchPreparation, Evaluation, NonFiniteError, TrainStats, evaluate, train_one_epoch
from ddrsapc.training.optim import build_optimizer, build_scaler, build_scheduler, lr_factor
from ddrsapc.training.report import Progress, best_first, draw_curves, epoch_line, epoch_record, write_log

__all__ = ["Run"]


class Run:
    """The state of a run; `train_epoch` brings it forward, and what changes in it is in every checkpoint."""

    def __init__(
        self,
        model: SegmentationModel,
        train_data: Dataset[Any],
        val_data: Dataset[Any],
        output: Path,
        *,
        config: TrainConfig,
        criterion: nn.Module,
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        self.output, self.config, self.criterion, self.device = output, config, criterion, device
        self.rank, self.world_size = rank_and_world_size()
        self.epoch, self.step = 0, 0  # epochs and optimizer steps done
        self.history: list[dict[str, Any]] = []

        size, val_size = len(train_data), len(val_data)  # type: ignore[arg-type]
        self.batches = EpochBatches(
            size,
            config.batch_size,
            seed=config.seed,
            drop_last=config.drop_last,
            rank=self.rank,
            world_size=self.world_size,
        )
        val_batches = shard_batches(val_size, config.batch_size, rank=self.rank, world_size=self.world_size)
        pin = device.type == "cuda"
        self.train_loader = make_loader(train_data, self.batches, workers=config.workers, pin=pin)
        self.val_loader = make_loader(val_data, val_batches, workers=config.workers, pin=pin)
        self.bn_loader = make_loader(train_data, _spread(size, config.batch_size, config.bn_batches), pin=pin)
        self.steps_per_epoch = math.ceil(self.batches.batches_per_epoch / config.accumulate)
        self.facts = {
            "network": f"{model.architecture or type(model).__name__} {dict(model.model_args)}",
            "input": asdict(model.input_config),
            "train_images": size,
            "val_images": val_size,
            # hashes where the datasets have them, as SliceDataset
            "train_data": getattr(train_data, "fingerprint", None),
            "val_data": getattr(val_data, "fingerprint", None),
            "processes": self.world_size,
            "augmentation": repr(augmentation),
            "criterion": repr(criterion),
        }

        self.model = model.to(device)
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.ema: AveragedModel | None = None
        if config.ema_decay is not None:
            average = get_ema_multi_avg_fn(config.ema_decay)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = build_optimizer(self.model, config)
        self.scheduler = build_scheduler(self.optimizer, config, self.steps_per_epoch * config.epochs)
        self.scaler = build_scaler(config, device)
        self.autocast = None if config.amp == "none" else getattr(torch, config.amp)
        self.stats = TrainStats(self.model.num_classes, device)

        torch.manual_seed(config.seed + self.rank)  # dropout differs between processes
        self.generator = torch.Generator(device).manual_seed(config.seed + self.rank)
        self.prepare_val = BatchPreparation(self.model.input_config, device, config.channels_last)
        self.prepare_train = replace(self.prepare_val, augmentation=augmentation, generator=self.generator)
        self.progress = Progress(self.steps_per_epoch * config.epochs, quiet=self.rank > 0)
        self.checkpoints = Checkpoints(output, keep=config.keep)
        self._lock: IO[bytes] | None = None

    def begin(self, *, resume: bool) -> None:
        """Take the folder, go on from its last checkpoint where there is one, and get ready to train."""
        last = self._open(resume)
        if last is not None:
            self._load(last)
        if self.rank == 0:  # shows at once that the folder can be written to
            about = json.dumps({"config": asdict(self.config), **self.facts}, indent=2)
            write_atomically(self.output / "config.json", (about + "\n").encode())
            self.checkpoints.prune(self._best())  # again, after a kill in between
        self._publish()
        if self.config.compile:
            self.model.compile(dynamic=False)  # with symbolic sizes Inductor can fail at the backward pass
        self.trained: nn.Module = self.model
        if self.world_size > 1:
            self.trained = DistributedDataParallel(
                self.model, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        self.progress.start(self.step)
        if last is not None:
            self.progress.say(f"going on from {self.checkpoints.path(last)}: epoch {self.epoch + 1}, step {self.step}")

    def close(self) -> None:
        """Give the folder free."""
        self.progress.close()
        if self._lock is not None:
            self._lock.close()

    def train_epoch(self) -> None:
        """The rest of the current epoch, evaluation and checkpoint."""
        self.batches.epoch = self.epoch
        self.batches.start = (self.step - self.epoch * self.steps_per_epoch) * self.config.accumulate
        first_step, total_steps = self.epoch * self.steps_per_epoch, self.config.epochs * self.steps_per_epoch
        lr = self.config.lr * lr_factor(first_step, self.config, total_steps)
        try:
            train_one_epoch(
                self.trained,
                self.train_loader,
                self.criterion,
                self.optimizer,
                self.prepare_train,
                scheduler=self.scheduler,
                scaler=self.scaler,
                autocast=self.autocast,
                accumulate=self.config.accumulate,
                clip_norm=self.config.clip_norm,
                freeze_bn=self.config.freeze_bn,
                ema=self.ema,
                stats=self.stats,
                on_step=self._after_step,
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"epoch {self.epoch + 1}, step {self.step + 1}: {error}") from error
        evaluation, seconds = self._evaluate()
        self.epoch += 1
        self.history.append(
            epoch_record(self.epoch, self.step, lr, self.stats.all_reduce(), evaluation, eval_seconds=seconds)
        )
        self.stats = TrainStats(self.model.num_classes, self.device)
        self._save()
        self._publish()
        self.progress.say(epoch_line(self.history[-1], self.config.epochs))

    def _after_step(self, stats: TrainStats) -> None:
        self.step += 1
        self.progress.step(stats)
        within = self.step - self.epoch * self.steps_per_epoch
        every = self.config.checkpoint_steps
        if every is not None and within % every == 0 and within < self.steps_per_epoch:
            self._save()

    def _evaluate(self) -> tuple[Evaluation, float]:
        start = time.perf_counter()
        network = self.model if self.ema is None else self.ema.module
        if self.config.bn_batches:
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                update_bn((self.prepare_train(batch)[0] for batch in self.bn_loader), network)
        broadcast_buffers(network)
        evaluation = evaluate(
            network, self.val_loader, self.prepare_val, criterion=self.criterion, autocast=self.autocast
        )
        return evaluation, time.perf_counter() - start

    def _best(self) -> list[int]:
        """Steps of the epochs, the best first."""
        return [record["step"] for record in best_first(self.history)]

    def _save(self) -> None:
        own = {"rng": torch.get_rng_state(), "generator": self.generator.get_state(), "stats": self.stats.state_dict()}
        if self.device.type == "cuda":
            own["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        processes = gather(own)
        if self.rank > 0:
            return
        state = {
            "config": asdict(self.config),
            "facts": self.facts,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": processes,
        }
        files = {"model.safetensors": weights_bytes(self.model, step=self.step, epoch=self.epoch)}
        if self.ema is not None:
            state["ema_steps"] = int(self.ema.n_averaged)
            files["ema.safetensors"] = weights_bytes(unwrap(self.ema.module), step=self.step, epoch=self.epoch)
        self.checkpoints.save(self.step, {**files, "state.pt": state_bytes(state)})
        self.checkpoints.prune(self._best())

    def _publish(self) -> None:
        """Bring weights, logs and curves up to the last finished epoch; again after a kill in between."""
        if self.rank > 0 or not self.history:
            return
        available = self.checkpoints.steps()
        for name, step in (("last", self.history[-1]["step"]), ("best", self._best()[0])):
            if step in available:
                self.checkpoints.publish(step, name)
        write_log(self.output, self.history)
        if not draw_curves(self.output / "curves.png", self.history) and self.epoch == 1:
            self.progress.say('no curves.png without Matplotlib: pip install "ddrsapc[train]"')

    def _open(self, resume: bool) -> int | None:
        """Make the run's folder; the step to go on from, the same on every process."""
        last = None
        if self.rank == 0:
            steps = self.checkpoints.steps()
            if steps and not resume:
                raise FileExistsError(
                    f"{self.output} holds a run of {steps[-1]} steps already; resume it, or give another folder"
                )
            last = steps[-1] if steps else None
            (self.output / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.output / "checkpoints" / ".lock")
            self.checkpoints.clean()
        return gather(last)[0]

    def _load(self, last: int) -> None:
        weights, state = self.checkpoints.load(last)
        earlier = state.get("facts", {})
        changed = self.config.differences(state.get("config", {}))
        changed += [
            f"{key} was {earlier.get(key)!r}, is {now!r}" for key, now in self.facts.items() if earlier.get(key) != now
        ]
        if changed:
            raise CheckpointError(
                f"the run in {self.output} was begun otherwise: {'; '.join(changed)}; "
                "resume it as it was, or give another folder"
            )
        try:
            self._restore(weights, state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.checkpoints.path(last)} is not whole, or of another version ({type(error).__name__}: {error}); "
                "delete this folder to go on from the checkpoint before it"
            ) from error

    def _restore(self, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        self.model.load_state_dict(weights["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(weights["ema"])
            self.ema.n_averaged.fill_(state["ema_steps"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        own = state["processes"][self.rank]
        self.stats.load_state_dict(own["stats"])
        self.generator.set_state(own["generator"])
        torch.set_rng_state(own["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda_rng"], self.device)


def _spread(size: int, batch_size: int, batches: int) -> list[list[int]]:
    """At most so many full batches of indices, evenly over the dataset."""
    count = min(batches, max(1, size // batch_size)) * batch_size
    return [[i * size // count for i in batch] for batch in shard_batches(count, batch_size)]
