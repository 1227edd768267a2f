import math
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ddrsapc.metrics import ConfusionMatrix

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of third parties at import
    from torchmetrics.classification import (
        MulticlassF1Score,
        MulticlassJaccardIndex,
        MulticlassPrecision,
        MulticlassRecall,
    )


def scores_of(prediction, target, num_classes=4, **kwargs):
    confusion = ConfusionMatrix(num_classes, **kwargs)
    confusion.update(prediction, target)
    return confusion.scores()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore:.*:UserWarning:torchmetrics")
def test_equals_torchmetrics(seed):
    torch.manual_seed(seed)
    classes = 2 + seed % 4
    confusion = ConfusionMatrix(classes)
    theirs = {
        "iou": MulticlassJaccardIndex(classes, average=None, ignore_index=255),
        "dice": MulticlassF1Score(classes, average=None, ignore_index=255),
        "precision": MulticlassPrecision(classes, average=None, ignore_index=255),
        "recall": MulticlassRecall(classes, average=None, ignore_index=255),
        "mean_iou": MulticlassJaccardIndex(classes, average="macro", ignore_index=255),
    }
    for _ in range(3):
        # classes at the end are sometimes absent
        prediction = torch.randint(0, max(1, classes - seed % 2), (2, 9, 7))
        target = torch.randint(0, max(1, classes - seed % 2), (2, 9, 7))
        target[torch.rand(target.shape) < 0.2] = 255
        confusion.update(prediction, target)
        for metric in theirs.values():
            metric.update(prediction, target)
    ours = confusion.scores()
    for name in ("iou", "dice", "precision", "recall"):
        actual, expected = getattr(ours, name), theirs[name].compute().double()
        present = ~actual.isnan()
        assert present.sum() == classes - seed % 2
        torch.testing.assert_close(actual[present], expected[present], rtol=1e-6, atol=1e-6)
    assert ours.mean_iou == pytest.approx(theirs["mean_iou"].compute().item(), rel=1e-6)


def test_by_hand():
    scores = scores_of(torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 1, 1, 1]]))
    nan = math.nan
    expected = {
        "iou": [1 / 2, 2 / 4, 0, nan],
        "dice": [2 / 3, 4 / 6, 0, nan],
        "precision": [1 / 2, 1, 0, nan],
        "recall": [1, 2 / 4, nan, nan],
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(scores, name), torch.tensor(values, dtype=torch.float64), equal_nan=True)
    assert scores.support.tolist() == [1, 4, 0, 0]
    assert scores.mean_iou == pytest.approx(1 / 3)
    assert scores.foreground_mean_iou == pytest.approx(1 / 4)
    assert scores.absent == (3,)


def test_an_absent_class_is_neither_0_nor_1():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    scores = scores_of(labels, labels)
    assert scores.absent == (1, 2, 3)
    assert scores.mean_iou == 1.0
    assert math.isnan(scores.foreground_mean_iou)
    assert math.isnan(ConfusionMatrix(4).scores().mean_iou)


def test_a_missed_class_is_0_not_absent():
    assert scores_of(torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 0, 3])).iou[3] == 0
    assert scores_of(torch.tensor([0, 0, 0, 3]), torch.zeros(4, dtype=torch.long)).iou[3] == 0


def test_streaming_equals_one_batch():
    prediction, target = torch.randint(0, 4, (6, 5, 5)), torch.randint(0, 4, (6, 5, 5))
    confusion = ConfusionMatrix(4)
    for p, t in zip(prediction, target, strict=True):
        confusion.update(p, t)
    assert torch.equal(confusion.scores().iou, scores_of(prediction, target).iou)


def test_ignored_pixels_do_not_count():
    prediction, target = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 7])
    assert scores_of(prediction, target, ignore_index=7).iou[:2].tolist() == [1, 1]
    assert scores_of(prediction, target, ignore_index=7).absent == (2, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_labels(dtype):
    labels = torch.arange(4)
    assert scores_of(labels.to(dtype), labels.to(dtype)).iou.tolist() == [1, 1, 1, 1]


def test_bad_input_is_named_and_not_counted():
    confusion = ConfusionMatrix(4)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"one shape, got prediction \(2, 4, 8, 8\), target \(2, 8, 8\)"):
        confusion.update(torch.zeros(2, 4, 8, 8), labels)
    with pytest.raises(TypeError, match=r"integer labels as the prediction.*argmax"):
        confusion.update(labels.float(), labels)
    for name, arguments in (("prediction", (labels + 4, labels)), ("target", (labels, labels - 1))):
        with pytest.raises(ValueError, match=rf"of the {name} are outside the 4 classes"):
            confusion.update(*arguments)
    assert not confusion.counts.any()
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        ConfusionMatrix(1)


def _one_of_two(rank, folder, results):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    confusion = ConfusionMatrix(4)
    confusion.update(torch.randint(0, 4, (3, 9, 9)), torch.randint(0, 4, (3, 9, 9)))
    own = confusion.counts.clone()
    total = confusion.all_reduce()
    assert torch.equal(confusion.counts, own)
    results[rank] = (own.tolist(), total.counts.tolist())
    dist.destroy_process_group()


@pytest.mark.slow
def test_sums_over_processes(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_one_of_two, (str(tmp_path), results), nprocs=2)
        (own0, total0), (own1, total1) = results[0], results[1]
    assert total0 == total1 == (torch.tensor(own0) + torch.tensor(own1)).tolist()
    assert own0 != own1


def test_one_process_alone_reduces_to_a_copy():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    total = confusion.all_reduce()
    assert torch.equal(total.counts, confusion.counts)
    total.counts += 1
    assert not torch.equal(total.counts, confusion.counts)
