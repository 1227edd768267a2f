"""`ddrsapc predict`: scans in, masks and calcium scores out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import ddrsapc
from ddrsapc.cli.scans import scored
from ddrsapc.ct import CTError, Volume, read_volume, write_mask
from ddrsapc.files import write_atomically
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, RegisteredName, parse_model_name
from ddrsapc.inference import predict as predict_labels
from ddrsapc.models import SegmentationModel
from ddrsapc.scoring import PRESETS, VESSELS, CalciumScore

__all__ = ["predict"]

_SUFFIXES = {"dicom": ".dcm", "nifti": ".nii.gz", "nrrd": ".nrrd"}
_SCORE = "score.json"
_COLUMNS = (
    *("number", "vessel", "first_slice", "last_slice", "z", "y", "x", "z_mm", "y_mm", "x_mm"),
    *("peak_hu", "mean_hu", "area_mm2", "volume_mm3", "agatston", "mass_mg"),
)


@dataclass(frozen=True)
class Job:
    """What is done with every scan."""

    network: SegmentationModel
    about: Mapping[str, Any]
    """The network, its weights' hash and the options: results of others are not taken for these."""
    vessels: Mapping[int, str]
    series: str | None
    suffix: str | None
    """Of the mask; None: the scan's own format."""
    threshold: float
    preset: str
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
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Slices at once.")
@click.option("--series", metavar="UID", help="Which DICOM series, where a SCAN is a folder of several.")
@click.option(
    "--mask",
    "suffix",
    type=click.Choice([".nii.gz", ".nrrd", ".mha", ".dcm"]),
    help="Format of the masks (the scan's own; DICOM SEG for DICOM).",
)
@click.option("--threshold", type=float, default=130.0, show_default=True, metavar="HU", help="Least HU of calcium.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="literature",
    show_default=True,
    help="Least size of a calcification, by vendor.",
)
def predict(*, scans: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Label the calcium of every SCAN (a DICOM folder, NIfTI, MHA or NRRD) and score it.

    For each scan OUTPUT/NAME has the mask in the scan's geometry, score.json and lesions.csv; a folder that is there is
    whole. The same command again goes on where it stopped: scans that are done are passed over. A scan that fails does
    not stop the others; what failed and why is listed at the end, with exit code 2.

    \b
      ddrsapc predict scan/ -o results --weights outputs/run/best.safetensors
      ddrsapc predict scans/* -o results --model hf-hub:org/name --device cuda

    For research only; not a medical device.
    """
    names = [scan.resolve().name.removesuffix(".gz").removesuffix(".nii") for scan in scans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.UsageError(f"several scans are called {twice[0]!r}; rename them, or give them separate outputs")
    job = _prepare(**options)
    output.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for scan, name in zip(scans, names, strict=True):
        try:
            about = {**job.about, "scan": _fingerprint(scan)}
            done = _is_done(output / name, about)
            score = None if done else _run(scan, output / name, job, about, progress=len(scans) == 1)
        except Exception as error:  # one scan must not stop the others
            failures[name] = " ".join(str(error).split()) or type(error).__name__
            if len(scans) == 1:
                raise
            click.echo(f"{name}: failed")
            continue
        click.echo(f"{name}: done already" if score is None else f"{name}: {_summary(score)}")
    if failures:
        rows = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise click.ClickException(f"{len(failures)} of {len(scans)} scans failed: {rows}")


def _prepare(
    *,
    model: str,
    weights: Path | None,
    device: str | None,
    suffix: str | None,
    threshold: float,
    preset: str,
    batch_size: int,
    series: str | None,
) -> Job:
    parsed = parse_model_name(model)
    architecture = parsed.architecture if isinstance(parsed, RegisteredName) else None
    if weights is not None and architecture is None:
        raise click.UsageError("two sources of weights, --model and --weights; give one")
    listed = parsed if isinstance(parsed, RegisteredName) and parsed.tag is not None else None
    opened = open_weights(parsed if weights is None else FileName(weights, listed), HubOptions())
    network = build_with_weights(architecture, {}, opened).eval()
    network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    about = {
        "network": network.architecture,
        "network_args": dict(network.model_args),
        "input": network.input_config.to_dict(),
        "weights_sha256": opened.file.sha256,
        "threshold_hu": threshold,
        "preset": preset,
        "series": series,
        "mask": suffix,
        "ddrsapc": ddrsapc.__version__,
    }
    vessels = (
        VESSELS
        if network.num_classes == len(VESSELS) + 1
        else {label: f"class {label}" for label in range(1, network.num_classes)}
    )
    return Job(network, about, vessels, series, suffix, threshold, preset, batch_size)


def _fingerprint(scan: Path) -> str:
    """A hash of the names, sizes and times of a scan's files: another scan of the same name has another."""
    files = sorted(path for path in scan.iterdir() if path.is_file()) if scan.is_dir() else [scan]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _is_done(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether a scan's results are there; results of another scan, other weights or options are an error."""
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / _SCORE).read_text(encoding="utf-8"))["prediction"]
    except (OSError, ValueError, KeyError) as error:
        raise FileExistsError(f"{folder} exists, and holds no results; give another output, or remove it") from error
    if found != about:
        raise FileExistsError(
            f"{folder} has results of another scan, other weights or options; give another output, or remove it"
        )
    return True


def _run(scan: Path, folder: Path, job: Job, about: Mapping[str, Any], *, progress: bool) -> CalciumScore:
    volume = read_volume(scan, series=job.series)
    if volume.spacing is None:
        raise CTError(f"{scan}: has no spacing, so nothing in it can be measured")
    labels = predict_labels(job.network, volume, threshold=job.threshold, batch_size=job.batch_size, progress=progress)
    score = scored(
        volume,
        labels,
        threshold=job.threshold,
        preset=job.preset,
        mass_factor=volume.meta.mass_factor,
        vessels=job.vessels,
    )
    # another process may be at the same scan
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    partial.mkdir()
    try:
        _write_mask(labels, volume, partial, job)
        _write_tables(partial, score, volume, about)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return score


def _write_mask(labels: NDArray[np.uint8], volume: Volume, folder: Path, job: Job) -> None:
    vessels = tuple(job.vessels.values())
    suffix = job.suffix or _SUFFIXES.get(volume.meta.format, ".mha")
    try:
        write_mask(labels, volume, folder / f"mask{suffix}", vessels=vessels)
    except CTError as error:
        if job.suffix is not None or suffix != ".dcm":
            raise
        click.echo(f"warning: the mask is written as .nii.gz: {error}", err=True)  # the work is not lost
        write_mask(labels, volume, folder / "mask.nii.gz", vessels=vessels)


def _write_tables(folder: Path, score: CalciumScore, volume: Volume, about: Mapping[str, Any]) -> None:
    content = {**score.to_dict(), "prediction": about, "files": [str(file) for file in volume.meta.files]}
    write_atomically(folder / _SCORE, (json.dumps(content, indent=2) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, _COLUMNS)
    writer.writeheader()
    for lesion in score.lesions:
        row = asdict(lesion)
        row["first_slice"], row["last_slice"] = row.pop("slices")
        row["z"], row["y"], row["x"] = row.pop("centroid_index")
        row["z_mm"], row["y_mm"], row["x_mm"] = row.pop("centroid_mm")
        writer.writerow(row)
    write_atomically(folder / "lesions.csv", table.getvalue().encode())


def _summary(score: CalciumScore) -> str:
    parts = ", ".join(f"{name} {vessel.agatston:.1f}" for name, vessel in score.vessels.items())
    return f"Agatston {score.agatston:.1f} ({parts}), {score.category}, CAC-DRS {score.cac_drs}"
