"""Times of the fused kernels, of training steps and of inference, beside plain PyTorch and torch.compile.

    python examples/benchmark.py kernels
    python examples/benchmark.py train --model ddr_sapc_u
    python examples/benchmark.py infer --model ddr_sapc_u --dtype float16

The results of every variant are first compared with plain PyTorch's in float64: the error is what they are off by, over
what is allowed, and above 1 no speed-up is shown. Times are medians with the 20th and 80th percentile, on a GPU by its
own clock; a kernel finds the GPU's cache empty. Memory is what a run needs beyond its inputs and weights. Bandwidth and
FLOP/s stand beside those of a copy and a matrix product. Writes a CSV, a JSON with all that is needed to repeat it, and
a plot. Needs the extra: pip install "ddrsapc[train]"
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmark_kernels import OHEM, kernel_cases, sort_and_index
from benchmark_measuring import LARGE, VARIANTS, Clock, Phases, Row, Variant, peaks, rows_of
from benchmark_report import GOALS, USUAL, judged, table, with_speedups, write
from fusion_traffic import Gpu, Traffic, label, train
from provenance import commit, hardware
from torch import Tensor, nn

import ddrsapc
from ddrsapc import kernels
from ddrsapc.kernels import reference
from ddrsapc.losses import OhemCrossEntropyLoss

NETWORK_TOLERANCE = 1e-4
"""Of the largest logit or the gradient's norm, unless plain PyTorch's own rounding is more than half of that."""


def measure_kernels(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[list[Row]]:
    """Each kernel, on one size of batch after another."""
    clock = Clock(device, cold=True)
    for case in (case for batch in args.batch_size for case in kernel_cases(batch, args.size, dtype, device)):
        if args.kernels and case.kernel not in args.kernels:
            continue
        plain, ours = getattr(reference, case.kernel), getattr(kernels, case.kernel)
        phases, truth = case.phases(plain, VARIANTS["eager"], torch.float64)
        clock.run(phases)
        moved, rows, runs, bases, errors = case.bytes(), [], {}, {}, {}
        for name in [*args.variants, *([USUAL] if case.kernel == OHEM else [])]:
            variant = VARIANTS.get(name, VARIANTS["eager"])
            function = sort_and_index if name == USUAL else plain if variant.plain else ours
            bases[name] = Row(case.kernel, case.name, name)
            try:
                if variant.mode is not None:
                    function = torch.compile(function, mode=variant.mode, dynamic=False)
                phases, left = case.phases(function, variant)
                memory = clock.warm_up(phases, clock.allocated())
                memory = None if variant.mode == "max-autotune" else memory  # graphs keep theirs apart
                errors[name] = case.errors(left, truth)
            except Exception as error:  # Triton's are of no common kind
                rows.append(replace(bases[name], failed=_first_line(error)))
                continue
            runs[name], bases[name] = phases, replace(bases[name], extra_mb=memory)
        for name, ms in clock.rounds(runs, args.seconds).items():
            for row in rows_of(bases[name], "both", runs[name], ms):
                rate = 1e-6 * moved[row.phase] / (row.median_ms or 1)
                rows.append(replace(row, error=errors[name][row.phase], gb_per_s=rate))
        yield rows
        torch._dynamo.reset()


def training(
    network: nn.Module, variant: Variant, x: Tensor, target: Tensor, dtype: torch.dtype
) -> tuple[Phases, Callable[[], Tensor]]:
    """A step: forward and OHEM loss, backward, SGD; and what gives the gradient."""

    def loss_of(x: Tensor) -> Tensor:
        return criterion(network(x), target)

    criterion = OhemCrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    function = loss_of if variant.mode is None else torch.compile(loss_of, mode=variant.mode, dynamic=False)
    losses: list[Tensor] = []

    def forward() -> None:
        optimizer.zero_grad()
        if variant.mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(x.device.type, dtype, enabled=dtype == torch.bfloat16):
            losses.append(function(x))

    def backward() -> None:
        losses.pop().backward()

    def gradient() -> Tensor:
        forward()
        backward()
        return torch.cat([p.grad.double().flatten() for p in network.parameters() if p.grad is not None])

    return {"forward": forward, "backward": backward, "update": optimizer.step}, gradient


def inference(network: Any, variant: Variant, x: Tensor) -> tuple[Phases, Callable[[], Tensor]]:
    """The forward pass, and what gives the logits."""
    function = network if variant.plain else ddrsapc.optimize_for_inference(network)
    if variant.mode is not None:
        function = torch.compile(function, mode=variant.mode, dynamic=False)

    def forward() -> Tensor:
        if variant.mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            return function(x)

    return {"forward": forward}, lambda: forward().double()


def prepared(
    model: nn.Module, variant: Variant, x: Tensor, target: Tensor | None, dtype: torch.dtype
) -> tuple[Phases, Callable[[], Tensor]]:
    """Of a copy of the network: a training step where there is a target, else a forward pass."""
    network: Any = copy.deepcopy(model).to(x.dtype)
    network, x = network.to(memory_format=variant.layout), x.contiguous(memory_format=variant.layout)
    return inference(network, variant, x) if target is None else training(network, variant, x, target, dtype)


def measure_networks(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[list[Row]]:
    """A network's training steps or forward passes, on one size of batch after another."""
    trains, clock = args.what == "train", Clock(device, cold=False)
    torch.manual_seed(0)
    model = ddrsapc.create_model(args.model, **({} if args.width is None else {"width": args.width}))
    model = model.to(device, torch.float32 if trains else dtype).train(trains)
    for batch in args.batch_size:
        shape = batch, args.size, args.size
        x = torch.randn(batch, model.in_chans, *shape[1:], device=device, dtype=next(model.parameters()).dtype)
        target = torch.randint(0, model.num_classes, shape, device=device) if trains else None
        with Traffic(Gpu(1.0, 1.0)) as traffic:
            (train if trains else label)(copy.deepcopy(model).to("meta", torch.bfloat16), batch, args.size)
        with patch.dict(os.environ, DDRSAPC_KERNELS="torch"):
            truth = prepared(model, VARIANTS["eager"], x.double(), target, torch.float64)[1]()
        rows, allowed = [], NETWORK_TOLERANCE
        for name in args.variants:
            variant = VARIANTS[name]
            base = Row(args.model, f"batch {batch}, {args.size} x {args.size}, {args.dtype}", name)
            try:
                with patch.dict(os.environ, DDRSAPC_KERNELS="torch" if variant.plain else "auto"):
                    phases, result = prepared(model, variant, x, target, dtype)
                    before = clock.allocated()
                    error = _difference(result(), truth, 2 if trains else torch.inf)
                    memory = clock.warm_up(phases, before)
                    if not trains:  # a graph is recorded by then; training steps have changed the weights
                        error = max(error, _difference(result(), truth, torch.inf))
                    if variant.mode == "max-autotune" or not (trains or variant.plain):
                        memory = None  # graphs keep theirs apart
                    ms = clock.rounds({name: phases}, args.seconds)[name]
            except Exception as failure:
                rows.append(replace(base, failed=_first_line(failure)))
            else:
                if name == "eager" and error < 1:
                    allowed = max(allowed, 2 * error)
                for row in rows_of(replace(base, error=error / allowed, extra_mb=memory), "step", phases, ms):
                    is_whole = row.phase == ("step" if trains else "forward")
                    rate = 1e-9 * traffic.total.flops / (row.median_ms or 1) if is_whole else None
                    rows.append(replace(row, tflop_per_s=rate))
            phases = result = None  # type: ignore[assignment]  # frees their memory
            gc.collect()
            torch._dynamo.reset()  # compiled code keeps the kernels that it was made with
        yield rows


def _difference(actual: Tensor, truth: Tensor, order: float) -> float:
    """Relative, infinite if it is none."""
    error = torch.linalg.vector_norm(actual - truth, order) / torch.linalg.vector_norm(truth, order)
    return float(error.nan_to_num(LARGE, LARGE))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _checked(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """The device and the type, with what depends on them filled in."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no GPU here; choose --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device}")
    if device.index:
        raise ValueError(f"--device {device}: choose a GPU by CUDA_VISIBLE_DEVICES")
    half = "float16" if args.what == "infer" else "bfloat16"
    args.dtype = args.dtype or (half if device.type == "cuda" else "float32")
    if args.what == "train" and args.dtype == "float16":
        raise ValueError("train takes --dtype float32 or bfloat16: float16 needs its loss scaled")
    args.batch_size = args.batch_size or ([1, 4, 16] if device.type == "cuda" else [4])
    if min(*args.batch_size, args.size) < 1 or args.size % 32 or args.seconds < 0:
        raise ValueError("--batch-size must be at least 1, --size a multiple of 32, --seconds at least 0")
    compiles = device.type == "cuda"
    wanted = args.variants or [name for name, variant in VARIANTS.items() if compiles or variant.mode is None]
    args.variants = [name for name in VARIANTS if name == "eager" or name in wanted]
    return device, getattr(torch, args.dtype)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; one line on stderr and 2 for a call that cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=("kernels", "train", "infer"))
    parser.add_argument("--model", default="ddr_sapc_u", help="of train and infer (%(default)s)")
    parser.add_argument("--width", type=int, help="channels of the network's first level (the network's own)")
    parser.add_argument("--size", type=int, default=512, help="pixels per side of the slices (%(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", help="slices (on a GPU 1 4 16, else 4)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="on a GPU bfloat16; infer: float16")
    parser.add_argument("--variants", choices=list(VARIANTS), nargs="+", help="on a CPU those that are not compiled")
    parser.add_argument("--kernels", choices=reference.__all__, nargs="+", help="all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, about (%(default)s)")
    parser.add_argument("--device", help="cpu or cuda (a GPU where there is one)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file (outputs/benchmark/WHAT.json)")
    args = parser.parse_args(argv)
    output = args.output or Path("outputs", "benchmark", f"{args.what}.json")
    try:
        device, dtype = _checked(args)
        software = {
            "cuda": torch.version.cuda,
            "ddrsapc": ddrsapc.__version__,
            "kernels": asdict(kernels.kernel_info()),
        }
        summary = {"what": args.what, "hardware": hardware(device) | software, "commit": commit()}
        summary |= {"command": shlex.join(["python", *sys.argv]), "variants": args.variants}
        summary["peaks"] = peaks(device, dtype, args.seconds)
        rows: list[Row] = []
        for found in (measure_kernels if args.what == "kernels" else measure_networks)(args, device, dtype):
            rows += with_speedups(found)
            summary["goals"] = [judged(goal, rows, device.type) for goal in GOALS]
            write(output, summary, rows)  # what is measured is kept whatever comes
            print(f"{args.what}: measured {found[0].what}, {found[0].case}", file=sys.stderr)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {_first_line(error)}", file=sys.stderr)
        return 2
    print(table(rows, summary["peaks"]))
    for goal in summary["goals"]:
        measured = "" if goal["measured"] is None else f" ({goal['measured']:.3g})"
        print(f"{goal['goal']}: {goal['verdict']}{measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
