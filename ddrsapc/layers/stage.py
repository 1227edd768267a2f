"""A run of layers that can trade compute for memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ddrsapc.layers.norm import frozen_statistics


class Stage(nn.Sequential):
    """`torch.nn.Sequential` that recomputes its activations in the backward pass when asked to.

    With `grad_checkpointing` set, training keeps only the stage's input and runs the stage again for
    the gradients. The second run leaves batch-norm statistics alone, so that training with and
    without it is the same training.
    """

    grad_checkpointing: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers in order: (N, C, H, W) -> the last layer's output."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return self._run(x)
        from torch.utils.checkpoint import checkpoint  # noqa: PLC0415  (slow to import in older PyTorch)

        if torch.compiler.is_compiling():  # a compiled graph updates statistics once by itself
            output: Tensor = checkpoint(self._run, x, use_reentrant=False)
        else:
            output = checkpoint(self._run, x, use_reentrant=False, context_fn=self._contexts)
        return output

    def _run(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(self)
