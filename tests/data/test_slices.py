import numpy as np
import pytest
import torch

from ddrsapc.data import DataError, SliceDataset, check_folder


def test_slices_of_files_and_volumes(add_pair, tmp_path):
    volume = np.random.default_rng(0).normal(0, 100, (3, 40, 36)).astype(np.int16)
    labels = np.random.default_rng(1).integers(0, 4, (3, 40, 36))
    add_pair(tmp_path, "a", image=volume, label=labels)
    add_pair(tmp_path, "b", image=volume[0].astype(np.float64) + 0.5, label=labels[0].astype(np.int8))
    dataset = SliceDataset(check_folder(tmp_path).cases)
    assert len(dataset) == 4
    assert [dataset[i].name for i in range(4)] == ["a[0]", "a[1]", "a[2]", "b"]
    for i in range(3):
        assert torch.equal(dataset[i].image, torch.from_numpy(volume[i]))
        assert torch.equal(dataset[i].label.long(), torch.from_numpy(labels[i]))
    assert dataset[0].image.dtype == torch.int16
    assert dataset[3].image.dtype == torch.float32
    assert dataset[-1].label.dtype == torch.uint8
    assert torch.equal(dataset[-1].image, torch.from_numpy(volume[0]) + 0.5)
    for index in (4, -5):
        with pytest.raises(IndexError, match="of 4"):
            dataset[index]
    assert len(SliceDataset(())) == 0


def test_the_fingerprint_tells_data_apart(add_pair, tmp_path):
    add_pair(tmp_path, "a", seed=0)
    add_pair(tmp_path, "b", seed=1)
    cases = check_folder(tmp_path).cases
    assert SliceDataset(cases).fingerprint == SliceDataset(list(cases)).fingerprint
    assert len({SliceDataset(some).fingerprint for some in (cases, cases[:1], cases[1:], cases[::-1])}) == 4


def test_a_file_that_changed_since_is_named(add_pair, tmp_path):
    add_pair(tmp_path, "a")
    dataset = SliceDataset(check_folder(tmp_path).cases)
    np.save(tmp_path / "labels" / "a.npy", np.zeros((32, 32), np.uint8))
    with pytest.raises(DataError, match=r"labels/a\.npy: has changed since it was checked"):
        dataset[0]
    (tmp_path / "images" / "a.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/a\.npy: cannot be read"):
        dataset[0]
