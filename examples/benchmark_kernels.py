"""The calls of fused kernels that `examples/benchmark.py` measures, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from benchmark_measuring import Variant, excess
from fusion_traffic import Call, Gpu, costs
from torch import Tensor

OHEM = "ohem_cross_entropy"


@dataclass(frozen=True)
class Case:
    """A call of a kernel."""

    kernel: str
    inputs: tuple[Tensor, ...]
    arguments: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    """Of the kernel, by its inputs."""
    grad: Tensor | None = None
    """Of the output; None: it has none."""

    @property
    def name(self) -> str:
        """The inputs' shapes and type."""
        shapes = " + ".join("x".join(map(str, tensor.shape)) for tensor in self.inputs)
        return f"{shapes}, {str(self.inputs[0].dtype).removeprefix('torch.')}"

    def phases(self, function: Callable[..., Tensor], variant: Variant, dtype: torch.dtype | None = None) -> Any:
        """Forward and backward, and what they leave."""
        inputs = [x.to(dtype or x.dtype, memory_format=variant.layout, copy=True).detach() for x in self.inputs]
        args, options = self.arguments(*(x.requires_grad_(self.grad is not None) for x in inputs))
        left: dict[str, Any] = {}

        def forward() -> None:
            left.clear()
            if variant.mode is not None:
                torch.compiler.cudagraph_mark_step_begin()
            left["output"] = function(*args, **options)

        def backward() -> None:
            output = left["output"]
            left["gradients"] = torch.autograd.grad(output, inputs, grad.to(output.dtype))

        if self.grad is None:
            return {"forward": forward}, left
        grad = self.grad.clone(memory_format=variant.layout if self.grad.ndim == 4 else torch.preserve_format)
        return {"forward": forward, "backward": backward}, left

    def errors(self, left: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, float]:
        """Of the output, of the gradients, and the larger one, over what is allowed."""
        output = left["output"]
        if self.grad is None:  # labels: what the logit of the chosen one is off by
            logits = F.interpolate(self.inputs[0].double(), output.shape[1:], mode="bilinear", align_corners=False)
            chosen = logits.gather(1, output[:, None].long()).to(self.inputs[0].dtype)
            return {"forward": excess(chosen, logits.amax(1, keepdim=True))}
        pairs = zip(left["gradients"], truth["gradients"], strict=True)
        found = {
            "forward": excess(output, truth["output"]),
            "backward": max(excess(actual, right, gradient=True) for actual, right in pairs),
        }
        return found | {"both": max(found.values())}

    def bytes(self) -> dict[str, int]:
        """What each phase has to move at least."""
        moved = []
        for has_gradient in (False, True):
            args, options = self.arguments(*(x.detach().requires_grad_(has_gradient) for x in self.inputs))
            moved.append(costs(Call.of(self.kernel, *args, **options), Gpu(1.0, 1.0))[1].bytes)
            if self.grad is None:
                return {"forward": moved[0]}
        return {"forward": moved[0], "backward": moved[1] - moved[0], "both": moved[1]}


def kernel_cases(batch: int, size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """Calls as ddr_sapc_u makes them, and of logits of lower resolution."""
    torch.manual_seed(0)
    half, quarter, eighth = size // 2, size // 4, size // 8

    def maps(channels: int, side: int) -> Tensor:
        return torch.randn(batch, channels, side, side, device=device).to(dtype)

    target = torch.randint(0, 4, (batch, size, size), device=device)
    target[:, : size // 16] = 255
    for side in (size, eighth):
        logits = 2 * maps(4, side)
        options = {"threshold": _clear_threshold(logits, target), "min_kept": 0.05, "ignore_index": 255, "weight": None}
        yield Case(OHEM, (logits,), lambda x, o=options: ((x, target), o), torch.ones((), device=device))
    two = maps(128, quarter), maps(128, eighth)
    yield Case("upsample_add_act", two, lambda x, *y: ((x, y), {"relu": False}), maps(128, quarter))
    four = maps(64, half), maps(64, quarter), maps(64, eighth), maps(64, half)
    yield Case("upsample_add_act", four, lambda x, *y: ((x, y), {"relu": True}), maps(64, half))
    gates = (maps(128, quarter), maps(1, quarter), maps(1, eighth))
    yield Case("dual_gate", gates, lambda *x: (x, {}), maps(128, quarter))
    for side in (size, eighth):
        yield Case("upsample_argmax", (maps(4, side),), lambda x: ((x, (size, size)), {}))


def _clear_threshold(logits: Tensor, target: Tensor) -> float:
    """A probability about 0.7 that no pixel is near, for rounding not to decide which are kept."""
    logits = F.interpolate(logits.double(), target.shape[1:], mode="bilinear", align_corners=False)
    found = F.cross_entropy(logits, target, ignore_index=255, reduction="none").neg().exp().flatten()
    near = found[(found - 0.7).abs() < 0.2].sort().values
    gap = near.diff().argmax()
    return float((near[gap] + near[gap + 1]) / 2)


def sort_and_index(logits: Tensor, target: Tensor, *, threshold: float, min_kept: float, **_: Any) -> Tensor:
    """OHEM cross-entropy as in most public code, as DDRNet's."""
    logits = logits.float()
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").view(-1)
    mask = target.view(-1) != 255
    labels = target.where(target != 255, 0)[:, None]
    probability, order = F.softmax(logits.detach(), 1).gather(1, labels).view(-1)[mask].sort()
    cut = max(float(probability[min(int(min_kept * len(order)), len(order) - 1)]), threshold)
    return losses[mask][order][probability < cut].mean()
