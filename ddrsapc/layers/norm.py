"""Batch normalisation that stays in float32, and a way to run it without touching its statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_HALF_TYPES = (torch.float16, torch.bfloat16)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose parameters and running statistics stay float32.

    `.half()`, `.bfloat16()` and `.to(dtype)` convert the convolutions around it and leave it alone:
    a float16 running variance overflows at 65,504. Input (N, C, H, W) of any floating dtype, output
    of the same shape and dtype.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_float32(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            if applied.dtype in _HALF_TYPES and tensor.dtype not in _HALF_TYPES:
                return tensor.to(applied.device)
            return applied

        return super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the context, `module`'s batch norms leave their running statistics unchanged.

    They still normalise by the batch in training: for a second forward pass over the same batch,
    as activation checkpointing makes it.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
