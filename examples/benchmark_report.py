"""What `examples/benchmark.py` makes of its measurements: speed-ups, goals, the table, the files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmark_kernels import OHEM
from benchmark_measuring import Row
from matplotlib.figure import Figure

from ddrsapc.files import write_atomically


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """The rows with their speed-up over eager, where their error is allowed."""
    eager = {(row.what, row.case, row.phase): row.median_ms for row in rows if row.variant == "eager"}
    found = []
    for row in rows:
        base, right = eager.get((row.what, row.case, row.phase)), row.error is not None and row.error <= 1
        found.append(replace(row, speedup=base / row.median_ms if base and row.median_ms and right else None))
    return found


@dataclass(frozen=True)
class Goal:
    """What our variant is to reach."""

    text: str
    what: str
    phase: str
    others: tuple[str, ...]
    """Variants that a ratio is of; none: slices per second."""
    least: float
    device: str = "cuda"
    case: str = ""
    """What the case begins with."""
    figure: str = "median_ms"


USUAL = "sort and index"
TRAINING = "batch 4, 512 x 512, bfloat16"
INFERENCE = "batch 16, 512 x 512, float16"
GOALS = (
    Goal("OHEM, forward + backward: 5 times as fast as eager", OHEM, "both", ("eager",), 5),
    Goal("OHEM, forward + backward: a tenth of eager's memory", OHEM, "both", ("eager",), 10, figure="extra_mb"),
    Goal("upsample_add_act, backward: 3 times as fast as eager", "upsample_add_act", "backward", ("eager",), 3),
    Goal("training: 1.5 times as fast as eager", "ddr_sapc_u", "step", ("eager channels_last",), 1.5, case=TRAINING),
    Goal("training: as fast as compiled", "ddr_sapc_u", "step", ("compile", "compile max-autotune"), 1, case=TRAINING),
    Goal("inference on an H100: 1,000 slices/s", "ddr_sapc_u", "forward", (), 1000, case=INFERENCE),
    Goal("OHEM on a CPU, forward + backward: 3 times as fast as usual", OHEM, "both", (USUAL,), 3, device="cpu"),
)


def judged(goal: Goal, rows: Sequence[Row], device: str) -> dict[str, Any]:
    """A goal with the least that was measured for it; nothing is, where the results are wrong."""
    rows = [row for row in rows if (row.what, row.phase) == (goal.what, goal.phase) and row.case.startswith(goal.case)]
    values: list[float] = []
    for own in rows if device == goal.device else ():
        figure = getattr(own, goal.figure)
        if own.variant != "ours" or not figure:
            continue
        others = [getattr(row, goal.figure) for row in rows if row.case == own.case and row.variant in goal.others]
        ratios = [other / figure for other in others if other is not None]
        if not goal.others:
            ratios = [1e3 * int(re.sub(r"batch (\d+).*", r"\1", own.case)) / figure]
        values += [ratio if own.error is not None and own.error <= 1 else 0.0 for ratio in ratios]
    value = min(values, default=None)
    verdict = "not measured" if value is None else "met" if value >= goal.least else "not met"
    return {"goal": goal.text, "measured": value, "verdict": verdict}


def table(rows: Sequence[Row], peaks: Mapping[str, float]) -> str:
    """The rows as text, with the shares of a copy's bandwidth and of a matrix product's FLOP/s."""
    lines = []
    case = None
    for row in rows:
        if (row.what, row.case) != case:
            case = row.what, row.case
            lines += ["", f"{row.what}: {row.case}"]
            heads = ("ms", "20-80 %", "MB", "GB/s", "of copy", "TFLOP/s", "of matmul", "error", "speed-up")
            lines.append(f"{'':<22}{'':<9}" + "".join(f"{head:>{w}}" for head, w in zip(heads, WIDTHS, strict=True)))
        if row.failed is not None:
            lines.append(f"{row.variant:<22}failed: {row.failed}")
            continue
        cells = (
            _number(row.median_ms, ".3f"),
            f"{row.p20_ms:.3f}-{row.p80_ms:.3f}",
            _number(row.extra_mb, ".1f"),
            _number(row.gb_per_s, ".0f"),
            _number(row.gb_per_s and row.gb_per_s / peaks["copy_gb_per_s"], ".0%"),
            _number(row.tflop_per_s, ".2f"),
            _number(row.tflop_per_s and row.tflop_per_s / peaks["matmul_tflop_per_s"], ".0%"),
            _number(row.error, ".2g"),
            _number(row.speedup, ".2f"),
        )
        lines.append(
            f"{row.variant:<22}{row.phase:<9}" + "".join(f"{c:>{w}}" for c, w in zip(cells, WIDTHS, strict=True))
        )
    return "\n".join(lines)


WIDTHS = (10, 18, 9, 8, 8, 9, 10, 8, 9)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def draw(rows: Sequence[Row]) -> Figure:
    """The times of the last phase of each variant, a panel for each case; red: the results are wrong."""
    panels: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row.median_ms is not None:
            panels.setdefault((row.what, row.case), {})[row.variant] = row  # the last phase is the whole
    figure = Figure(figsize=(9, 1 + 2 * len(panels)), layout="constrained")
    for axes, ((what, case), bars) in zip(
        figure.subplots(max(len(panels), 1), squeeze=False).flat, panels.items(), strict=False
    ):
        for place, row in enumerate(bars.values()):
            assert row.median_ms is not None
            assert row.p20_ms is not None
            assert row.p80_ms is not None
            spread = [[row.median_ms - row.p20_ms], [row.p80_ms - row.median_ms]]
            right = row.error is not None and row.error <= 1
            axes.barh(place, row.median_ms, xerr=spread, color="tab:blue" if right else "tab:red", capsize=3)
            shown = f" {row.median_ms:.3g} ms" + ("" if row.speedup is None else f", {row.speedup:.2f}x")
            axes.text(row.p80_ms, place, shown, va="center", fontsize="small")
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(row.p80_ms or 0 for row in bars.values()))
        axes.set_title(f"{what}, {row.phase}: {case}", fontsize="medium", loc="left")
        axes.set_xlabel("ms, median and 20-80 %", fontsize="small")
    return figure


def write(output: Path, summary: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """A CSV, a JSON and a plot, by the path of any of them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_atomically(output.with_suffix(".csv"), text.getvalue().encode())
    content = json.dumps({**summary, "rows": [asdict(row) for row in rows]}, indent=1, allow_nan=False)
    write_atomically(output.with_suffix(".json"), f"{content}\n".encode())
    picture = io.BytesIO()
    draw(rows).savefig(picture, format="png", dpi=100)
    write_atomically(output.with_suffix(".png"), picture.getvalue())
