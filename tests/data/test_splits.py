from pathlib import Path

import numpy as np
import pytest

from ddrsapc.data import Case, DataError, load_splits, split_by_patient


def cases_of(*patients, each=3):
    return [Case(f"{p}/{i}", p, Path(p), Path(p), (1, 32, 32), (1,), (0.0, 1.0)) for p in patients for i in range(each)]


def patients(cases):
    return {case.patient for case in cases}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_splits_and_no_case_is_lost(seed):
    cases = cases_of(*(f"p{i}" for i in range(40)))
    splits = split_by_patient(cases, seed=seed)
    assert [len(patients(split)) for split in splits] == [28, 6, 6]
    assert sorted(case.name for split in splits for case in split) == sorted(case.name for case in cases)
    assert not patients(splits.train) & patients(splits.val)
    assert not patients(splits.train) & patients(splits.test)
    assert not patients(splits.val) & patients(splits.test)


def test_the_split_depends_on_seed_and_names_only():
    cases = cases_of(*(f"p{i}" for i in range(40)))
    assert patients(split_by_patient(cases).val) == patients(split_by_patient(cases[::-1]).val)
    assert patients(split_by_patient(cases).val) != patients(split_by_patient(cases, seed=1).val)
    more = split_by_patient(cases + cases_of("new"))
    moved = patients(more.train) ^ patients(split_by_patient(cases).train)
    assert len(moved) <= 3


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_few_patients_fill_every_split(count):
    splits = split_by_patient(cases_of(*map(str, range(count))), (0.1, 0.45, 0.45))
    assert all(splits)


def test_fractions_of_zero_and_bad_ones():
    cases = cases_of("a", "b")
    assert [len(split) for split in split_by_patient(cases, (0.5, 0.5, 0))] == [3, 3, 0]
    assert [len(split) for split in split_by_patient(cases, (0, 0, 1))] == [0, 0, 6]
    assert [len(split) for split in split_by_patient(cases, (1, 0, 0))] == [6, 0, 0]
    with pytest.raises(DataError, match=r"2 patient\(s\) \(.*\) cannot be split in 3"):
        split_by_patient(cases)
    for bad in ((0.5, 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(ValueError, match="sum to 1"):
            split_by_patient(cases, bad)


def test_load_by_patient(add_pair, tmp_path):
    for patient in "abcdefghij":
        add_pair(tmp_path, f"{patient}/1")
    splits, (report,) = load_splits(tmp_path, fractions=(0.6, 0.2, 0.2), seed=3)
    assert [len(split) for split in splits] == [6, 2, 2]
    assert len(report.cases) == 10


def test_load_by_folders(add_pair, tmp_path):
    add_pair(tmp_path / "train", "a/1")
    add_pair(tmp_path / "val", "b/1")
    splits, reports = load_splits(tmp_path)
    assert [len(split) for split in splits] == [1, 1, 0]
    assert [report.folder.name for report in reports] == ["train", "val"]
    add_pair(tmp_path / "test", "a/2")
    with pytest.raises(DataError, match="patients in both train and test: a; keep each in one split"):
        load_splits(tmp_path)


def test_an_empty_split_and_a_missing_folder(add_pair, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        load_splits(tmp_path / "missing")
    add_pair(tmp_path / "train", "a/1")
    with pytest.raises(DataError, match=r"val has no pairs"):
        load_splits(tmp_path)
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "labels").mkdir()
    with pytest.raises(DataError, match=r"val has no pairs"):
        load_splits(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_foreground_is_of_no_use(add_pair, tmp_path, split):
    for name in ("train", "val", "test"):
        label = np.zeros((48, 40), np.uint8)
        label[0, 0] = name != split
        add_pair(tmp_path / name, name, image=np.full((48, 40), 40, np.int16), label=label)
    with pytest.raises(DataError, match=f"the {split} split has no pixel of any class but 0"):
        load_splits(tmp_path)


def test_problems_of_all_splits_are_listed_together(add_pair, tmp_path):
    for split, patient in (("train", "a"), ("val", "b")):
        add_pair(tmp_path / split, f"{patient}/1")
        (tmp_path / split / "labels" / patient / "1.npy").unlink()
    with pytest.raises(DataError, match=r"2 problem\(s\)"):
        load_splits(tmp_path)
