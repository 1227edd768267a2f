"""Scores and lesions as CSV."""

import csv
import io

import pytest

from ddrsapc.report import lesions_csv, scores_csv
from tests.report.scans import SPOTS, scan_of


def rows_of(data):
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_scores_of_vessels_and_in_all():
    *_, score = scan_of(SPOTS, mass_factor=0.8)
    *vessels, total = rows = rows_of(scores_csv(score))
    assert list(total) == ["vessel", "agatston", "volume_mm3", "mass_mg", "lesions"]
    assert [row["vessel"] for row in rows] == ["LAD", "LCX", "RCA", "total"]
    assert [row["lesions"] for row in rows] == ["2", "1", "1", "4"]
    for key in ("agatston", "volume_mm3", "mass_mg"):
        assert float(total[key]) == getattr(score, key) > 0
        assert sum(float(row[key]) for row in vessels) == pytest.approx(float(total[key]))
    *_, plain = scan_of(SPOTS)
    assert {row["mass_mg"] for row in rows_of(scores_csv(plain))} == {""}


def test_lesions():
    *_, score = scan_of(SPOTS)
    rows = rows_of(lesions_csv(score))
    assert len(rows) == len(score.lesions) == 4
    for row, lesion in zip(rows, score.lesions, strict=True):
        assert (int(row["number"]), row["vessel"]) == (lesion.number, lesion.vessel)
        assert (int(row["first_slice"]), int(row["last_slice"])) == lesion.slices
        assert tuple(float(row[axis]) for axis in "zyx") == lesion.centroid_index
        assert tuple(float(row[f"{axis}_mm"]) for axis in "zyx") == lesion.centroid_mm
        assert float(row["agatston"]) == lesion.agatston
        assert row["mass_mg"] == ""
