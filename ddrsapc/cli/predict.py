"""`ddrsapc predict`: scans in, masks, reports and calcium scores out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import ddrsapc
from ddrsapc.cli.options import ReadOptions, ScoreOptions, read_options, score_options
from ddrsapc.cli.scan_folders import find_scans
from ddrsapc.ct import CTError, Volume, write_mask
from ddrsapc.ct.errors import needs_extra
from ddrsapc.files import write_atomically
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, RegisteredName, parse_model_name
from ddrsapc.inference import predict as predict_labels
from ddrsapc.models import SegmentationModel
from ddrsapc.report import write_report
from ddrsapc.scoring import RESEARCH_ONLY, VESSELS, CalciumScore

__all__ = ["predict"]

_SUFFIXES = {"dicom": ".dcm", "nifti": ".nii.gz", "nrrd": ".nrrd"}
_SCORE = "score.json"
_SUMMARY = "summary.csv"


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


@dataclass(frozen=True)
class Outcome:
    """What became of a scan."""

    name: str
    scan: Path
    score: Mapping[str, Any] | None = None
    """As score.json has it; None: it failed."""
    is_new: bool = True
    error: str = ""

    def line(self) -> str:
        """In a line."""
        if self.score is None:
            return f"{self.name}: failed"
        score = self.score
        parts = ", ".join(f"{name} {vessel['agatston']:.1f}" for name, vessel in score["vessels"].items())
        text = f"Agatston {score['agatston']:.1f} ({parts}), {score['category']}, CAC-DRS {score['cac_drs']}"
        return f"{self.name}: {text}" if self.is_new else f"{self.name}: done already, {text}"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        status = "failed" if self.score is None else "done"
        return {"name": self.name, "scan": str(self.scan), "status": status, "error": self.error, "score": self.score}


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
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Slices at once.")
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
      ddrsapc predict scan/ -o results --weights outputs/run/best.safetensors
      ddrsapc predict scans/ -o results --model hf-hub:org/name --device cuda

    For research only; not a medical device.
    """
    found = find_scans(scans)
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
            outcomes.append(_outcome(name, scan, output / name, job, is_alone=len(found) == 1))
            if not as_json:
                click.echo(outcomes[-1].line())
    finally:
        if outcomes:
            _write_summary(output / _SUMMARY, outcomes, job.vessels.values())
    if as_json:
        click.echo(json.dumps([outcome.to_dict() for outcome in outcomes], indent=2))
    else:
        click.echo(RESEARCH_ONLY)
    failed = {outcome.name: outcome.error for outcome in outcomes if outcome.score is None}
    if failed:
        width = min(max(map(len, failed)), 40)
        click.echo("\n".join(f"{name:<{width}}  {error}" for name, error in failed.items()), err=True)
        raise click.ClickException(
            f"{len(failed)} of {len(found)} scans failed, as listed; mend them, and the same command tries them again"
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
    parsed = parse_model_name(model)
    architecture = parsed.architecture if isinstance(parsed, RegisteredName) else None
    if weights is not None and architecture is None:
        raise click.UsageError("two sources of weights, --model and --weights; give one")
    listed = parsed if isinstance(parsed, RegisteredName) and parsed.tag is not None else None
    opened = open_weights(parsed if weights is None else FileName(weights, listed), HubOptions())
    network = build_with_weights(architecture, {}, opened).eval()
    network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {**asdict(reading), **asdict(scoring), "mask": suffix}
    about = {
        "network": network.architecture,
        "network_args": dict(network.model_args),
        "input": network.input_config.to_dict(),
        "weights_sha256": opened.file.sha256,
        "options": json.loads(json.dumps(options)),  # as it is read again
        "ddrsapc": ddrsapc.__version__,
    }
    vessels = (
        VESSELS
        if network.num_classes == len(VESSELS) + 1
        else {label: f"class {label}" for label in range(1, network.num_classes)}
    )
    return Job(network, about, vessels, reading, scoring, suffix, batch_size)


def _outcome(name: str, scan: Path, folder: Path, job: Job, *, is_alone: bool) -> Outcome:
    """What becomes of a scan; it fails with an error only where it is the only one."""
    try:
        about = {**job.about, "scan": _fingerprint(scan)}
        score = _found(folder, about)
        if score is not None:
            return Outcome(name, scan, score, is_new=False)
        return Outcome(name, scan, _run(scan, folder, job, about, progress=is_alone and sys.stderr.isatty()))
    except Exception as error:
        if is_alone:
            raise
        return Outcome(name, scan, error=" ".join(str(error).split()) or type(error).__name__)


def _fingerprint(scan: Path) -> str:
    """A hash of the names, sizes and times of a scan's files: another scan of the same name has another."""
    files = sorted(path for path in scan.iterdir() if path.is_file()) if scan.is_dir() else [scan]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _found(folder: Path, about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The score that is there, if any; results of another scan, other weights or options are an error."""
    if not folder.exists():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / _SCORE).read_text(encoding="utf-8"))
        prediction = found["prediction"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(f"{folder} exists, and holds no results; give another output, or remove it") from error
    if prediction != about:
        raise FileExistsError(
            f"{folder} has results of another scan, other weights or options; give another output, or remove it"
        )
    return found


def _run(scan: Path, folder: Path, job: Job, about: Mapping[str, Any], *, progress: bool) -> Mapping[str, Any]:
    """Label and score a scan and write everything; the content of score.json."""
    volume = job.reading.read(scan)
    threshold = job.scoring.threshold
    labels = predict_labels(job.network, volume, threshold=threshold, batch_size=job.batch_size, progress=progress)
    score, remarks = job.scoring.score(volume, labels, vessels=job.vessels)
    for remark in remarks:
        click.echo(f"warning: {remark}", err=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # another process may be at the same scan
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    partial.mkdir()
    try:
        _write_mask(labels, volume, score, partial, job)
        write_report(partial, volume, labels, score, about=about, warnings=remarks)
        content = {**score.to_dict(), "prediction": about, "files": [str(file) for file in volume.meta.files]}
        write_atomically(partial / _SCORE, (json.dumps(content, indent=2) + "\n").encode())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return content


def _write_mask(labels: NDArray[np.uint8], volume: Volume, score: CalciumScore, folder: Path, job: Job) -> None:
    """The mask; where it is a DICOM SEG, also the scores as a structured report on it."""
    vessels = tuple(job.vessels.values())
    suffix = job.suffix or _SUFFIXES.get(volume.meta.format, ".mha")
    try:
        write_mask(labels, volume, folder / f"mask{suffix}", vessels=vessels)
    except CTError as error:
        if job.suffix is not None or suffix != ".dcm":
            raise
        click.echo(f"warning: the mask is written as .nii.gz: {error}", err=True)  # the work is not lost
        write_mask(labels, volume, folder / "mask.nii.gz", vessels=vessels)
        return
    if suffix == ".dcm":
        with needs_extra():
            from ddrsapc.report.structured_report import write_structured_report  # noqa: PLC0415  # an extra

        write_structured_report(folder / "scores.dcm", folder / f"mask{suffix}", score)


def _write_summary(path: Path, outcomes: Sequence[Outcome], vessels: Iterable[str]) -> None:
    """A row for each scan; what failed has an error instead of a score."""
    totals = ("agatston", "volume_mm3", "mass_mg", "category", "cac_drs")
    columns = ["name", "scan", *totals, *(f"agatston_{vessel}" for vessel in vessels), "error"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for outcome in outcomes:
        row: dict[str, Any] = {"name": outcome.name, "scan": outcome.scan, "error": outcome.error}
        if outcome.score is not None:
            row |= {total: outcome.score[total] for total in totals}
            row |= {f"agatston_{name}": vessel["agatston"] for name, vessel in outcome.score["vessels"].items()}
        writer.writerow(row)
    write_atomically(path, text.getvalue().encode())
