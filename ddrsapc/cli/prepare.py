"""`ddrsapc prepare`: CT scans with masks to arrays, before training."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ddrsapc.cli.sections import SectionedCommand, section
from ddrsapc.cli.training_data import scan_options
from ddrsapc.data import DataError, prepare_scans

__all__ = ["prepare"]

_run = section("Run")


@click.command(cls=SectionedCommand, short_help="Make arrays of CT scans and masks, once for many trainings.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DATA")
@_run("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the arrays.")
@_run("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@scan_options
def prepare(*, folder: Path, output: Path, as_json: bool, orcascore: bool, series: str | None) -> None:
    """Make arrays of the CT scans and masks in DATA, as `ddrsapc train` and `evaluate` do by themselves.

    Slices become upright; nothing is resampled. Scans that are done already are passed over, those that cannot be used
    are listed at the end. OUTPUT then is a folder to train on, or the --prepared of DATA.

    \b
      DATA/images/p01/          a DICOM series; or images/p01.nii.gz, .mha, .mhd, .nrrd
      DATA/labels/p01.nii.gz    a mask in the scan's geometry; or .dcm (DICOM SEG), .xml, .plist (COCA)

    \b
      ddrsapc prepare DATA -o outputs/prepared
      ddrsapc train outputs/prepared -o outputs/run --augment
    """
    prepared = prepare_scans(folder, output, orcascore=orcascore, series=series)
    prepared.raise_for_problems()
    if not prepared.scans:
        raise DataError(f"{folder} has no CT scans; expected DICOM folders, NIfTI, MHA, MHD or NRRD in its images/")
    about = {"output": str(output), "scans": len(prepared.scans), "new": prepared.written}
    click.echo(json.dumps(about, indent=2) if as_json else "{scans} scans in {output}, {new} new".format(**about))
