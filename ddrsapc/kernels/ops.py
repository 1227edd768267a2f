"""The Triton kernels as PyTorch operators on CUDA, with their shapes for compilation and their gradients.

They take tensors as they come and compute in float32 (float64 for float64), so autocast has nothing to cast: it passes
through. Their backward passes are operators too, and have no gradient of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddrsapc.kernels.layout import factors, memory_format

__all__ = ["upsample_add_act", "upsample_add_act_fits"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def upsample_add_act_fits(x: Tensor, terms: Sequence[Tensor]) -> bool:
    """Whether the kernel computes this: one dtype, and whole factors of which one at least is above 1."""
    if x.dtype not in _DTYPES or any(t.dtype != x.dtype or t.shape[:2] != x.shape[:2] for t in terms):
        return False
    all_factors = [factors(x.shape[2:], term.shape[2:]) for term in terms]
    return None not in all_factors and any(pair != (1, 1) for pair in all_factors)


@torch.library.custom_op(
    "ddrsapc::upsample_add_act",
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor x, Tensor[] terms, bool relu) -> Tensor",
)
def upsample_add_act(x: Tensor, terms: Sequence[Tensor], relu: bool) -> Tensor:
    """See `ddrsapc.kernels.upsample_add_act`; for what `upsample_add_act_fits`."""
    from ddrsapc.kernels.triton import upsample_add_act as kernel  # noqa: PLC0415

    return kernel.forward(x, terms, _all_factors(x, terms), relu=relu)


@upsample_add_act.register_fake
def _(x: Tensor, terms: Sequence[Tensor], relu: bool) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x, memory_format=memory_format(x))


@torch.library.custom_op(
    "ddrsapc::upsample_add_act_backward",
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor grad, Tensor? out, SymInt[] factors) -> Tensor[]",
)
def _upsample_add_act_backward(grad: Tensor, out: Tensor | None, factors: Sequence[int]) -> list[Tensor]:
    """The gradients of the upsampled terms, after x's where `out` is given; `factors` are pairs of (y, x)."""
    from ddrsapc.kernels.triton import upsample_add_act as kernel  # noqa: PLC0415

    return kernel.backward(grad, out, list(zip(factors[::2], factors[1::2], strict=True)))


@_upsample_add_act_backward.register_fake
def _(grad: Tensor, out: Tensor | None, factors: Sequence[int]) -> list[Tensor]:
    layout = memory_format(grad if out is None else out)
    grads = [] if out is None else [torch.empty_like(grad, memory_format=layout)]
    for factor_y, factor_x in zip(factors[::2], factors[1::2], strict=True):
        shape = (*grad.shape[:2], grad.shape[2] // factor_y, grad.shape[3] // factor_x)
        grads.append(torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout))
    return grads


def _save_for_upsample_add_act(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, terms, relu = inputs
    ctx.save_for_backward(*([output] if relu else []))
    ctx.factors = _all_factors(x, terms)


def _upsample_add_act_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, list[Tensor], None]:
    out = ctx.saved_tensors[0] if ctx.saved_tensors else None
    upsampled = [pair for pair in ctx.factors if pair != (1, 1)]
    grads = _upsample_add_act_backward(grad, out, [number for pair in upsampled for number in pair])
    grad_x = grad if out is None else grads.pop(0)
    return grad_x, [grad_x if pair == (1, 1) else grads.pop(0) for pair in ctx.factors], None


upsample_add_act.register_autograd(_upsample_add_act_gradient, setup_context=_save_for_upsample_add_act)


def _all_factors(x: Tensor, terms: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(x.shape[2] // term.shape[2], x.shape[3] // term.shape[3]) for term in terms]
