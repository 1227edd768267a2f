import hashlib
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ddrsapc.data import Augmentation, EpochBatches, make_loader
from ddrsapc.phantom import PhantomDataset, PhantomParameters, make_case
from ddrsapc.training import TrainConfig, fit
from tests.training.small import small_network

GOLDEN = {
    ("train", 256, 4): "f1493e7991e054c6d1e8f09f0bf840c37d704b8f972892072f01c6a9923cd48e",
    ("shifted", 256, 4): "14abcbc7fa8f586cbc8ef85e710d4f3f7f86550278bc42fbfa21305bbd66fce5",
    ("val", 256, 4): "2c51a9e4329cfd35a5c6401606a00c3e0fee0792560c84277e71c4660559b4be",
    ("test", 256, 4): "1aba8d9f691e3b972676bcdee5bfe4a64b1137024d8db2bc7744d8508726c406",
    ("val", 512, 1): "fcd29506e0368dbcdaa76c6fb5c9429fb7972e9e4d2beb32e51b49edd5c3145b",
}
"""SHA-256 of HU and labels of the first items of seed 7, by split, size and count; `PHANTOM_VERSION` goes with it."""
GOLDEN_CASE = "64c345e38850d2c6b3aaf5d1912c929363acc033790e6ba8420b4504a7d729e4"
"""SHA-256 of a whole case's HU, labels and density in thousandths of 1 mg/ml."""


def digest(dataset, order=None):
    sums = {}
    for index in order or range(len(dataset)):
        item = dataset[index]
        data = item.image.numpy().astype("<i2").tobytes() + item.label.numpy().tobytes()
        sums[index] = hashlib.sha256(data).hexdigest()
    return hashlib.sha256("".join(sums[index] for index in sorted(sums)).encode()).hexdigest()


@pytest.mark.parametrize(("split", "size", "n"), GOLDEN)
def test_the_same_bytes_everywhere(split, size, n):
    assert digest(PhantomDataset(split, size, n, 7)) == GOLDEN[split, size, n]


def test_the_same_whole_case_everywhere():
    case = make_case(7, 0, split="val", size=64)
    assert {item.label for item in case.draw.lesions} == {1, 2, 3}
    assert case.draw.mimics
    thousandths = np.rint(case.density.astype(np.float64) * 1000).astype("<i4")
    data = case.hu.astype("<i2").tobytes() + case.labels.tobytes() + thousandths.tobytes()
    assert hashlib.sha256(data).hexdigest() == GOLDEN_CASE


def test_items():
    dataset = PhantomDataset("val", 96, 5, 2)
    assert len(dataset) == 5
    item = dataset[3]
    assert (item.image.shape, item.label.shape) == ((96, 96), (96, 96))
    assert (item.image.dtype, item.label.dtype) == (torch.int16, torch.uint8)
    name, _, z = item.name.removesuffix("]").partition("[")
    assert name == "val2c00003"
    case = make_case(2, 3, split="val", size=96)
    assert np.array_equal(item.image.numpy(), case.hu[int(z)])
    assert np.array_equal(item.label.numpy(), case.labels[int(z)])
    assert torch.equal(dataset[-2].image, item.image)
    for index in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            dataset[index]


def test_the_order_threads_and_workers_do_not_matter():
    dataset = PhantomDataset("test", 64, 6, 1)
    expected = digest(dataset)
    assert digest(dataset, order=[4, 0, 5, 2, 1, 3, 0]) == expected
    torch.set_num_threads(2)
    try:
        assert digest(PhantomDataset("test", 64, 6, 1)) == expected
    finally:
        torch.set_num_threads(1)
    alone = list(make_loader(dataset, [[0, 1], [2, 3], [4, 5]]))
    shared = list(make_loader(dataset, [[0, 1], [2, 3], [4, 5]], workers=2))
    assert all(torch.equal(a.hu, b.hu) for a, b in zip(alone, shared, strict=True))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(alone, shared, strict=True))
    assert any(batch.labels.any() for batch in alone)
    # a larger set begins with the same items
    assert torch.equal(PhantomDataset("test", 64, 60, 1)[5].image, dataset[5].image)


def test_splits_differ():
    images = [PhantomDataset(split, 64, 1, 0)[0].image for split in ("train", "val", "test", "shifted")]
    images.append(PhantomDataset("train", 64, 1, 1)[0].image)
    assert len({image.numpy().tobytes() for image in images}) == 5


def test_how_many_items_show_calcium():
    positive = PhantomParameters(positive_rate=1.0)
    shown = []
    for calcium in (0.0, 1.0):
        dataset = PhantomDataset("train", 192, 16, 0, calcium=calcium, parameters=positive)
        shown.append(sum(bool(dataset[index].label.any()) for index in range(16)))
    assert shown[0] < 8
    assert shown[1] > 8


def test_the_fingerprint_tells_data_apart(monkeypatch):
    def of(*arguments, **options):
        return PhantomDataset(*arguments, **options).fingerprint

    first = of("train", 64, 4, 0)
    assert first == of("train", 64, 4, 0)
    others = {
        of("val", 64, 4, 0), of("train", 96, 4, 0), of("train", 64, 5, 0), of("train", 64, 4, 1),
        of("train", 64, 4, 0, calcium=0.1), of("train", 64, 4, 0, parameters=PhantomParameters(lad_rate=0.7)),
    }  # fmt: skip
    monkeypatch.setattr("ddrsapc.phantom.dataset.PHANTOM_VERSION", 0)
    others.add(of("train", 64, 4, 0))
    assert len(others | {first}) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all", 64, 4, 0), "split must be one of"),
        (("train", 16, 4, 0), "size must be"),
        (("train", 64, 0, 0), "n must be"),
        (("train", 64, 2.0, 0), "n must be"),
        (("train", 64, True, 0), "n must be"),
        (("train", 64, 4, np.bool_(True)), "seed must be"),
        (("train", 64, 4, np.float64(1)), "seed must be"),
        (("train", 64, 4, -1), "seed must be"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhantomDataset(*arguments)
    for calcium in (-0.1, 1.5, True, None):
        with pytest.raises(ValueError, match="calcium must be"):
            PhantomDataset("train", 64, 4, 0, calcium=calcium)


@pytest.mark.parametrize("parameters", [{}, {"a": 1}, 0])
def test_parameters_are_parameters_or_none(parameters):
    with pytest.raises(ValueError, match="parameters must be PhantomParameters or None"):
        PhantomDataset("train", 64, 4, 0, parameters=parameters)
    with pytest.raises(ValueError, match="parameters must be PhantomParameters or None"):
        make_case(0, size=64, parameters=parameters)


def test_numbers_of_numpy_and_torch_are_numbers():
    plain = PhantomDataset("train", 64, 4, 3)
    other = PhantomDataset("train", np.int64(64), torch.tensor(4), np.uint8(3))
    assert other.fingerprint == plain.fingerprint
    assert torch.equal(other[np.int64(2)].image, plain[2].image)
    assert other[torch.tensor(2)].name == plain[2].name
    for index in (1.5, "1", slice(0, 2), None):
        with pytest.raises(TypeError, match="numbered by whole numbers, got"):
            plain[index]


def test_fit_trains_on_it(tmp_path):
    train, val = PhantomDataset("train", 64, 4, 0), PhantomDataset("val", 64, 2, 0)
    assert next(iter(DataLoader(train, batch_size=2))).image.shape == (2, 64, 64)
    config = TrainConfig(epochs=1, batch_size=2)
    augmentation = Augmentation(crop=48)
    result = fit(small_network(), train, val, tmp_path / "run", config=config, augmentation=augmentation)
    assert result.best.is_file()
    assert len(result.history) == 1
    assert EpochBatches(len(train), 2, seed=0).batches_per_epoch == 2


def test_an_item_takes_little_time():
    """Half of the 20 slices per second that are promised: a busy machine may be that slow, a mistake is slower."""
    dataset = PhantomDataset("train", 512, 13, 0)
    dataset[0]  # fills the caches

    def seconds(indices):
        start = time.process_time()
        for index in indices:
            dataset[index]
        return (time.process_time() - start) / len(indices)

    assert min(seconds(range(first, first + 4)) for first in (1, 5, 9)) < 0.1
