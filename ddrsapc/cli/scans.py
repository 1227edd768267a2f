"""`ddrsapc models` and `score`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import ddrsapc
from ddrsapc.ct import CTError, Volume, read_mask, read_volume
from ddrsapc.ct.volume import check_axial
from ddrsapc.files import write_atomically
from ddrsapc.profile import count_parameters
from ddrsapc.scoring import PRESETS, CalciumScore, TubeVoltageWarning, VesselScore, score_volume

__all__ = ["models", "score", "scored"]


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
@click.option("--series", metavar="UID", help="Which DICOM series, where SCAN is a folder of several.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="literature",
    show_default=True,
    help="Least size of a calcification, by vendor.",
)
@click.option("--min-area", type=float, metavar="MM2", help="Least area of a calcification, instead of a preset.")
@click.option("--threshold", type=float, default=130.0, show_default=True, metavar="HU", help="Least HU of calcium.")
@click.option("--mass-factor", type=float, metavar="C", help="In mg/(ml HU); else the DICOM file's, or no mass.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(
    *,
    scan: Path,
    mask: Path,
    output: Path | None,
    series: str | None,
    preset: str,
    min_area: float | None,
    threshold: float,
    mass_factor: float | None,
    as_json: bool,
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
    volume = read_volume(scan, series=series)
    result = scored(
        volume,
        read_mask(mask, volume),
        threshold=threshold,
        min_area=min_area,
        preset=preset,
        mass_factor=volume.meta.mass_factor if mass_factor is None else mass_factor,
    )
    text = json.dumps(result.to_dict(), indent=2)
    if output is not None:
        write_atomically(output, (text + "\n").encode())
    click.echo(text if as_json else _table(result))


def scored(volume: Volume, labels: NDArray[np.uint8], **options: Any) -> CalciumScore:
    """`score_volume` of a scan that was read; its warnings are lines on stderr."""
    if volume.spacing is None:
        raise CTError(f"{volume.meta.files[0]}: has no spacing, so nothing in it can be measured")
    check_axial(volume)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TubeVoltageWarning)
        score = score_volume(
            volume.hu, labels, volume.spacing, slice_positions=volume.slice_positions, kvp=volume.meta.kvp, **options
        )
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)
    return score


def _table(result: CalciumScore) -> str:
    rows = [("", "Agatston", "volume mm3", "mass mg")]
    parts: list[tuple[str, VesselScore | CalciumScore]] = [*result.vessels.items(), ("all", result)]
    for name, part in parts:
        mass = "-" if part.mass_mg is None else f"{part.mass_mg:.1f}"
        rows.append((name, f"{part.agatston:.1f}", f"{part.volume_mm3:.1f}", mass))
    lines = [f"{name:<10}{agatston:>12}{volume:>12}{mass:>10}" for name, agatston, volume, mass in rows]
    return "\n".join([*lines, f"{result.category}, CAC-DRS {result.cac_drs}, {len(result.lesions)} lesion(s)"])
