"""Times beside plain PyTorch, on small sizes on a CPU."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddrsapc.kernels import reference

pytest.importorskip("matplotlib", reason="the extra train is not installed")

FAST = ["--seconds", "0", "--device", "cpu", "--size"]
NETWORK = ["--model", "ddrnet_23_slim", "--width", "4", "--batch-size", "2", *FAST, "64"]


@pytest.fixture(scope="module")
def measuring(example):
    module = example("benchmark_measuring")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WARM_UP", 1)
        patch.setattr(module, "LEAST", 2)
        yield module


@pytest.fixture(scope="module")
def report(example, measuring):
    return example("benchmark_report")


@pytest.fixture(scope="module")
def benchmark(example, report):
    return example("benchmark")


@pytest.fixture
def contiguous(measuring, monkeypatch):
    """All variants in one layout: PyTorch's gradients of tiny channels-last maps on a CPU can crash."""
    for name, variant in measuring.VARIANTS.items():
        monkeypatch.setitem(measuring.VARIANTS, name, replace(variant, layout=torch.contiguous_format))


@pytest.fixture
def run(benchmark, tmp_path):
    """`run(arguments)`: what the JSON says, and its rows by what, variant and phase."""

    def run(*arguments):
        assert benchmark.main([*arguments, "-o", str(tmp_path / "new" / "found.json")]) == 0
        found = json.loads((tmp_path / "new" / "found.json").read_text())
        return found, {(row["what"], row["variant"], row["phase"]): row for row in found["rows"]}

    return run


def test_kernels(run, tmp_path, capsys):
    found, rows = run("kernels", "--batch-size", "1", *FAST, "32")
    assert {what for what, *_ in rows} == set(reference.__all__)
    assert {variant for _, variant, _ in rows} == {"eager", "eager channels_last", "ours", "sort and index"}
    for (_, variant, _), row in rows.items():
        assert row["error"] <= 1
        assert row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["gb_per_s"] > 0
        assert row["extra_mb"] is row["tflop_per_s"] is None
        assert row["speedup"] == 1 if variant == "eager" else row["speedup"] > 0
    assert {phase for what, _, phase in rows if what == "dual_gate"} == {"forward", "backward", "both"}
    assert {phase for what, _, phase in rows if what == "upsample_argmax"} == {"forward"}
    assert found["hardware"]["device"] == "cpu"
    assert found["hardware"]["kernels"]["cpu"] == "torch"
    assert min(found["peaks"].values()) > 0
    verdicts = {goal["goal"]: goal["verdict"] for goal in found["goals"]}
    assert verdicts.pop("OHEM on a CPU, forward + backward: 3 times as fast as usual") in {"met", "not met"}
    assert set(verdicts.values()) == {"not measured"}

    with (tmp_path / "new" / "found.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["median_ms"]) for row in written] == [row["median_ms"] for row in found["rows"]]
    assert (tmp_path / "new" / "found.png").read_bytes()[:4] == b"\x89PNG"
    assert "dual_gate: 1x128x8x8 + 1x1x8x8 + 1x1x4x4, float32" in capsys.readouterr().out


def test_no_speedup_of_wrong_results(benchmark, run, monkeypatch, capsys):
    def wrong_gradient(*args, **options):
        loss = reference.ohem_cross_entropy(*args, **options)
        return 1.001 * loss - 0.001 * loss.detach()

    monkeypatch.setattr(benchmark.kernels, "dual_gate", lambda *args: 1.001 * reference.dual_gate(*args))
    monkeypatch.setattr(benchmark.kernels, "upsample_argmax", lambda *args: reference.upsample_argmax(*args).flip(1))
    monkeypatch.setattr(benchmark.kernels, "ohem_cross_entropy", wrong_gradient)
    found, rows = run("kernels", "--variants", "ours", "--batch-size", "1", *FAST, "32")
    wrong = {(what, phase) for (what, _, phase), row in rows.items() if row["error"] > 1}
    ohem = {("ohem_cross_entropy", "backward"), ("ohem_cross_entropy", "both")}
    assert wrong == ohem | {("dual_gate", p) for p in ("forward", "backward", "both")} | {
        ("upsample_argmax", "forward")
    }
    for (what, variant, phase), row in rows.items():
        assert (row["speedup"] is None) == (variant == "ours" and (what, phase) in wrong)
    assert found["goals"][-1] == {**found["goals"][-1], "measured": 0, "verdict": "not met"}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ours ")]
    assert [line.endswith(" -") for line in lines].count(True) == 2 * 2 + 3 + 2


@pytest.mark.parametrize("what", ["train", "infer"])
def test_networks(what, run, contiguous, monkeypatch):
    from ddrsapc.models import ddrnet  # noqa: PLC0415

    def by_environment(x, terms, *, relu=False):
        factor = 1 if os.environ.get("DDRSAPC_KERNELS") == "torch" else 1.5
        return reference.upsample_add_act(x, [factor * term for term in terms], relu=relu)

    total = {"train": "step", "infer": "forward"}[what]
    found, rows = run(what, *NETWORK, "--variants", "ours")
    right = {variant: rows["ddrnet_23_slim", variant, total] for variant in found["variants"]}
    assert list(right) == ["eager", "ours"]
    assert all(row["error"] <= 1 and row["speedup"] > 0 and row["tflop_per_s"] > 0 for row in right.values())
    assert right["ours"]["case"] == "batch 2, 64 x 64, float32"
    if what == "train":
        assert {phase for *_, phase in rows} == {"forward", "backward", "update", "step"}
    monkeypatch.setattr(ddrnet, "upsample_add_act", by_environment)
    monkeypatch.delenv("DDRSAPC_KERNELS", raising=False)
    _, rows = run(what, *NETWORK, "--variants", "ours")
    assert rows["ddrnet_23_slim", "eager", total]["speedup"] == 1
    assert rows["ddrnet_23_slim", "ours", total]["error"] > 1
    assert rows["ddrnet_23_slim", "ours", total]["speedup"] is None


def test_what_cannot_be_compiled_is_told(run, contiguous, monkeypatch, capsys):
    asked = []

    def compiled(function, *, mode, dynamic):
        asked.append((mode, dynamic))
        if mode == "max-autotune":
            raise RuntimeError("no compiler\nand more")
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    variants = ["--variants", "compile", "compile max-autotune", "ours compiled"]
    for arguments in (["kernels", "--kernels", "dual_gate", "--batch-size", "1", *FAST, "32"], ["train", *NETWORK]):
        found, _ = run(*arguments, *variants)
        failed = [row for row in found["rows"] if row["failed"]]
        assert [(row["variant"], row["failed"]) for row in failed] == [("compile max-autotune", "no compiler")]
        assert {row["variant"] for row in found["rows"] if row["speedup"]} == {"eager", "compile", "ours compiled"}
    assert asked == 2 * [("default", False), ("max-autotune", False), ("default", False)]
    assert "compile max-autotune  failed: no compiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernels", *FAST, "40"], "--size a multiple of 32"),
        (["infer", *FAST, "32", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["train", *FAST, "32", "--dtype", "float16"], "train takes --dtype float32 or bfloat16"),
        (["infer", *FAST, "32", "--model", "nothing"], "unknown model 'nothing'"),
        (["kernels", "--device", "meta"], "--device must be cpu or cuda, got meta"),
        (["kernels", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_measured(benchmark, arguments, message, tmp_path, capsys):
    assert benchmark.main([*arguments, "-o", str(tmp_path / "found.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_errors_over_what_is_allowed(measuring):
    truth = torch.tensor([1.0, 100.0], dtype=torch.float64)
    assert measuring.excess(truth.float(), truth) == 0
    assert measuring.excess(torch.tensor([1.0, 100.001]), truth) == pytest.approx(0.5, rel=0.02)
    assert measuring.excess(torch.tensor([1.001, 100.0]), truth) == pytest.approx(0.99, rel=0.02)
    assert measuring.excess(torch.tensor([1.001, 100.0]), truth, gradient=True) == pytest.approx(0.099, rel=0.02)
    assert measuring.excess(torch.tensor([1.0, 101.0], dtype=torch.bfloat16), truth) > 1.2
    assert measuring.excess(torch.tensor([1.0, 100.5], dtype=torch.bfloat16), truth) <= 1
    assert measuring.excess(torch.tensor([1.0, torch.nan]), truth) == measuring.LARGE


def test_runs_take_turns(measuring):
    order = []
    runs = {name: {part: lambda n=name, p=part: order.append(n + p) for part in "xy"} for name in "ab"}
    times = measuring.Clock(torch.device("cpu"), cold=True).rounds(runs, 0)
    assert order == 2 * ["ax", "ay", "bx", "by"]
    assert {name: ms.shape for name, ms in times.items()} == {"a": (2, 2), "b": (2, 2)}
    rows = measuring.rows_of(measuring.Row("w", "c", "v"), "both", runs["a"], np.array([[1, 10], [3, 10], [2, 10]]))
    assert [(row.phase, row.median_ms) for row in rows] == [("x", 2), ("y", 10), ("both", 12)]
    assert rows[0].p20_ms == pytest.approx(1.4)


def test_goals(report, measuring):
    goal = next(goal for goal in report.GOALS if goal.text.startswith("OHEM, forward + backward: 5"))

    def row(variant, ms, error=0.5, case="a"):
        return measuring.Row(goal.what, case, variant, goal.phase, median_ms=ms, error=error)

    rows = [row("eager", 6.0, error=2.0), row("ours", 1.0), row("compile", 0.5)]
    assert report.judged(goal, rows, "cuda") == {"goal": goal.text, "measured": 6, "verdict": "met"}
    assert report.judged(goal, rows, "cpu")["verdict"] == "not measured"
    rows += [row("eager", 4.0, case="b"), row("ours", 1.0, case="b")]
    assert report.judged(goal, rows, "cuda") == {"goal": goal.text, "measured": 4, "verdict": "not met"}
    assert report.judged(goal, [row("eager", 9.0), row("ours", 1.0, error=1.1)], "cuda")["measured"] == 0
    slices = next(goal for goal in report.GOALS if "slices/s" in goal.text)
    rows = [measuring.Row("ddr_sapc_u", slices.case, "ours", "forward", median_ms=8.0, error=0.1)]
    assert report.judged(slices, rows, "cuda") == {"goal": slices.text, "measured": 2000, "verdict": "met"}


def test_wrong_results_are_drawn_red(report, measuring):
    times = {"median_ms": 2.0, "p20_ms": 1.0, "p80_ms": 3.0}
    rows = [measuring.Row("w", "c", name, "both", **times, error=error) for name, error in (("a", 0.1), ("b", 2.0))]
    (axes,) = report.draw(rows).get_axes()
    assert [bar.get_width() for bar in axes.patches] == [2, 2]
    red = [bar.get_facecolor()[0] > bar.get_facecolor()[2] for bar in axes.patches]
    assert red == [False, True]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
