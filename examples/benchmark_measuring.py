"""How `examples/benchmark.py` measures: variants, time, memory, errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Phases = Mapping[str, Callable[[], object]]
"""The parts of a run, in order; each is timed."""

WARM_UP, LEAST, MOST = 3, 7, 500
"""Runs that are not timed, and the bounds of those that are."""
LARGE = 1e9
"""The error of what is not a number, for JSON has none for that."""
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.float16: (4e-3, 4e-3), torch.bfloat16: (2.0**-7, 1e-5)}
"""Of a kernel: of the value, and of the largest. Gradients in float32 have ten times as much."""


@dataclass(frozen=True)
class Variant:
    """A way to run the same."""

    plain: bool = True
    """Without fused kernels."""
    layout: torch.memory_format = torch.channels_last
    mode: str | None = None
    """Of torch.compile; None: not compiled."""


VARIANTS = {
    "eager": Variant(layout=torch.contiguous_format),
    "eager channels_last": Variant(),
    "compile": Variant(mode="default"),
    "compile max-autotune": Variant(mode="max-autotune"),  # with CUDA graphs
    "ours": Variant(plain=False),
    "ours compiled": Variant(plain=False, mode="default"),
}


@dataclass(frozen=True)
class Row:
    """What was measured of a phase of a variant."""

    what: str
    case: str
    variant: str
    phase: str = ""
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    extra_mb: float | None = None
    """The most memory beyond inputs and weights; on a GPU only."""
    gb_per_s: float | None = None
    """Of the bytes that a kernel must move."""
    tflop_per_s: float | None = None
    error: float | None = None
    """Over what is allowed."""
    speedup: float | None = None
    """Over eager, where the error is allowed."""
    failed: str | None = None


class Clock:
    """Times what runs on a device."""

    def __init__(self, device: torch.device, *, cold: bool) -> None:
        self.is_cuda = device.type == "cuda"
        self.cache = torch.empty(2**28, dtype=torch.uint8, device=device) if self.is_cuda and cold else None

    def run(self, phases: Phases) -> list[float]:
        """Each phase's ms."""
        self.synchronize()
        marks = []
        for phase in phases.values():
            if self.cache is not None:
                self.cache.zero_()
            begin = self._mark()
            phase()
            marks.append((begin, self._mark()))
        self.synchronize()
        return [begin.elapsed_time(end) if self.is_cuda else 1e3 * (end - begin) for begin, end in marks]

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def _mark(self) -> Any:
        if not self.is_cuda:
            return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def rounds(self, runs: Mapping[str, Phases], seconds: float) -> dict[str, NDArray[np.float64]]:
        """Each run's ms (times, phases), all in turn, for what else the machine does to slow them alike."""
        times: dict[str, list[list[float]]] = {name: [] for name in runs}
        begin, done = time.perf_counter(), 0
        while done < LEAST or (done < MOST and time.perf_counter() - begin < seconds * len(runs)):
            for name, phases in runs.items():
                times[name].append(self.run(phases))
            done += 1
        return {name: np.array(rows) for name, rows in times.items()}

    def allocated(self) -> int:
        """Bytes of the GPU's memory that are in use."""
        self.synchronize()
        return torch.cuda.memory_allocated() if self.is_cuda else 0

    def warm_up(self, phases: Phases, before: int) -> float | None:
        """Run untimed; the most memory in MB beyond what was `allocated` before, None on a CPU."""
        for _ in range(WARM_UP):
            self.run(phases)
        if not self.is_cuda:
            return None
        torch.cuda.reset_peak_memory_stats()  # compiling needs more
        for phase in phases.values():
            phase()
        return (torch.cuda.max_memory_allocated() - before) / 1e6


def peaks(device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """What the device reaches: bandwidth of a copy, FLOP/s of a matrix product."""
    n, side = (2**28, 8192) if device.type == "cuda" else (2**25, 1024)
    source, square = torch.empty(n, dtype=torch.uint8, device=device), torch.randn(side, side, device=device).to(dtype)
    target, product = torch.empty_like(source), torch.empty_like(square)
    runs = {"copy": {"": lambda: target.copy_(source)}, "matmul": {"": lambda: torch.mm(square, square, out=product)}}
    ms = {name: float(np.median(found)) for name, found in Clock(device, cold=False).rounds(runs, seconds).items()}
    return {"copy_gb_per_s": 2e-6 * n / ms["copy"], "matmul_tflop_per_s": 2e-9 * side**3 / ms["matmul"]}


def rows_of(base: Row, total: str, phases: Phases, ms: NDArray[np.float64]) -> list[Row]:
    """A row for each phase and, where there are several, one for all of them."""
    columns = dict(zip(phases, ms.T, strict=True))
    if len(columns) > 1:
        columns[total] = ms.sum(1)
    found = []
    for name, column in columns.items():
        p20, median, p80 = np.percentile(column, (20, 50, 80)).tolist()
        found.append(replace(base, phase=name, median_ms=median, p20_ms=p20, p80_ms=p80))
    return found


def excess(actual: Tensor, truth: Tensor, *, gradient: bool = False) -> float:
    """The largest error over what is allowed for it."""
    factor = 10 if gradient and actual.dtype == torch.float32 else 1
    relative, absolute = TOLERANCES[actual.dtype]
    error = (actual.double() - truth.to(actual.dtype).double()).abs()
    allowed = factor * (relative * truth.abs() + absolute * truth.abs().max().clamp(min=1e-30))
    return float((error / allowed).nan_to_num(LARGE, LARGE).clamp(max=LARGE).max().detach())
