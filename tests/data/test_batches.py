from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from ddrsapc.data import DataError, EpochBatches, SliceDataset, check_folder, collate, make_loader, shard_batches


def test_an_epoch_uses_every_index_once_in_a_new_order():
    batches = EpochBatches(12, 4, seed=0)
    orders = []
    for batches.epoch in range(3):
        epoch = list(batches)
        assert [len(batch) for batch in epoch] == [4, 4, 4] == [4] * len(batches)
        orders.append([*chain.from_iterable(epoch)])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] != orders[1] != orders[2]
    batches.epoch = 0
    assert [*chain.from_iterable(batches)] == orders[0]
    assert [*chain.from_iterable(EpochBatches(12, 4, seed=1))] != orders[0]


def test_goes_on_at_any_batch():
    batches = EpochBatches(13, 2, seed=5)
    whole = list(batches)
    batches.start = 4
    assert list(batches) == whole[4:]
    assert len(batches) == 2


@pytest.mark.parametrize(("size", "drop_last", "lengths"), [(14, True, [4, 4, 4]), (14, False, [4, 4, 4, 2])])
def test_drop_last(size, drop_last, lengths):
    batches = EpochBatches(size, 4, seed=0, drop_last=drop_last)
    assert [len(batch) for batch in batches] == lengths
    assert len(batches) == len(lengths)


@pytest.mark.parametrize(("size", "drop_last"), [(32, True), (29, True), (29, False), (25, False)])
def test_processes_share_an_epoch(size, drop_last):
    ranks = [list(EpochBatches(size, 4, seed=0, drop_last=drop_last, rank=rank, world_size=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])  # or one would wait for the other for ever
    assert all(len(batch) for rank in ranks for batch in rank)
    used = [index for rank in ranks for batch in rank for index in batch]
    assert len(used) == len(set(used))
    rest = size % 8
    assert len(used) == (size if not drop_last and rest >= 4 else size - rest)


def test_too_few_for_a_batch():
    with pytest.raises(ValueError, match=r"3 training image\(s\) make no batch of 4 on 1 process"):
        EpochBatches(3, 4, seed=0)
    assert list(EpochBatches(3, 4, seed=0, drop_last=False))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_uses_every_index_exactly_once(world_size):
    shards = [shard_batches(10, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(index for shard in shards for batch in shard for index in batch) == list(range(10))
    assert max(len(batch) for shard in shards for batch in shard) <= 4
    assert shard_batches(1, 4, rank=1, world_size=2) == []


def test_collate_pads_with_air_that_is_ignored():
    large = (torch.ones(4, 5, dtype=torch.int16), torch.zeros(4, 5, dtype=torch.int64), "large")
    small = (torch.ones(3, 2, dtype=torch.int16), torch.full((3, 2), 2), "small")
    batch = collate([large, small])
    assert batch.hu.shape == (2, 1, 4, 5)
    assert batch.hu.dtype == torch.int16
    assert batch.labels.dtype == torch.uint8
    assert batch.names == ("large", "small")
    assert batch.hu[1, 0, 3:].unique().tolist() == [-1024] == batch.hu[1, 0, :, 2:].unique().tolist()
    assert batch.labels[1, 3:].unique().tolist() == [255] == batch.labels[1, :, 2:].unique().tolist()
    assert (batch.labels[1, :3, :2] == 2).all()
    assert (batch.hu[1, 0, :3, :2] == 1).all()
    stacked = collate([(torch.zeros(3, 4, 5), torch.zeros(4, 5, dtype=torch.uint8), "three channels")])
    assert stacked.hu.shape == (1, 3, 4, 5)
    assert stacked.hu.dtype == torch.float32


def test_bad_samples_are_named():
    image = torch.zeros(4, 5)
    with pytest.raises(ValueError, match=r"p1: image \(4, 5\) and label \(5, 4\) do not fit"):
        collate([(image, torch.zeros(5, 4, dtype=torch.uint8), "p1")])
    channels = torch.zeros(3, 4, 5)
    label = torch.zeros(4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"p2: has 3 channels, p1 has 1"):
        collate([(image, label, "p1"), (channels, label, "p2")])
    with pytest.raises(ValueError, match=r"p2: labels must be in \[0, 255\], got -1 to -1"):
        collate([(image, torch.full((4, 5), -1), "p2")])


def test_items_without_a_name_get_their_number():
    dataset = TensorDataset(torch.zeros(6, 4, 4), torch.zeros(6, 4, 4, dtype=torch.long))
    (batch,) = make_loader(dataset, [[4, 2]])
    assert batch.names == ("item 4", "item 2")


def test_numpy_items_do_as_well():
    items = [(np.full((4, 5), 7, np.int16), np.ones((4, 5), np.int64))] * 2
    (batch,) = make_loader(items, [[0, 1]])
    assert batch.hu.unique().tolist() == [7]
    assert batch.labels.unique().tolist() == [1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_reading_process_is_one_line(add_pair, tmp_path, workers):
    add_pair(tmp_path, "a")
    dataset = SliceDataset(check_folder(tmp_path).cases)
    (tmp_path / "images" / "a.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.npy: cannot be read") as caught:
        list(make_loader(dataset, [[0]], workers=workers))
    assert "\n" not in str(caught.value)
    bad = [(torch.zeros(4, 5), torch.zeros(5, 4, dtype=torch.uint8))]
    with pytest.raises(ValueError, match="^item 0: image") as caught:
        list(make_loader(bad, [[0]], workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_batches_do_not_depend_on_the_workers(add_pair, tmp_path):
    for i in range(6):
        add_pair(tmp_path, f"p{i}", seed=i)
    report = check_folder(tmp_path)
    report.raise_for_problems()
    dataset = SliceDataset(report.cases)
    global_state = torch.get_rng_state()
    runs = []
    for workers in (0, 2):
        batches = EpochBatches(6, 2, seed=0)
        loader = make_loader(dataset, batches, workers=workers)
        runs.append([])
        for batches.epoch in range(2):
            runs[-1] += list(loader)
    assert len(runs[0]) == 6
    for ours, theirs in zip(*runs, strict=True):
        assert ours.names == theirs.names
        assert torch.equal(ours.hu, theirs.hu)
        assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(global_state, torch.get_rng_state())
