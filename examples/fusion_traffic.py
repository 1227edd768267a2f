"""What each fused kernel can save at most on a GPU, by the bytes it need not move: counted without a GPU.

Runs a training step (forward, OHEM loss, backward) and an optimized forward pass with labels, in bfloat16, on shapes
alone, and adds up what every operation of PyTorch reads and writes. Each call of `ddrsapc.kernels` in it is then
counted as plain PyTorch does it and as fused kernels do that move nothing twice. The time of an operation is its bytes
over the GPU's bandwidth, or its FLOPs over its throughput if that is longer: a bound, not a measurement.

    python examples/fusion_traffic.py ddr_sapc_u -o outputs/traffic.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

import ddrsapc
from ddrsapc.files import write_atomically
from ddrsapc.kernels import reference, upsample_argmax
from ddrsapc.losses import OhemCrossEntropyLoss

READS = {"native_batch_norm": 2, "native_batch_norm_backward": 2, "topk": 5}
"""How often an operation reads its inputs: statistics first, or the passes of a radix select."""
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
FAMILIES = {
    "convolution": "convolution",
    "native_batch_norm": "batch norm",
    "threshold": "ReLU",
    "relu": "ReLU",
    "add": "addition",
    "upsample_bilinear2d": "bilinear",
    "cat": "concatenation",
    "avg_pool2d": "pooling",
}


class Gpu(NamedTuple):
    """What bounds an operation."""

    bandwidth: float
    """Bytes per second."""
    throughput: float
    """FLOP per second in bfloat16."""


@dataclass(frozen=True)
class Cost:
    """What some operations cost."""

    operations: int = 0
    """The launches, at least."""
    bytes: int = 0
    """Read and written."""
    flops: int = 0
    ms: float = 0.0
    """At least, each operation at its own bound."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Traffic(TorchDispatchMode):
    """Within the context, adds up what every operation costs, by family."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu
        self.families: dict[str, Cost] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        name = packet.__name__
        if name == "upsample_bilinear2d":  # its shapes take PyTorch long to find
            output = args[0].new_empty((*args[0].shape[:2], *args[1]))
        else:
            output = func(*args, **kwargs)
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and name not in FREE:
            moved = READS.get(name, 1) * size_of((args, kwargs)) + size_of(output)
            if name == "convolution_backward":
                moved += size_of(args[0]) * (sum(args[-1][:2]) - 1)  # for the input's gradient, and for the weight's
            flops = flop_registry[packet](*args, **kwargs, out_val=output) if packet in flop_registry else 0
            family = FAMILIES.get(name.removesuffix("_backward").removesuffix("_"), "other")
            cost = Cost(1, moved, flops, 1e3 * max(moved / self.gpu.bandwidth, flops / self.gpu.throughput))
            self.families[family] = self.families.get(family, Cost()) + cost
        return output

    @property
    def total(self) -> Cost:
        """The cost of all families."""
        return sum(self.families.values(), Cost())


def size_of(tree: object) -> int:
    """Bytes of the tensors in a tree; what an expanded one repeats counts once."""
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in _tensors(tree))


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Call:
    """A call of a kernel, of tensors that have a shape alone."""

    kernel: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, kernel: str, *args: Any, **kwargs: Any) -> Call:
        """A call without its numbers."""
        return cls(kernel, *tree_map(_shape_only, (args, kwargs)))

    @property
    def tensors(self) -> list[Tensor]:
        """The inputs."""
        return _tensors((self.args, self.kwargs))


def _shape_only(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta", requires_grad=leaf.requires_grad)


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Within the context, notes every call of a kernel's reference, which the meta device runs."""
    calls: list[Call] = []

    def recording(kernel: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(Call.of(kernel, *args, **kwargs))
            return function(*args, **kwargs)

        return run

    with ExitStack() as stack:
        for kernel in reference.__all__:
            stack.enter_context(patch.object(reference, kernel, recording(kernel, getattr(reference, kernel))))
        yield calls


def costs(call: Call, gpu: Gpu) -> tuple[Cost, Cost]:
    """What plain PyTorch does for a call, with its gradients where it has some, and the least that fused kernels do."""
    with Traffic(gpu) as traffic:
        output: Tensor = getattr(reference, call.kernel)(*call.args, **call.kwargs)
        if output.requires_grad:
            torch.autograd.grad(output, [t for t in call.tensors if t.requires_grad], torch.empty_like(output))
    moved = size_of(call.tensors) + size_of(output)
    launches = 1
    if call.kernel == "ohem_cross_entropy":  # the loss of each pixel, a select's four histograms over it, and a sum
        launches, moved = 5, moved + 5 * 4 * call.args[1].numel()
    if output.requires_grad:
        more, gradients = _fused_backward(call, output)
        launches, moved = launches + more, moved + gradients
    return traffic.total, Cost(launches, moved, 0, 1e3 * moved / gpu.bandwidth)


def _fused_backward(call: Call, output: Tensor) -> tuple[int, int]:
    """Launches and bytes."""
    if call.kernel != "upsample_add_act":
        # reads everything again and the output's gradient, writes the inputs'; a gate's other map gathers its own
        gradients = size_of([t for t in call.tensors if t.requires_grad])
        return 2 if call.kernel == "dual_gate" else 1, size_of(call.tensors) + size_of(output) + gradients
    lower = [t for t in call.args[1] if t.shape != output.shape]
    relu = call.kwargs["relu"]
    if not relu and not lower:  # all have the output's gradient
        return 0, 0
    # ReLU reads its output too, and writes what terms of its size share
    return 1, size_of(output) * (3 if relu else 1) + size_of(lower)


def counted(run: Callable[[], object], gpu: Gpu) -> dict[str, Any]:
    """The costs of a run by family and, of the calls of kernels in it, as they are and fused."""
    with recorded_calls() as calls, Traffic(gpu) as traffic:
        run()
    kernels = {}
    for kernel in dict.fromkeys(call.kernel for call in calls):
        own = [costs(call, gpu) for call in calls if call.kernel == kernel]
        eager, fused = (sum(column, Cost()) for column in zip(*own, strict=True))
        saved = (eager.ms - fused.ms) / traffic.total.ms
        kernels[kernel] = {"calls": len(own), "eager": asdict(eager), "fused": asdict(fused), "saved_share": saved}
    families = {name: asdict(cost) for name, cost in traffic.families.items()}
    return {"total": asdict(traffic.total), "families": families, "kernels": kernels}


def train(model: nn.Module, batch: int, size: int) -> None:
    """Forward, loss, backward."""
    target = torch.empty(batch, size, size, dtype=torch.long, device="meta")
    OhemCrossEntropyLoss()(model(_input(batch, size)), target).backward()


@torch.no_grad()
def label(model: nn.Module, batch: int, size: int) -> None:
    """Forward and the classes."""
    upsample_argmax(model(_input(batch, size)), (size, size))


def _input(batch: int, size: int) -> Tensor:
    return torch.empty(batch, 1, size, size, dtype=torch.bfloat16, device="meta")


def table(counts: Mapping[str, Any]) -> str:
    """The counts of a run as text."""
    total = counts["total"]
    lines = [f"{'':<20}{'operations':>11}{'GB':>9}{'TFLOP':>8}{'ms':>8}{'share':>8}"]
    for name, row in [*sorted(counts["families"].items(), key=lambda item: -item[1]["ms"]), ("all", total)]:
        numbers = f"{row['operations']:>11}{row['bytes'] / 1e9:>9.3f}{row['flops'] / 1e12:>8.3f}{row['ms']:>8.3f}"
        lines.append(f"{name:<20}{numbers}{row['ms'] / total['ms']:>8.1%}")
    lines.append(f"{'kernel':<20}{'calls':>6}{'operations':>13}{'GB':>17}{'saves':>8}")
    for name, row in counts["kernels"].items():
        eager, fused = row["eager"], row["fused"]
        operations = f"{eager['operations']} -> {fused['operations']}"
        moved = f"{eager['bytes'] / 1e9:.3f} -> {fused['bytes'] / 1e9:.3f}"
        lines.append(f"{name:<20}{row['calls']:>6}{operations:>13}{moved:>17}{row['saved_share']:>8.1%}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; one line on stderr and 2 for a call that cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="its name, see ddrsapc.list_models()")
    parser.add_argument("--width", type=int, help="channels of the network's first level (the network's own)")
    parser.add_argument("--size", type=int, default=512, help="pixels per side of the slices (%(default)s)")
    parser.add_argument("--train-batch-size", type=int, default=4, help="slices (%(default)s)")
    parser.add_argument("--infer-batch-size", type=int, default=16, help="slices (%(default)s)")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s of the GPU's memory (%(default)s: H100)")
    parser.add_argument("--throughput", type=float, default=700, help="TFLOP/s of the GPU in bfloat16 (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    gpu = Gpu(args.bandwidth * 1e12, args.throughput * 1e12)
    try:
        if min(gpu) <= 0 or min(args.size, args.train_batch_size, args.infer_batch_size) < 1:
            raise ValueError("--size, batch sizes, --bandwidth and --throughput must be above 0")
        model = ddrsapc.create_model(args.model, **({} if args.width is None else {"width": args.width}))
        fast = ddrsapc.optimize_for_inference(model).to("meta", torch.bfloat16)
        model = model.to("meta", torch.bfloat16).train()
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        counts = {
            "training": counted(lambda: train(model, args.train_batch_size, args.size), gpu),
            "inference": counted(lambda: label(fast, args.infer_batch_size, args.size), gpu),
        }
        if args.output is not None:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"settings": settings, "torch": torch.__version__, **counts}, indent=1)
            write_atomically(args.output, f"{text}\n".encode())
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, part in counts.items():
        print(f"{name}\n{table(part)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
