"""The reference training loop: `fit` for a whole run, its pieces for a loop of one's own."""

from ddrsapc.training.checkpoints import CheckpointError, load_trained
from ddrsapc.training.config import TrainConfig
from ddrsapc.training.distributed import process_group
from ddrsapc.training.fit import FitResult, fit
from ddrsapc.training.loop import BatchPreparation, Evaluation, NonFiniteError, TrainStats, evaluate, train_one_epoch
from ddrsapc.training.optim import build_optimizer, build_scheduler

__all__ = [
    "BatchPreparation",
    "CheckpointError",
    "Evaluation",
    "FitResult",
    "NonFiniteError",
    "TrainConfig",
    "TrainStats",
    "build_optimizer",
    "build_scheduler",
    "evaluate",
    "fit",
    "load_trained",
    "process_group",
    "train_one_epoch",
]
