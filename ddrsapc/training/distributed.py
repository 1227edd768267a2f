"""Several processes: what `torchrun` starts, one per device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ddrsapc.models import SegmentationModel

__all__ = ["broadcast_buffers", "gather", "process_group", "rank_and_world_size", "unwrap"]

T = TypeVar("T")


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, if it did; gives this process's device.

    NCCL between GPUs, gloo between CPUs. On an error the group is left to the end of the process: the
    others wait in a collective, and `torchrun` ends them.

    Args:
        device: "cpu", "cuda", ...; None: a GPU where there is one.

    Raises:
        ValueError: for a device with a number where there are several processes.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield torch.device(kind)
        return
    if ":" in kind:
        raise ValueError(f"several processes take a device each: give {kind.partition(':')[0]!r}, not {kind!r}")
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    yield torch.device(kind)
    dist.destroy_process_group()


def rank_and_world_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where there is no process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """Every process's value, in order of rank, on every process."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[T | None] = [None] * world_size
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers (batch norm's statistics) of the first."""
    if rank_and_world_size()[1] > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def unwrap(model: nn.Module) -> SegmentationModel:
    """The network inside `DistributedDataParallel`."""
    return cast("SegmentationModel", model.module if isinstance(model, DistributedDataParallel) else model)
