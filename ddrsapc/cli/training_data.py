"""What `ddrsapc prepare`, `train` and `evaluate` share: options for the data, and reading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ddrsapc import data
from ddrsapc.cli.sections import section
from ddrsapc.data.scan_files import split_folders

__all__ = ["LoadedData", "data_options", "load_data", "scan_options"]

F = TypeVar("F", bound=Callable[..., Any])

_option = section("Data")
_OPTIONS = (
    _option(
        *("--fractions", "fractions"),
        type=(float, float, float),
        default=(0.7, 0.15, 0.15),
        show_default=True,
        metavar="TRAIN VAL TEST",
        help="Of the patients, who are drawn at random.",
    ),
    _option("--split-seed", type=int, default=0, show_default=True, help="Another draw of the patients."),
    _option(
        *("--patient", "patient"),
        metavar="REGEX",
        help="The patient in a path below images/, as '^(.{4})'; else the first folder, or the name without its last "
        "number.",
    ),
    _option("--png-window", type=(float, float), metavar="LOW HIGH", help="HU that 8-bit PNGs span."),
    _option(
        *("--prepared", "prepared"),
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where scans become arrays, once; done ones are passed over.  [default: OUTPUT/prepared]",
    ),
)
_SCAN_OPTIONS = (
    _option("--orcascore", is_flag=True, help="Masks are orCaScore's: 4, an unknown vessel, does not count."),
    _option("--series", metavar="UID", help="Which DICOM series, where folders have several; or its description."),
)


@dataclass(frozen=True)
class LoadedData:
    """Checked and split data."""

    splits: data.Splits
    reports: tuple[data.FolderReport, ...]
    readers: data.Readers


def scan_options(command: F) -> F:
    """The options of `prepare_scans`."""
    for option in reversed(_SCAN_OPTIONS):
        command = option(command)
    return command


def data_options(command: F) -> F:
    """The options that `load_data` takes."""
    command = scan_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_data(
    folder: Path,
    output: Path,
    *,
    num_classes: int,
    say: Callable[[str], None],
    fractions: tuple[float, float, float],
    split_seed: int,
    patient: str | None,
    png_window: tuple[float, float] | None,
    prepared: Path | None,
    orcascore: bool,
    series: str | None,
) -> LoadedData:
    """Make arrays of the scans, if there are any; check and split all.

    Args:
        folder: DATA.
        output: of the command.
        num_classes: classes, background included.
        say: is given lines for the person who waits.
        fractions: and all below: the options.
        split_seed: of the draw of patients.
        patient: regular expression.
        png_window: HU of 8-bit PNGs.
        prepared: folder for the arrays of scans.
        orcascore: kind of the masks.
        series: of DICOM folders.
    """
    patient_of = data.patient_by_pattern(patient) if patient else data.patient_of
    readers = data.Readers(images={**data.READERS.images, ".png": partial(data.read_png_image, window=png_window)})
    into = output / "prepared" if prepared is None else prepared
    number = sum(len(data.find_scans(part, readers).pairs) for part in split_folders(folder))
    if number:
        say(f"{number} CT scan(s), of which arrays are made once in {into}")
    scans = data.prepare_scans(folder, into, orcascore=orcascore, series=series, readers=readers)
    splits, reports = data.load_splits(
        folder,
        fractions=fractions,
        seed=split_seed,
        num_classes=num_classes,
        patient=patient_of,
        readers=readers,
        scans=scans,
    )
    return LoadedData(splits, reports, readers)
