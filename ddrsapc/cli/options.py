"""Options that several commands share: how scans are read, and how they are scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct import CTError, Volume, read_volume
from ddrsapc.ct.sources import check_hu
from ddrsapc.ct.volume import check_axial
from ddrsapc.messages import shown
from ddrsapc.scoring import PRESETS, VESSELS, CalciumScore, TubeVoltageWarning, score_volume

__all__ = ["ReadOptions", "ScoreOptions", "read_options", "score_options"]

_LEAST_FACTOR, _MOST_FACTOR = 0.3, 2.0  # mg/(ml HU); published ones are 0.6 to 0.9
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ReadOptions:
    """How a scan is read; the fields are the options' names."""

    series: str | None
    spacing: tuple[float, float, float] | None
    png_window: tuple[float, float] | None

    def read(self, scan: Path) -> Volume:
        """Read a scan that is to be measured.

        Raises:
            CTError: if it cannot be read, has no spacing, or is a mask.
        """
        volume = read_volume(scan, series=self.series, spacing=self.spacing, window=self.png_window)
        if volume.spacing is None:
            raise CTError(f"{scan}: has no spacing, so nothing in it can be measured; give it with --spacing")
        check_hu(scan, volume)
        return volume


@dataclass(frozen=True)
class ScoreOptions:
    """How a labelled scan is scored; the fields are the options' names."""

    preset: str
    min_area: float | None
    threshold: float
    mass_factor: float | None
    kvp: float | None

    def check(self) -> None:
        """Raise the ValueError that `score` would, where it does not need a scan for it."""
        empty = np.zeros((1, 1, 1), np.int16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TubeVoltageWarning)
            score_volume(empty, empty, (1.0, 1.0, 1.0), **asdict(self))

    def score(
        self, volume: Volume, labels: NDArray[np.uint8], *, vessels: Mapping[int, str] = VESSELS
    ) -> tuple[CalciumScore, tuple[str, ...]]:
        """The score of a scan that `ReadOptions` read, and warnings.

        What the scan says of itself (tube voltage, mass factor) counts where the options do not say it.
        """
        if volume.spacing is None:
            raise CTError("a scan without spacing has no score")
        check_axial(volume)
        remarks = []
        mass_factor = self.mass_factor
        if mass_factor is None and (found := volume.meta.mass_factor) is not None:
            mass_factor = found if _LEAST_FACTOR <= found <= _MOST_FACTOR else None
            if mass_factor is None:
                remarks.append(f"the file's mass factor of {found:g} mg/(ml HU) is none; give it with --mass-factor")
        if None not in (self.kvp, volume.meta.kvp) and self.kvp != volume.meta.kvp:
            remarks.append(f"the file says {volume.meta.kvp:g} kVp, but --kvp {self.kvp:g} counts")
        if agent := volume.meta.contrast_agent:
            remarks.append(f"the file names a contrast agent ({shown(agent, 40)}); scores are defined without contrast")
        if volume.meta.format == "dicom" and len(volume.hu) == 1:
            remarks.append("one slice tells no distance to the next; what it says of its thickness is taken for it")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TubeVoltageWarning)
            score = score_volume(
                volume.hu,
                labels,
                volume.spacing,
                slice_positions=volume.slice_positions,
                threshold=self.threshold,
                min_area=self.min_area,
                preset=self.preset,
                mass_factor=mass_factor,
                kvp=volume.meta.kvp if self.kvp is None else self.kvp,
                vessels=vessels,
            )
        return score, (*remarks, *(str(warning.message) for warning in caught))


def _all(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """One decorator of several; `--help` lists them in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


read_options = _all(
    click.option("--series", metavar="UID", help="Which DICOM series, where a folder has several."),
    click.option(
        "--spacing",
        type=float,
        nargs=3,
        metavar="Z Y X",
        help="Of a picture (PNG, JPEG), in mm.",
    ),
    click.option("--png-window", type=float, nargs=2, metavar="LOW HIGH", help="HU that the greys of 8 bits span."),
)
"""Their values are the fields of `ReadOptions`."""

score_options = _all(
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="literature",
        show_default=True,
        help="Least size of a calcification, by vendor.",
    ),
    click.option("--min-area", type=float, metavar="MM2", help="Least area of a calcification, instead of a preset."),
    click.option(
        "--threshold", type=float, default=130.0, show_default=True, metavar="HU", help="Least HU of calcium."
    ),
    click.option("--mass-factor", type=float, metavar="C", help="In mg/(ml HU); else the DICOM file's, or no mass."),
    click.option("--kvp", type=float, metavar="KV", help="Tube voltage, instead of the file's."),
)
"""Their values are the fields of `ScoreOptions`."""
