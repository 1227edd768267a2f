"""The Triton kernels as PyTorch operators on CUDA, with their shapes for compilation and their gradients.

They compute in float32 (float64 for float64) whatever they take. Under autocast, sums and gates take maps of several
dtypes, which become the widest of them; maps of one dtype stay in it, which plain PyTorch would resize in float32. Loss
and labels have nothing to cast. The backward passes are operators too, and have no gradient of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef, Library, custom_op  # type: ignore[attr-defined]
from torch.utils._pytree import tree_leaves, tree_map_only

from ddrsapc.kernels.layout import MAX_CLASSES, MAX_ELEMENTS, factors, memory_format, ratio

__all__ = [
    "dual_gate",
    "dual_gate_fits",
    "ohem_cross_entropy",
    "ohem_cross_entropy_fits",
    "upsample_add_act",
    "upsample_add_act_fits",
    "upsample_argmax",
    "upsample_argmax_fits",
]

_HALF_OR_SINGLE = (torch.float16, torch.bfloat16, torch.float32)
_FLOATING = (*_HALF_OR_SINGLE, torch.float64)


def _operator(name: str, schema: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    return custom_op(f"ddrsapc::{name}", mutates_args=(), device_types="cuda", schema=schema)


_autocast = Library("ddrsapc", "FRAGMENT")  # what it registers lives as long as it does


def _promote_under_autocast(name: str, device: str = "cuda") -> None:
    """Give an operator a rule for autocast: its maps become the widest of their dtypes."""
    operator = getattr(torch.ops.ddrsapc, name)

    def promoted(*args: Any) -> Tensor:
        dtype = reduce(torch.promote_types, {leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor)})
        with torch.autocast(device, enabled=False):
            out: Tensor = operator(*tree_map_only(Tensor, lambda x: x.to(dtype), args))
        return out

    _autocast.impl(name, promoted, f"Autocast{device.upper()}")


def _dtypes_fit(*maps: Tensor) -> bool:
    dtypes = {x.dtype for x in maps}
    return dtypes <= {*_FLOATING} and (len(dtypes) == 1 or torch.is_autocast_enabled(maps[0].device.type))


# upsample_add_act


def upsample_add_act_fits(x: Tensor, terms: Sequence[Tensor]) -> bool:
    """Whether the kernel computes this: dtypes that fit, and whole factors of which one at least is above 1."""
    if not _dtypes_fit(x, *terms) or x.ndim != 4:
        return False
    if any(t.ndim != 4 or t.shape[:2] != x.shape[:2] for t in terms):
        return False
    all_factors = [factors(x.shape[2:], term.shape[2:]) for term in terms]
    return None not in all_factors and any(pair != (1, 1) for pair in all_factors)


@_operator("upsample_add_act", "(Tensor x, Tensor[] terms, bool relu) -> Tensor")
def upsample_add_act(x: Tensor, terms: Sequence[Tensor], relu: bool) -> Tensor:
    """See `ddrsapc.kernels.upsample_add_act`; for what `upsample_add_act_fits`."""
    from ddrsapc.kernels.triton import upsample_add_act as kernel  # noqa: PLC0415

    with torch.cuda.device_of(x):
        return kernel.forward(x, terms, _all_factors(x, terms), relu=relu)


@upsample_add_act.register_fake
def _(x: Tensor, terms: Sequence[Tensor], relu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


@_operator("upsample_add_act_backward", "(Tensor grad, Tensor? out, SymInt[] factors) -> Tensor[]")
def _upsample_add_act_backward(grad: Tensor, out: Tensor | None, factors: Sequence[int]) -> list[Tensor]:
    """The gradients of the upsampled terms, after x's where `out` is given; `factors` are pairs of (y, x)."""
    from ddrsapc.kernels.triton import upsample_add_act as kernel  # noqa: PLC0415

    with torch.cuda.device_of(grad):
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
_promote_under_autocast("upsample_add_act")


def _all_factors(x: Tensor, terms: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(x.shape[2] // term.shape[2], x.shape[3] // term.shape[3]) for term in terms]


# dual_gate


def dual_gate_fits(x: Tensor, own: Tensor, other: Tensor) -> bool:
    """Whether the kernel computes this: dtypes that fit, and one side larger than the other by whole factors."""
    if not _dtypes_fit(x, own, other):
        return False
    if (
        x.ndim != 4
        or other.ndim != 4
        or other.shape[:2] != (x.shape[0], 1)
        or own.shape != (x.shape[0], 1, *x.shape[2:])
    ):
        return False
    return ratio(x.shape[2:], other.shape[2:]) is not None


@_operator("dual_gate", "(Tensor x, Tensor own, Tensor other) -> Tensor")
def dual_gate(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """See `ddrsapc.kernels.dual_gate`; for what `dual_gate_fits`."""
    from ddrsapc.kernels.triton import dual_gate as kernel  # noqa: PLC0415

    with torch.cuda.device_of(x):
        return kernel.forward(x, own.contiguous(), other.contiguous(), _ratio(x, other))


@dual_gate.register_fake
def _(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


@_operator("dual_gate_backward", "(Tensor grad, Tensor x, Tensor own, Tensor other) -> (Tensor, Tensor, Tensor)")
def _dual_gate_backward(grad: Tensor, x: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from ddrsapc.kernels.triton import dual_gate as kernel  # noqa: PLC0415

    with torch.cuda.device_of(x):
        return kernel.backward(grad, x, own.contiguous(), other.contiguous(), _ratio(x, other))


@_dual_gate_backward.register_fake
def _(grad: Tensor, x: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=memory_format(x)), _dense(own), _dense(other)


def _save_for_dual_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dual_gate_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _dual_gate_backward(grad, *ctx.saved_tensors)


dual_gate.register_autograd(_dual_gate_gradient, setup_context=_save_for_dual_gate)
_promote_under_autocast("dual_gate")


def _ratio(x: Tensor, other: Tensor) -> Any:
    return ratio(x.shape[2:], other.shape[2:])


def _dense(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# ohem_cross_entropy


def ohem_cross_entropy_fits(logits: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether the kernel computes this: up to `MAX_CLASSES`, whole factors, and class weights that are not learnt."""
    if logits.dtype not in _HALF_OR_SINGLE or target.dtype != torch.int64 or logits.shape[1] > MAX_CLASSES:
        return False
    if logits.ndim != 4 or target.ndim != 3 or target.shape[0] != logits.shape[0]:
        return False
    if weight is not None and (
        weight.device != logits.device or weight.requires_grad or weight.shape != logits.shape[1:2]
    ):
        return False
    return factors(target.shape[1:], logits.shape[2:]) is not None


@_operator(
    "ohem_cross_entropy",
    "(Tensor logits, Tensor target, Tensor? weight, float threshold, float min_kept, int ignore_index)"
    " -> (Tensor, Tensor, Tensor)",
)
def ohem_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, threshold: float, min_kept: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of `ddrsapc.kernels.ohem_cross_entropy`, and two that its backward pass reads.

    For what `ohem_cross_entropy_fits`.
    """
    from ddrsapc.kernels.triton import ohem_cross_entropy as kernel  # noqa: PLC0415

    with torch.cuda.device_of(logits):
        return kernel.forward(
            logits,
            target.contiguous(),
            _as_float32(weight),
            _target_factors(logits, target),
            threshold=threshold,
            min_kept=min_kept,
            ignore_index=ignore_index,
        )


@ohem_cross_entropy.register_fake
def _(
    logits: Tensor, target: Tensor, weight: Tensor | None, threshold: float, min_kept: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    single = torch.float32
    return (
        logits.new_empty((), dtype=single),
        logits.new_empty(target.shape, dtype=single),
        logits.new_empty(4, dtype=single),
    )


@_operator(
    "ohem_cross_entropy_backward",
    "(Tensor grad, Tensor logits, Tensor target, Tensor? weight, Tensor losses, Tensor choice) -> Tensor",
)
def _ohem_cross_entropy_backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, losses: Tensor, choice: Tensor
) -> Tensor:
    from ddrsapc.kernels.triton import ohem_cross_entropy as kernel  # noqa: PLC0415

    factors = _target_factors(logits, target)
    with torch.cuda.device_of(logits):
        return kernel.backward(grad, logits, target.contiguous(), _as_float32(weight), losses, choice, factors)


@_ohem_cross_entropy_backward.register_fake
def _(grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, losses: Tensor, choice: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=memory_format(logits))


def _save_for_ohem(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, losses, choice = output
    ctx.save_for_backward(*inputs[:3], losses, choice)
    ctx.mark_non_differentiable(losses, choice)
    ctx.set_materialize_grads(False)


def _ohem_gradient(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return _ohem_cross_entropy_backward(grad, *ctx.saved_tensors), None, None, None, None, None


ohem_cross_entropy.register_autograd(_ohem_gradient, setup_context=_save_for_ohem)


def _target_factors(logits: Tensor, target: Tensor) -> tuple[int, int]:
    return target.shape[1] // logits.shape[2], target.shape[2] // logits.shape[3]


def _as_float32(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.float().contiguous()


# upsample_argmax


def upsample_argmax_fits(logits: Tensor, size: Sequence[int]) -> bool:
    """Whether the kernel computes this: up to `MAX_CLASSES`, and whole factors."""
    if logits.dtype not in _HALF_OR_SINGLE or logits.ndim != 4 or logits.shape[1] > MAX_CLASSES:
        return False
    if logits.shape[0] * size[0] * size[1] > MAX_ELEMENTS:
        return False
    return factors(size, logits.shape[2:]) is not None


@_operator("upsample_argmax", "(Tensor logits, SymInt[] size) -> Tensor")
def upsample_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """See `ddrsapc.kernels.upsample_argmax`; for what `upsample_argmax_fits`."""
    from ddrsapc.kernels.triton import upsample_argmax as kernel  # noqa: PLC0415

    with torch.cuda.device_of(logits):
        return kernel.forward(logits, (size[0] // logits.shape[2], size[1] // logits.shape[3]))


@upsample_argmax.register_fake
def _(logits: Tensor, size: Sequence[int]) -> Tensor:
    return logits.new_empty((logits.shape[0], *size), dtype=torch.uint8)
