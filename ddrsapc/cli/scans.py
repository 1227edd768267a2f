"""`ddrsapc models` and `score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

import ddrsapc
from ddrsapc.cli.options import ReadOptions, ScoreOptions, read_options, score_options
from ddrsapc.ct import read_mask
from ddrsapc.files import write_atomically
from ddrsapc.profile import count_parameters
from ddrsapc.scoring import RESEARCH_ONLY, CalciumScore, VesselScore

__all__ = ["models", "score"]


@click.command(short_help="List the networks and pretrained weights.")
@click.argument("pattern", default="")
@click.option("--pretrained", is_flag=True, help="List the pretrained weights instead, as arch.tag.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List the networks whose names match PATTERN, a glob such as "ddr*", with their parameters.

    \b
      ddrsapc models
      ddrsapc models "ddr_sapc*" --pretrained
    """
    names = ddrsapc.list_models(pattern, pretrained=pretrained)
    rows: list[dict[str, Any]] = []
    for name in names:
        with torch.device("meta"):
            network = ddrsapc.create_model(name.partition(".")[0])
        rows.append({"name": name, "parameters": count_parameters(network)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<32} {row['parameters'] / 1e6:8.2f} M parameters")
    if not rows:
        click.echo("no weights are listed" if pretrained and not pattern else f"nothing matches {pattern!r}")


@click.command(short_help="Score the calcium of a labelled scan.")
@click.argument("scan", type=click.Path(path_type=Path))
@click.argument("mask", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the score to this JSON file as well.")
@read_options
@score_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(
    *,
    scan: Path,
    mask: Path,
    output: Path | None,
    series: str | None,
    spacing: tuple[float, float, float] | None,
    png_window: tuple[float, float] | None,
    as_json: bool,
    **scoring: Any,
) -> None:
    """Score the calcium of SCAN (a DICOM folder, NIfTI, MHA or NRRD) where MASK has labels.

    MASK is in the scan's geometry: NIfTI, MHA, NRRD or DICOM SEG, with 1 LAD (and LMT), 2 LCX, 3 RCA. Agatston, volume
    and, with a calibration, mass: by vessel and in all, with risk category and CAC-DRS. Slices are as far apart as
    their positions are, whatever their thickness.

    \b
      ddrsapc score scan/ mask.nii.gz
      ddrsapc score scan.nii.gz mask.nii.gz --preset canon -o score.json

    For research only; not a medical device.
    """
    if output is not None and output.suffix != ".json":
        raise click.UsageError(f"{output} is to end in .json")
    if output is not None and not output.parent.is_dir():
        raise click.UsageError(f"the folder {output.parent} does not exist; make it first")
    volume = ReadOptions(series, spacing, png_window).read(scan)
    result, remarks = ScoreOptions(**scoring).score(volume, read_mask(mask, volume))
    for remark in remarks:
        click.echo(f"warning: {remark}", err=True)
    text = json.dumps(result.to_dict(), indent=2)
    if output is not None:
        write_atomically(output, (text + "\n").encode())
    click.echo(text if as_json else _table(result))


def _table(result: CalciumScore) -> str:
    rows = [("", "Agatston", "volume mm3", "mass mg")]
    parts: list[tuple[str, VesselScore | CalciumScore]] = [*result.vessels.items(), ("all", result)]
    for name, part in parts:
        mass = "-" if part.mass_mg is None else f"{part.mass_mg:.1f}"
        rows.append((name, f"{part.agatston:.1f}", f"{part.volume_mm3:.1f}", mass))
    lines = [f"{name:<10}{agatston:>12}{volume:>12}{mass:>10}" for name, agatston, volume, mass in rows]
    lines.append(f"{result.category}, CAC-DRS {result.cac_drs}, {len(result.lesions)} lesion(s)")
    return "\n".join([*lines, RESEARCH_ONLY])
