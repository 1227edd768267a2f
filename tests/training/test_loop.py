import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddrsapc.data import Augmentation, Batch, make_loader, shard_batches
from ddrsapc.losses import AuxiliaryLoss, OhemCrossEntropyLoss
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.models import InputConfig
from ddrsapc.training import BatchPreparation, NonFiniteError, TrainStats, evaluate, train_one_epoch

CPU = torch.device("cpu")
PREPARE = BatchPreparation(InputConfig(), CPU)


def loader_of(data, batch_size):
    return make_loader(data, shard_batches(len(data), batch_size))


class CrossEntropy(torch.nn.Module):
    """The plain mean over pixels: of equal batches, the mean of the losses is the whole's."""

    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels.long(), ignore_index=255)


def without_norm(network):
    """Batch norm would make the gradient depend on how images are grouped."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    return network


def test_a_step_is_the_textbooks(network, train_data):
    reference = copy.deepcopy(network)
    stats = train_one_epoch(
        network, loader_of(train_data, 10), CrossEntropy(), torch.optim.SGD(network.parameters(), lr=0.1), PREPARE
    )
    hu, labels = train_data.tensors
    logits = reference.train()(InputConfig().normalize(hu)[:, None])
    loss = F.cross_entropy(logits, labels.long())
    loss.backward()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)
    assert stats.loss == pytest.approx(loss.item())
    assert (stats.images, stats.batches) == (10, 1)
    confusion = ConfusionMatrix(4)
    confusion.update(logits.argmax(1), labels)
    assert torch.equal(stats.confusion.counts, confusion.counts)
    assert stats.images_per_second > 0


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 2), (2, 5), (2, 8)])
def test_accumulated_batches_make_the_step_of_one_large_batch(network, train_data, batch_size, accumulate):
    network = without_norm(network)
    whole = copy.deepcopy(network)
    for model, size, count in ((whole, 10, 1), (network, batch_size, accumulate)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_one_epoch(model, loader_of(train_data, size), CrossEntropy(), optimizer, PREPARE, accumulate=count)
    for ours, theirs in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_steps_are_counted_with_a_short_last_group(network, train_data):
    seen = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    train_one_epoch(
        network,
        loader_of(train_data, 2),
        CrossEntropy(),
        optimizer,
        PREPARE,
        accumulate=2,
        scheduler=scheduler,
        on_step=lambda stats: seen.append(stats.batches),
    )
    assert seen == [2, 4, 5]
    assert scheduler.last_epoch == 3


def test_the_gradient_is_clipped(network, train_data):
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    train_one_epoch(network, loader_of(train_data, 10), CrossEntropy(), optimizer, PREPARE, clip_norm=0.01)
    moved = torch.stack([(old - new).norm() for old, new in zip(before, network.parameters(), strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_the_average_follows_every_step(network, train_data):
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    name, parameter = next(iter(network.named_parameters()))
    expected = []

    def follow(_):
        expected.append(parameter.detach().clone() if not expected else 0.5 * expected[-1] + 0.5 * parameter.detach())

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train_one_epoch(network, loader_of(train_data, 2), CrossEntropy(), optimizer, PREPARE, ema=ema, on_step=follow)
    assert len(expected) == 5
    torch.testing.assert_close(ema.module.get_parameter(name).detach(), expected[-1])


def test_the_auxiliary_head_is_trained(train_data):
    from ddrsapc import create_model  # noqa: PLC0415

    network = create_model("unet", width=4, aux_head=True)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if name.startswith("aux_head")}
    criterion = AuxiliaryLoss(OhemCrossEntropyLoss())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train_one_epoch(network, loader_of(train_data, 5), criterion, optimizer, PREPARE)
    assert before
    assert all(not torch.equal(network.get_parameter(name), value) for name, value in before.items())


def test_autocast_keeps_weights_in_float32(network, train_data):
    seen = []
    network.head.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train_one_epoch(
        network, loader_of(train_data, 5), OhemCrossEntropyLoss(), optimizer, PREPARE, autocast=torch.bfloat16
    )
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_float16_scales_the_loss(network, train_data):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train_one_epoch(
        network,
        loader_of(train_data, 5),
        OhemCrossEntropyLoss(),
        optimizer,
        PREPARE,
        autocast=torch.float16,
        scaler=scaler,
        clip_norm=1.0,
    )
    moved = torch.stack([(old - new).norm() for old, new in zip(before, network.parameters(), strict=True)]).norm()
    assert 0 < moved.item() <= 0.2 * 1.001  # two steps of at most lr x clip_norm: unscaled before clipping


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_stops_with_files_and_learning_rate(network, train_data, value):
    class Bad(CrossEntropy):
        calls = 0

        def forward(self, logits, labels):
            self.calls += 1
            return super().forward(logits, labels) * (value if self.calls == 3 else 1.0)

    snapshots = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.125)
    with pytest.raises(NonFiniteError, match=rf"loss is {value} in batch 3 .*rate 0\.125; images item 4, item 5\)"):
        train_one_epoch(
            network,
            loader_of(train_data, 2),
            Bad(),
            optimizer,
            PREPARE,
            on_step=lambda _: snapshots.append([p.detach().clone() for p in network.parameters()]),
        )
    assert all(torch.equal(a, b) for a, b in zip(snapshots[-1], network.parameters(), strict=True))
    assert len(snapshots) == 2


def test_a_bad_gradient_stops_before_the_weights_are_touched(network, train_data):
    class BadGradient(CrossEntropy):
        def forward(self, logits, labels):
            return super().forward(logits, labels) + (logits - logits.detach()).clamp(min=0).sqrt().sum()

    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(NonFiniteError, match=r"the gradient is nan in batch 1 .*item 0, item 1"):
        train_one_epoch(network, loader_of(train_data, 2), BadGradient(), optimizer, PREPARE)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_evaluate_counts_every_pixel_once_and_restores_the_mode(network, val_data):
    network.train()
    state = copy.deepcopy(network.state_dict())
    predictions = []
    result = evaluate(
        network,
        loader_of(val_data, 2),
        PREPARE,
        criterion=CrossEntropy(),
        on_batch=lambda batch, prediction: predictions.append((batch.names, prediction)),
    )
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    hu, labels = val_data.tensors
    with torch.no_grad():
        logits = network.eval()(InputConfig().normalize(hu)[:, None])
    confusion = ConfusionMatrix(4)
    confusion.update(logits.argmax(1), labels)
    assert torch.equal(result.confusion.counts, confusion.counts)
    assert result.scores.mean_iou == confusion.scores().mean_iou
    assert result.images == 5
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels.long()).item(), rel=1e-4)
    assert [name for names, _ in predictions for name in names] == [f"item {i}" for i in range(5)]
    assert torch.equal(torch.cat([prediction for _, prediction in predictions]), logits.argmax(1))
    assert math.isnan(evaluate(network, loader_of(val_data, 2), PREPARE).loss)
    assert not network.training


def test_evaluate_restores_the_mode_after_an_error(network, val_data):
    def stop(*_):
        raise KeyboardInterrupt

    network.train()
    with pytest.raises(KeyboardInterrupt):
        evaluate(network, loader_of(val_data, 2), PREPARE, on_batch=stop)
    assert network.training


def test_preparation_clips_scales_and_augments():
    hu = torch.full((2, 1, 32, 32), 3000, dtype=torch.int16)
    batch = Batch(hu, torch.ones(2, 32, 32, dtype=torch.uint8), ("a", "b"))
    x, labels = PREPARE(batch)
    assert x.dtype == torch.float32
    assert x.unique().tolist() == [2.0]
    assert torch.equal(labels, batch.labels)
    fast = BatchPreparation(InputConfig(), CPU, channels_last=True)
    assert fast(Batch(hu.expand(2, 3, 32, 32), batch.labels, batch.names))[0].is_contiguous(
        memory_format=torch.channels_last
    )
    crops = BatchPreparation(InputConfig(), CPU, False, Augmentation(crop=16), torch.Generator().manual_seed(0))
    assert crops(batch)[0].shape == (2, 1, 16, 16)
    assert not torch.equal(crops(batch)[0], crops(batch)[0])
    with pytest.raises(ValueError, match="augmentation needs a generator"):
        BatchPreparation(InputConfig(), CPU, False, Augmentation())(batch)


def test_statistics_go_on_from_their_state():
    stats = TrainStats(3)
    stats.confusion.update(torch.tensor([0, 1]), torch.tensor([0, 2]))
    stats.batches, stats.images, stats.loss_sum, stats.seconds = 2, 8, 3.0, 4.0
    other = TrainStats(3)
    other.load_state_dict(stats.state_dict())
    assert other.state_dict().keys() == stats.state_dict().keys()
    assert (other.loss, other.images_per_second) == (1.5, 2.0)
    assert torch.equal(other.confusion.counts, stats.confusion.counts)
    assert math.isnan(TrainStats(3).loss)
