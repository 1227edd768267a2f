"""A score as tables: CSV with units in the columns' names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ddrsapc.scoring import CalciumScore, VesselScore

__all__ = ["csv_bytes", "lesions_csv", "scores_csv"]

_SCORES = ("vessel", "agatston", "volume_mm3", "mass_mg", "lesions")
_LESIONS = (
    *("number", "vessel", "first_slice", "last_slice", "z", "y", "x", "z_mm", "y_mm", "x_mm"),
    *("peak_hu", "mean_hu", "area_mm2", "volume_mm3", "agatston", "mass_mg"),
)


def scores_csv(score: CalciumScore) -> bytes:
    """A row for every vessel, then the total; without a mass factor `mass_mg` is empty."""
    parts: list[tuple[str, VesselScore | CalciumScore]] = [*score.vessels.items(), ("total", score)]
    lesions = [sum(lesion.vessel == name for lesion in score.lesions) for name in score.vessels]
    rows = [
        dict(zip(_SCORES, (name, part.agatston, part.volume_mm3, part.mass_mg, many), strict=True))
        for (name, part), many in zip(parts, [*lesions, len(score.lesions)], strict=True)
    ]
    return csv_bytes(_SCORES, rows)


def lesions_csv(score: CalciumScore) -> bytes:
    """A row for every lesion: slices and voxels from 0, mm from the first voxel's centre."""
    rows = []
    for lesion in score.lesions:
        row = asdict(lesion)
        row["first_slice"], row["last_slice"] = row.pop("slices")
        row["z"], row["y"], row["x"] = row.pop("centroid_index")
        row["z_mm"], row["y_mm"], row["x_mm"] = row.pop("centroid_mm")
        rows.append(row)
    return csv_bytes(_LESIONS, rows)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table as a CSV file; names that are no text are spelt out.

    Args:
        columns: their names, in order.
        rows: values by column; those that are missing are empty.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode(errors="backslashreplace")
