"""`ddrsapc predict`: scans in, masks, reports and calcium scores out."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import ddrsapc
from ddrsapc.cli.device import device_of
from ddrsapc.cli.options import ReadOptions, ScoreOptions, read_options, score_options
from ddrsapc.cli.results import SCORE, Outcome, find_result, fingerprint, write_summary
from ddrsapc.cli.scan_folders import named_scans
from ddrsapc.ct import CTError, Volume, write_mask
from ddrsapc.ct.errors import needs_extra
from ddrsapc.files import lock, write_atomically
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, RegisteredName, parse_model_name
from ddrsapc.inference import predict as predict_labels
from ddrsapc.messages import shown
from ddrsapc.models import SegmentationModel
from ddrsapc.optimize import optimize_for_inference
from ddrsapc.report import write_report
from ddrsapc.scoring import RESEARCH_ONLY, VESSELS, CalciumScore

__all__ = ["predict"]

_SUFFIXES = {"dicom": ".dcm", "nifti": ".nii.gz", "nrrd": ".nrrd"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Job:
    """What is done with every scan."""

    network: SegmentationModel
    about: Mapping[str, Any]
    """The network, its weights' hash and the options: results of others are not taken for these."""
    vessels: Mapping[int, str]
    reading: ReadOptions
    scoring: ScoreOptions
    suffix: str | None
    """Of the mask; None: the scan's own format."""
    batch_size: int


@click.command(short_help="Find and score the calcium of scans.")
@click.argument("scans", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SCAN...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option(
    "--model",
    default="ddr_sapc_u",
    show_default=True,
    metavar="NAME",
    help="arch, arch.tag, hf-hub:org/name or local-dir:PATH.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="A safetensors file of weights for the model.")
@click.option("--device", help="cpu, cuda, ... (a GPU where there is one)")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Slices at once; more are faster on a GPU only.",
)
@click.option(
    "--mask",
    "suffix",
    type=click.Choice([".nii.gz", ".nrrd", ".mha", ".dcm"]),
    help="Format of the masks (the scan's own; DICOM SEG for DICOM).",
)
@read_options
@score_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    *,
    scans: tuple[Path, ...],
    output: Path,
    model: str,
    weights: Path | None,
    device: str | None,
    batch_size: int,
    suffix: str | None,
    series: str | None,
    spacing: tuple[float, float, float] | None,
    png_window: tuple[float, float] | None,
    as_json: bool,
    **scoring: Any,
) -> None:
    """Label the calcium of every SCAN (a DICOM folder, NIfTI, MHA or NRRD, or a folder of these) and score it.

    For each scan OUTPUT/NAME has the mask in the scan's geometry, report.html to open in a browser, pictures, and the
    score as JSON and CSV; a folder that is there is whole. OUTPUT/summary.csv has a row for each scan. The same command
    again goes on where it stopped: scans that are done are passed over. A scan that fails does not stop the others;
    what failed and why is listed at the end, with exit code 2.

    \b
      ddrsapc predict scan/ -o results
      ddrsapc predict scan/ -o results --weights outputs/run/best.safetensors
      ddrsapc predict scans/ -o results --model hf-hub:org/name --device cuda

    For research only; not a medical device.
    """
    if output.exists() and not output.is_dir():
        raise click.UsageError(f"{output} is a file; give a folder for the results")
    found = named_scans(scans, output)
    job = _prepare(
        model=model,
        weights=weights,
        device=device,
        suffix=suffix,
        batch_size=batch_size,
        reading=ReadOptions(series, spacing, png_window),
        scoring=ScoreOptions(**scoring),
    )
    output.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    try:
        for name, scan in found.items():
            outcomes.append(_outcome(name, scan, output, job, progress=len(found) == 1 and sys.stderr.isatty()))
            if not as_json and outcomes[-1].score is not None:
                click.echo(str(outcomes[-1]))
    except KeyboardInterrupt as error:
        raise click.Abort("the same command goes on") from error
    finally:
        if outcomes:
            write_summary(output, outcomes, job.vessels.values())
        if as_json:
            click.echo(json.dumps([outcome.to_dict() for outcome in outcomes], indent=2))
    if not as_json and any(outcome.score is not None for outcome in outcomes):
        click.echo(RESEARCH_ONLY)
    _report_failures([outcome for outcome in outcomes if outcome.score is None], len(found))


def _report_failures(failed: Sequence[Outcome], number: int) -> None:
    """End with what failed and why, if anything did."""
    if not failed:
        return
    if number == 1:
        raise click.ClickException(failed[0].error)
    names = [shown(outcome.name, 200) for outcome in failed]
    width = min(max(map(len, names)), 40)
    rows = (f"{name:<{width}}  {outcome.error}" for name, outcome in zip(names, failed, strict=True))
    click.echo("\n".join(rows), err=True)
    raise click.ClickException(
        f"{len(failed)} of {number} scans failed, as listed; mend them, and the same command tries them again"
    )


def _prepare(
    *,
    model: str,
    weights: Path | None,
    device: str | None,
    suffix: str | None,
    batch_size: int,
    reading: ReadOptions,
    scoring: ScoreOptions,
) -> Job:
    """Everything that can fail without a scan."""
    scoring.check()
    place = device_of(device)
    parsed = parse_model_name(model)
    architecture = parsed.architecture if isinstance(parsed, RegisteredName) else None
    if weights is not None and architecture is None:
        raise click.UsageError("two sources of weights, --model and --weights; give one")
    listed = parsed if isinstance(parsed, RegisteredName) and parsed.tag is not None else None
    opened = open_weights(parsed if weights is None else FileName(weights, listed), HubOptions())
    network = optimize_for_inference(build_with_weights(architecture, {}, opened).to(place))
    options = {**asdict(reading), **asdict(scoring), "mask": suffix}
    about = {
        "network": network.architecture,
        "network_args": dict(network.model_args),
        "input": network.input_config.to_dict(),
        "weights_sha256": opened.file.sha256,
        "options": json.loads(json.dumps(options)),  # with lists for tuples, as it is read again
        "ddrsapc": ddrsapc.__version__,
    }
    vessels = (
        VESSELS
        if network.num_classes == len(VESSELS) + 1
        else {label: f"class {label}" for label in range(1, network.num_classes)}
    )
    return Job(network, about, vessels, reading, scoring, suffix, batch_size)


def _outcome(name: str, scan: Path, output: Path, job: Job, *, progress: bool) -> Outcome:
    """What becomes of a scan; it fails with an error only where all others would as well."""
    folder = output / name
    try:
        about = {**job.about, "scan": fingerprint(scan)}
        with _alone(folder):
            score = find_result(folder, about)
            if score is not None:
                return Outcome(name, str(scan), score, is_new=False)
            return Outcome(name, str(scan), _run(scan, folder, job, about, progress=progress))
    except Exception as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FULL:
            text = f"{cause.strerror}; make room, and the same command goes on"
            raise OSError(cause.errno, text, str(output)) from error
        return Outcome(name, str(scan), error=" ".join(str(error).split()) or type(error).__name__)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Where no other process is at the same scan; what killed ones left is removed.

    Raises:
        FileExistsError: if one is.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        file = lock(path)
    except FileExistsError as error:
        raise FileExistsError("another process is at this scan") from error
    try:
        for left in folder.parent.iterdir():
            if left.name.startswith(f".{folder.name}.") and left.suffix == ".part":
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _run(scan: Path, folder: Path, job: Job, about: Mapping[str, Any], *, progress: bool) -> Mapping[str, Any]:
    """Label and score a scan and write everything; the content of score.json."""
    # made before the work, which a disk that cannot be written to would lose
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    partial.mkdir()
    try:
        volume = job.reading.read(scan)
        suffix = job.suffix or _SUFFIXES.get(volume.meta.format, ".mha")
        if suffix == ".dcm" and volume.meta.format != "dicom":
            raise CTError(f"{scan}: is not DICOM, and a DICOM SEG refers to DICOM slices; leave out --mask .dcm")
        labels = predict_labels(
            job.network, volume, threshold=job.scoring.threshold, batch_size=job.batch_size, progress=progress
        )
        score, remarks = job.scoring.score(volume, labels, vessels=job.vessels)
        remarks = (*remarks, *_write_mask(labels, volume, score, partial / f"mask{suffix}", job))
        for remark in remarks:
            click.echo(f"warning: {shown(folder.name, 200)}: {remark}", err=True)
        write_report(partial, volume, labels, score, about=about, warnings=remarks)
        content = {
            **score.to_dict(),
            "scan": str(scan),
            "warnings": list(remarks),
            "prediction": about,
            "files": [str(file) for file in volume.meta.files],
            "written": sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()),
        }
        write_atomically(partial / SCORE, (json.dumps(content, indent=2) + "\n").encode())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return content


def _write_mask(
    labels: NDArray[np.uint8], volume: Volume, score: CalciumScore, path: Path, job: Job
) -> tuple[str, ...]:
    """The mask; of a DICOM SEG also the scores as a structured report. What could not be written that way."""
    try:
        write_mask(labels, volume, path, vessels=tuple(job.vessels.values()))
        if path.suffix != ".dcm":
            return ()
        with needs_extra():
            from ddrsapc.report.structured_report import write_structured_report  # noqa: PLC0415  # an extra

        write_structured_report(path.with_name("scores.dcm"), path, score)
    except CTError as error:
        if job.suffix is not None or path.suffix != ".dcm":
            raise
        path.unlink(missing_ok=True)
        write_mask(labels, volume, path.with_name("mask.nii.gz"))  # the work is not lost
        return (f"the mask is written as .nii.gz, without a structured report: {_plain(error, path)}",)
    return ()


def _plain(error: Exception, path: Path) -> str:
    """An error without the name of a file that is not there any more."""
    return str(error).removeprefix(f"{path}: ")
