"""Training, validation and test cases, with no patient in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ddrsapc.data.folder import Case, FolderReport, check_folder, patient_of
from ddrsapc.data.problems import DataError
from ddrsapc.data.readers import READERS, Readers
from ddrsapc.data.scan_files import split_folders
from ddrsapc.data.scans import PreparedScans

__all__ = ["Splits", "load_splits", "split_by_patient"]


class Splits(NamedTuple):
    """Cases to train on, to choose the best checkpoint by, and to report."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def summary(self) -> str:
        """Patients and pixels per class, a line per split."""
        lines = []
        for name, cases in self._asdict().items():
            pixels = [sum(counts) for counts in zip(*(case.class_pixels for case in cases), strict=True)]
            lines.append(f"{name}: {len({case.patient for case in cases})} patients, pixels by class {pixels}")
        return "\n".join(lines)


def split_by_patient(
    cases: Sequence[Case], fractions: tuple[float, float, float] = (0.7, 0.15, 0.15), *, seed: int = 0
) -> Splits:
    """Split cases so that no patient is in two splits.

    The order of the patients is a hash of seed and name: it does not depend on the files' order, and new
    patients move few of the old ones.

    Args:
        cases: of all patients.
        fractions: of the patients, for train, val and test; a split gets at least one unless its fraction is 0.
        seed: of the hash.

    Raises:
        DataError: if there are fewer patients than splits.
        ValueError: if the fractions are negative or do not sum to 1.
    """
    if not (min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6):  # NaN is neither
        raise ValueError(f"fractions must be at least 0 and sum to 1, got {fractions}")
    patients = sorted(
        {case.patient for case in cases}, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()
    )
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(patients) < wanted:
        raise DataError(
            f"{len(patients)} patient(s) ({', '.join(patients[:3])}) cannot be split in {wanted}; patients are told "
            "by the folder below images/ or the file name without its last number: say how with `patient` ('.+' where "
            "every name is one), or make the folders train, val and test yourself"
        )
    val, test = (max(1, round(fraction * len(patients))) if fraction else 0 for fraction in fractions[1:])
    if fractions[0]:  # few patients: training has the first claim
        while len(patients) - val - test < 1:
            val, test = (val - 1, test) if val > test else (val, test - 1)
    cuts = {name: 1 if i < val else 2 if i < val + test else 0 for i, name in enumerate(patients)}
    return Splits(*(tuple(case for case in cases if cuts[case.patient] == split) for split in range(3)))


def load_splits(
    folder: Path,
    *,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    num_classes: int = 4,
    patient: Callable[[str], str] = patient_of,
    readers: Readers = READERS,
    scans: PreparedScans | None = None,
) -> tuple[Splits, tuple[FolderReport, ...]]:
    """Check a data folder and split it: by its folders `train`, `val` and `test` where it has them, else by patient.

    Args:
        folder: with images/ and labels/ inside, or with train/, val/ and test/.
        fractions: of the patients, where they are split at random; see `split_by_patient`.
        seed: of that split.
        num_classes: classes, background included.
        patient: patient of a case's name.
        readers: of arrays.
        scans: what `prepare_scans` made of the folder's CT scans.

    Returns:
        The splits, and the reports of the folders that were read.

    Raises:
        DataError: for any problem with a file (all are listed), a train or val split without foreground, or a patient
            in two splits.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with images/ and labels/ inside")
    parts = split_folders(folder)
    reports = tuple(
        check_folder(part, num_classes=num_classes, patient=patient, readers=readers, scans=scans) for part in parts
    )
    problems = tuple(problem for report in reports for problem in report.problems)
    FolderReport(folder, tuple(case for report in reports for case in report.cases), problems).raise_for_problems()
    if parts == [folder]:
        splits = split_by_patient(reports[0].cases, fractions, seed=seed)
        _require_foreground(folder, splits)
        return splits, reports
    by_name = {report.folder.name: report.cases for report in reports}
    splits = Splits(*(by_name.get(split, ()) for split in Splits._fields))
    for split in ("train", "val"):
        if not getattr(splits, split):
            raise DataError(f"{folder / split} has no pairs; expected files in its images/ and labels/")
    patients = [{case.patient for case in cases} for cases in splits]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        if both := patients[first] & patients[second]:
            names = f"{Splits._fields[first]} and {Splits._fields[second]}"
            raise DataError(f"{folder}: patients in both {names}: {', '.join(sorted(both))}; keep each in one split")
    _require_foreground(folder, splits)
    return splits, reports


def _require_foreground(folder: Path, splits: Splits) -> None:
    for name, cases in splits._asdict().items():
        if name != "test" and cases and not any(sum(case.class_pixels[1:]) for case in cases):
            raise DataError(
                f"{folder}: the {name} split has no pixel of any class but 0, so it is of no use; "
                "draw the patients with another seed, or with other fractions"
            )
