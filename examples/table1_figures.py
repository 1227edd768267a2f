"""The table, the plots and the six panels of what `examples/table1.py` wrote under one budget.

    python examples/table1_figures.py outputs/table1 -o outputs/figures

table.md, speed.png (foreground IoU and time), agreement.png (Agatston scores) and panels.png, which is the paper's
Figure 4: input, truth and four networks whose weights lie beside their JSON. Needs the extras:
pip install "ddrsapc[phantom,ct,train]"
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from ddrsapc.ct import Volume, VolumeMeta
from ddrsapc.files import write_atomically
from ddrsapc.inference import predict
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.phantom import PhantomDataset, PhantomParameters, draw_case
from ddrsapc.report.overlay import PALETTE, crop_around, panel
from ddrsapc.scoring import VESSELS
from ddrsapc.training import CheckpointError, load_trained

NAMES = {
    "unet": "U-Net",
    "unetpp": "UNet++",
    "transunet": "TransUNet",
    "ddrnet_23_slim": "DDRNet-23-slim",
    "ddr_sapc": "DDR-SAPC",
    "ddr_sapc_u_s": "DDR-SAPC-U-s",
    "ddr_sapc_u": "DDR-SAPC-U",
    "ddr_sapc_u_no_dam": "DDR-SAPC-U, no DAM",
    "ddr_sapc_u_no_pbb": "DDR-SAPC-U, no PBB",
    "ddr_sapc_u_no_skips": "DDR-SAPC-U, no skips",
}
"""Of the rows, in their order."""
IN_PANELS = ("unet", "unetpp", "transunet", "ddr_sapc_u")
WRITTEN = {"row", "options", "weights", "recipe", "seed", "evaluation", "parameters", "macs", "speed", "hardware"}
"""What a result has, beside its splits."""
SPLITS = {"test": "tab:blue", "shifted": "tab:orange"}
PARAMETERS = PhantomParameters()
WINDOW = (-160.0, 440.0)
"""HU from black to white in the panels."""
SIDE = 400
"""Pixels of a panel, about."""

Result = Mapping[str, Any]


def read_results(folder: Path) -> dict[str, Result]:
    """The results in a folder by name, in the order of `NAMES`.

    Raises:
        ValueError: if there are none, or they are not of one budget.
    """
    found: dict[str, tuple[Path, Result]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            result = None
        if not (isinstance(result, dict) and result.keys() >= WRITTEN | SPLITS.keys()):
            raise ValueError(f"{path} is not of table1.py; move it elsewhere")
        _check_budget(path, result, list(found.values()))
        name = str(NAMES.get(result["row"], result["row"]))
        name += ", width {width}".format(**result["options"]) if "width" in result["options"] else ""
        name += "" if result["weights"] is None else ", weights given"
        if name in found and result["seed"] != found[name][1]["seed"]:
            name += f", seed {result['seed']}"
        if name in found:
            raise ValueError(f"{path} and {found[name][0]} are of the same network; move one elsewhere")
        found[name] = path, {**result, "file": path}
    if not found:
        raise ValueError(f"{folder} has no JSON of table1.py")
    order = list(NAMES)
    rank = {name: (order.index(r["row"]) if r["row"] in NAMES else len(order), name) for name, (_, r) in found.items()}
    return {name: found[name][1] for name in sorted(found, key=rank.__getitem__)}


def _check_budget(path: Path, result: Result, others: Sequence[tuple[Path, Result]]) -> None:
    """Compare with the results before: all are evaluated alike, and those that were trained, trained alike."""
    for other_path, other in others:
        both = [{**(one["recipe"] or {}), "evaluation": one["evaluation"]} for one in (other, result)]
        keys = set(both[0]) & set(both[1]) - {"seed", "workers"}
        for key in sorted(keys):
            if both[0][key] != both[1][key]:
                raise ValueError(
                    f"{path} was made with {key} {both[1][key]}, {other_path.name} with {both[0][key]}; "
                    "compare one budget at a time, in a folder of its own"
                )


def table(results: Mapping[str, Result]) -> str:
    """All numbers in Markdown, a table per split."""
    head = ["network", "none", *VESSELS.values(), "mIoU", "foreground mIoU", "ICC", "bias", "95 % limits", "kappa"]
    head += ["sensitivity", "false per scan", "params", "MACs", "ms per slice"]
    first = next(iter(results.values()))
    lines = []
    for split in SPLITS:
        counts = "{slices} slices and {scans} scans of {size} x {size} pixels".format(**first["evaluation"])
        lines += [f"**{split}**: {counts}", "", f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for name, result in results.items():
            slices, scans = result[split]["slices"], result[split]["scans"]
            agreement, lesions = scans["agatston"], scans["lesions"]
            difference = agreement["differences"]
            limits = "{} to {}".format(*(_number(difference[key], 0) for key in ("lower", "upper")))
            ious = [*slices["iou"], slices["mean_iou"], slices["foreground_mean_iou"]]
            cells = [name, *(_number(None if iou is None else 100 * iou, 2) for iou in ious)]
            cells += [_number(agreement["icc"], 3), _number(difference["bias"], 0), limits]
            cells += [_number(agreement["kappa"], 3), _number(lesions["sensitivity"], 3)]
            cells += [_number(lesions["false_per_scan"], 2), f"{result['parameters'] / 1e6:.2f} M"]
            cells += [f"{result['macs'] / 1e9:.2f} G", f"{result['speed']['ms_per_slice']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    speed, trained = first["speed"], [result["recipe"] for result in results.values() if result["recipe"]]
    lines.append(
        "IoU in %, of slices; ICC(2,1), bias (predicted - true), limits and kappa of the scans' Agatston scores; "
        f"lesions of the scans. MACs and time of a slice of {speed['size']} x {speed['size']} pixels."
    )
    if trained:
        lines.append(
            "Trained with the recipe {name}: {steps} steps of {batch_size} slices of {size} x {size} pixels".format(
                **trained[0]
            )
            + (f", crops of {trained[0]['crop']}." if trained[0]["crop"] else ".")
        )
    machines = {tuple(result["hardware"][key] for key in ("device", "cpu", "threads")) for result in results.values()}
    lines.append("Time on: " + "; ".join("{} ({}, {} threads)".format(*machine) for machine in sorted(machines)) + ".")
    return "\n".join(lines) + "\n"


def draw_speed(results: Mapping[str, Result]) -> Figure:
    """Foreground IoU over the time of a slice: filled on test, hollow on shifted."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    handles = []
    for i, (name, result) in enumerate(results.items()):
        colour, marker, ms = f"C{i % 10}", "osD^vP*Xph"[i % 10], result["speed"]["ms_per_slice"]
        ious = [100 * (result[split]["slices"]["foreground_mean_iou"] or 0.0) for split in SPLITS]
        axes.plot([ms, ms], ious, color=colour, lw=1, alpha=0.6)
        for iou, fill in zip(ious, (colour, "white"), strict=True):
            axes.plot(ms, iou, marker, color=colour, mfc=fill, ms=9, mew=1.5, ls="none")
        handles.append(Line2D([], [], marker=marker, color=colour, ls="none", ms=9, label=name))
    for label, fill in zip(SPLITS, ("grey", "white"), strict=True):
        handles.append(Line2D([], [], marker="o", color="grey", mfc=fill, ls="none", ms=9, label=label))
    times = [result["speed"]["ms_per_slice"] for result in results.values()]
    axes.set(xscale="log", xlim=(min(times) / 2, 2 * max(times)), xlabel="ms per slice", ylabel="foreground mIoU, %")
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


def draw_agreement(results: Mapping[str, Result]) -> Figure:
    """True and predicted Agatston scores of every network, and their differences."""
    columns = min(4, len(results))
    blocks = -(-len(results) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.4, 6.2 * blocks + 0.4), layout="constrained")
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    scores = {
        (name, split): np.array(
            [[scan["agatston"][key] for key in ("true", "predicted")] for scan in result[split]["scans"]["scans"]]
        ).reshape(-1, 2)  # (n, 2)
        for name, result in results.items()
        for split in SPLITS
    }
    highest = max((pairs.max(initial=10.0) for pairs in scores.values()), default=10.0)
    farthest = max((np.abs(np.diff(pairs)).max(initial=10.0) for pairs in scores.values()), default=10.0)
    for i, (name, result) in enumerate(results.items()):
        scatter, differences = grid[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        lines = []
        for split, colour in SPLITS.items():
            true, predicted = scores[name, split].T  # (n,), (n,)
            agreement = result[split]["scans"]["agatston"]
            scatter.plot(true, predicted, "o", color=colour, alpha=0.6, ms=4)
            differences.plot((true + predicted) / 2, predicted - true, "o", color=colour, alpha=0.6, ms=4)
            lines.append(f"{split}: ICC {_number(agreement['icc'], 2)}, kappa {_number(agreement['kappa'], 2)}")
            for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
                if agreement["differences"][key] is not None:
                    differences.axhline(agreement["differences"][key], color=colour, ls=style, lw=1)
        scatter.axline((0, 0), (highest, highest), color="black", lw=0.8)
        scatter.set_title(f"{name}\n" + "\n".join(lines), fontsize=9)
        scatter.set(xlabel="true Agatston score", ylabel="predicted")
        differences.set(xlabel="mean of true and predicted", ylabel="predicted - true")
        differences.set_yscale("symlog", linthresh=10)
        differences.set_ylim(-3 * farthest, 3 * farthest)
        for axes in (scatter, differences):
            axes.axis("on")
            axes.grid(alpha=0.3)
            _log1p(axes, "x", highest)
        _log1p(scatter, "y", highest)
    handles = [Line2D([], [], marker="o", ls="none", color=colour, label=split) for split, colour in SPLITS.items()]
    handles += [Line2D([], [], color="grey", label="bias"), Line2D([], [], color="grey", ls="--", label="95 % limits")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_panels(results: Mapping[str, Result], *, items: Sequence[int] | None = None, count: int = 4) -> Figure | None:
    """Slices of the test: input, truth and up to four networks; None if there are weights of none, see `_weights`.

    The slices are those with most vessels, then with most calcium, whatever is predicted; or `items`.
    """
    there = [name for name, result in results.items() if _weights(result).is_file()]
    there.sort(key=lambda name: results[name]["row"] not in IN_PANELS)  # stable
    shown = [name for name in results if name in there[:4]]
    if not shown:
        return None
    evaluation = results[shown[0]]["evaluation"]
    size, seed = evaluation["size"], evaluation["seed"]
    data = PhantomDataset("test", size, evaluation["slices"], seed, parameters=PARAMETERS)
    if items is None:
        labels = [data[i].label for i in range(min(len(data), 100))]
        worth = [(len(label.unique()), int((label > 0).sum())) for label in labels]
        items = sorted(range(len(worth)), key=worth.__getitem__, reverse=True)[:count]
    networks = {name: load_trained(_weights(results[name])) for name in shown}

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(2.5 * (2 + len(shown)), 2.5 * len(items) + 0.9), layout=layout)
    grid = figure.subplots(len(items), 2 + len(shown), squeeze=False)
    for axes, title in zip(grid[0], ["Input", "Truth", *shown], strict=True):
        axes.set_title(textwrap.fill(title, 24), fontsize=11)
    for row, item in zip(grid, items, strict=True):
        hu, truth, name = data[item]
        volume = Volume(hu.numpy()[None], (1.0, 1.0, 1.0), np.eye(4), np.zeros(1), VolumeMeta("", ()))
        found = {key: torch.from_numpy(predict(network, volume)[0]) for key, network in networks.items()}
        pixel_mm = draw_case(seed, item, split="test", size=size, parameters=PARAMETERS).placement.pixel_mm
        least, margin = (round(mm / pixel_mm) for mm in (60, 15))
        rows, columns, zoom = crop_around(truth > 0, SIDE, least=least, margin=margin)
        pictures = {"Input": None, "Truth": truth, **found}
        for axes, (title, labels_shown) in zip(row, pictures.items(), strict=True):
            part = None if labels_shown is None else labels_shown[rows, columns]
            axes.imshow(panel(hu[rows, columns], part, zoom, window=WINDOW, smooth=True))
            axes.set(xticks=[], yticks=[])
            if title in found:
                confusion = ConfusionMatrix(len(VESSELS) + 1)
                confusion.update(found[title], truth)
                outside = int((found[title] > 0).sum()) - int((found[title][rows, columns] > 0).sum())
                text = f"IoU {100 * confusion.scores().foreground_mean_iou:.0f} %"
                axes.set_xlabel(text + (f", {outside} px elsewhere" if outside else ""), fontsize=9, labelpad=2)
        row[0].set_ylabel(f"{name}, {(columns.stop - columns.start) * pixel_mm:.0f} mm", fontsize=8)
    colours = [Patch(color=PALETTE[label] / 255, label=vessel) for label, vessel in VESSELS.items()]
    title = "IoU: mean over the vessels in the slice, all of which counts. Window {:g} to {:g} HU".format(*WINDOW)
    figure.legend(handles=colours, title=title, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _weights(result: Result) -> Path:
    """Beside the JSON, where the command trained; else those that it was given."""
    beside = Path(result["file"]).with_suffix(".safetensors")
    given = result["weights"]
    return Path(given) if given and not beside.is_file() else beside


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _log1p(axes: Any, which: str, highest: float) -> None:
    """A scale on which 0 has a place, and what is large too."""
    ticks = [tick for tick in (0, 1, 10, 100, 1000, 10_000, 100_000) if tick <= 2 * highest]
    getattr(axes, f"set_{which}scale")("function", functions=(np.log1p, np.expm1))
    labels = [f"{tick // 1000}k" if tick >= 1000 else str(tick) for tick in ticks]
    axes.set(**{f"{which}ticks": ticks, f"{which}ticklabels": labels, f"{which}lim": (-0.3, 1.5 * highest)})


def main(argv: Sequence[str] | None = None) -> int:
    """Draw everything; one line on stderr and 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="folder with the JSON files of one budget")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for table and pictures")
    parser.add_argument(
        "--items", type=int, nargs="+", metavar="N", help="slices of the test to show (those with most)"
    )
    args = parser.parse_args(argv)
    try:
        results = read_results(args.results)
        args.output.mkdir(parents=True, exist_ok=True)
        write_atomically(args.output / "table.md", table(results).encode())
        draw_speed(results).savefig(args.output / "speed.png", dpi=130)
        draw_agreement(results).savefig(args.output / "agreement.png", dpi=110)
        panels = draw_panels(results, items=args.items)
        if panels is None:
            print("no panels.png: no weights are there, beside the JSON files or where the JSON says", file=sys.stderr)
        else:
            panels.savefig(args.output / "panels.png", dpi=130)
    except (CheckpointError, IndexError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"table and pictures: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
