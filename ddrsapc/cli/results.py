"""The results of scans in a folder: which there are, from what, and their table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddrsapc.ct.sources import file_facts
from ddrsapc.files import write_atomically
from ddrsapc.messages import shown
from ddrsapc.report import csv_bytes

__all__ = ["SCORE", "Outcome", "find_result", "fingerprint", "write_summary"]

SCORE = "score.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a scan."""

    name: str
    scan: str
    score: Mapping[str, Any] | None = None
    """As score.json has it; None: it failed."""
    is_new: bool = True
    error: str = ""

    def __str__(self) -> str:
        name = shown(self.name, 200)
        if self.score is None:
            return f"{name}: failed"
        parts = ", ".join(f"{vessel} {part['agatston']:.1f}" for vessel, part in self.score["vessels"].items())
        text = f"Agatston {self.score['agatston']:.1f} ({parts}), {self.score['category']}"
        return f"{name}: {'' if self.is_new else 'done already, '}{text}, CAC-DRS {self.score['cac_drs']}"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        status = "failed" if self.score is None else "done"
        return {"name": self.name, "scan": self.scan, "status": status, "error": self.error, "score": self.score}


def fingerprint(scan: Path) -> str:
    """A hash of the names, sizes and times of a scan's files: another scan of the same name has another."""
    return hashlib.sha256(repr(file_facts(scan)).encode(errors="backslashreplace")).hexdigest()


def find_result(folder: Path, about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The content of score.json in a scan's folder, where it is whole and of the same scan, weights and options.

    Raises:
        FileExistsError: if there is something else.
    """
    if not folder.exists():
        return None
    content = _content(folder)
    if content is None:
        raise FileExistsError(f"{folder} exists, and holds no results; give another output")
    found = content["prediction"]
    differs = [key for key in about if found.get(key) != about[key]]
    if differs:
        raise FileExistsError(
            f"{folder} has other results (of another {', '.join(differs)}); give another output, or remove it"
        )
    missing = [name for name in content.get("written", ()) if not (folder / name).is_file()]
    if missing:
        raise FileExistsError(f"{folder} has lost its {missing[0]}; remove the folder, and it is made again")
    return content


def write_summary(output: Path, outcomes: Sequence[Outcome], vessels: Iterable[str]) -> None:
    """OUTPUT/summary.csv: a row for each scan that has results there, and for each that failed now."""
    now = {outcome.name: outcome for outcome in outcomes}
    for folder in output.iterdir():
        if folder.name not in now and (content := _content(folder)) is not None:
            now[folder.name] = Outcome(folder.name, content.get("scan", ""), content)
    totals = ("agatston", "volume_mm3", "mass_mg", "category", "cac_drs")
    columns = ["name", "scan", *totals, *(f"agatston_{vessel}" for vessel in vessels), "warnings", "error"]
    rows = []
    for name in sorted(now):
        outcome = now[name]
        row: dict[str, Any] = {"name": name, "scan": outcome.scan, "error": outcome.error}
        if outcome.score is not None:
            row |= {total: outcome.score[total] for total in totals}
            row |= {f"agatston_{vessel}": part["agatston"] for vessel, part in outcome.score["vessels"].items()}
            row["warnings"] = "; ".join(outcome.score.get("warnings", ()))
        rows.append({key: _cell(row[key]) for key in columns if key in row})  # not the vessels of other networks
    write_atomically(output / "summary.csv", csv_bytes(columns, rows))


def _content(folder: Path) -> dict[str, Any] | None:
    """What score.json says; None where there is none, or not one of a prediction."""
    try:
        content: dict[str, Any] = json.loads((folder / SCORE).read_text(encoding="utf-8"))
        return content if isinstance(content["prediction"], dict) and "agatston" in content else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cell(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
