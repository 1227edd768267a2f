import csv
import errno
import json
import math
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from ddrsapc.data import Augmentation, DataError, SliceDataset, check_folder
from ddrsapc.files import lock, write_atomically
from ddrsapc.losses import OhemCrossEntropyLoss
from ddrsapc.models import InputConfig
from ddrsapc.training import CheckpointError, NonFiniteError, TrainConfig, fit, load_trained
from ddrsapc.training.checkpoints import Checkpoints
from tests.training.processes import CONTEXT
from tests.training.small import small_network, squares

CONFIG = TrainConfig(epochs=3, batch_size=4, lr=0.05)


def weights(path):
    return load_trained(path).state_dict()


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class StopError(Exception):
    pass


class Stopping(Dataset):
    """Raises once the items of the dataset were read so often: a crash that a test can time."""

    def __init__(self, data, reads):
        self.data, self.reads = data, reads

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if self.reads == 0:
            raise StopError
        self.reads -= 1
        return self.data[index]


def test_learns_and_writes_everything(network, val_data, tmp_path, capsys):
    data = squares(40)
    config = replace(CONFIG, epochs=12, lr=0.1, warmup_steps=10)
    result = fit(network, data, val_data, tmp_path / "run", config=config, device="cpu")
    scores = [record["val_foreground_mean_iou"] for record in result.history]
    assert scores[-1] > 0.8
    assert [record["epoch"] for record in result.history] == list(range(1, 13))
    assert result.history[-1]["step"] == 120
    assert result.history[1]["lr"] < result.history[0]["lr"] * 11
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.safetensors", "checkpoints", "config.json", "curves.png", "last.safetensors", "log.csv", "log.jsonl",
    }  # fmt: skip
    assert equal(weights(result.last), network.state_dict())
    best = scores.index(max(scores))
    steps = Checkpoints(tmp_path / "run").steps()
    assert {110, 120, 10 * (best + 1)} <= set(steps)
    assert len(steps) <= 4
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [float(row["val_foreground_mean_iou"]) for row in rows] == scores
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["config"]["lr"] == 0.1
    assert about["train_images"] == 40
    err = capsys.readouterr().err
    assert err.count("epoch ") == 12
    assert f"(foreground {scores[-1]:.4f}" in err


def test_the_best_epoch_is_kept_although_a_later_one_is_worse(network, train_data, val_data, tmp_path):
    result = fit(network, train_data, val_data, tmp_path, config=replace(CONFIG, epochs=6, keep=1), device="cpu")
    scores = [record["val_foreground_mean_iou"] for record in result.history]
    best = max(range(6), key=lambda epoch: (scores[epoch] if math.isfinite(scores[epoch]) else -1, -epoch))
    assert best < 5
    step = result.history[best]["step"]
    saved, _ = Checkpoints(tmp_path).load(step)
    assert equal(weights(result.best), saved["model"])


RECIPES = {
    "plain": (CONFIG, None),
    "everything": (
        TrainConfig(
            epochs=3, batch_size=2, accumulate=2, optimizer="adamw", lr=1e-3, schedule="cosine", warmup_steps=2,
            clip_norm=1.0, ema_decay=0.9, bn_batches=1, channels_last=True, amp="bfloat16", seed=3,
        ),
        Augmentation(crop=32),
    ),
    "float16": (TrainConfig(epochs=3, batch_size=4, lr=0.05, amp="float16", clip_norm=1.0), None),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("checkpoint_steps", [None, 1])
def test_resumes_bit_for_bit_after_a_crash_at_any_item(tmp_path, recipe, checkpoint_steps, val_data):
    config, augmentation = RECIPES[recipe]
    config = replace(config, checkpoint_steps=checkpoint_steps)
    data = squares(9)
    options = {"config": config, "augmentation": augmentation, "device": "cpu"}
    whole = fit(small_network(), data, val_data, tmp_path / "whole", **options)
    for reads in range(1, 24, 6):
        output = tmp_path / f"stopped-{reads}"
        with pytest.raises(StopError):
            fit(small_network(), Stopping(data, reads), val_data, output, **options)
        resumed = fit(small_network(), data, val_data, output, resume=True, **options)
        for name in ("best", "last"):
            ours, theirs = ((path / f"{name}.safetensors").read_bytes() for path in (tmp_path / "whole", output))
            assert ours == theirs
        timing = {"seconds", "eval_seconds", "images_per_second"}
        for ours, theirs in zip(resumed.history, whole.history, strict=True):
            assert str({k: v for k, v in ours.items() if k not in timing}) == str(
                {k: v for k, v in theirs.items() if k not in timing}
            )
        assert len((output / "log.jsonl").read_text().splitlines()) == config.epochs


def test_a_step_checkpoint_is_used(tmp_path, val_data):
    data = squares(24)
    config = replace(CONFIG, epochs=1, checkpoint_steps=2)
    with pytest.raises(StopError):
        fit(small_network(), Stopping(data, 22), val_data, tmp_path, config=config, device="cpu")
    assert Checkpoints(tmp_path).steps() == [2, 4]
    counted = Stopping(data, 1000)
    fit(small_network(), counted, val_data, tmp_path, config=config, device="cpu", resume=True)
    assert 1000 - counted.reads == 8  # the last two batches only


def test_another_process_in_the_same_folder_is_refused(tmp_path, train_data, val_data):
    other = CONTEXT.Process(target=hold, args=(tmp_path,))
    other.start()
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(FileExistsError, match="another process is at work"):
            fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")
    finally:
        other.kill()
        other.join()
    fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")  # a killed process holds nothing


def hold(folder):
    (folder / "checkpoints").mkdir()
    kept = lock(folder / "checkpoints" / ".lock")
    (folder / "held").touch()
    time.sleep(60)
    kept.close()


def test_a_checkpoint_of_another_version_is_named(tmp_path, train_data, val_data):
    config = replace(CONFIG, ema_decay=0.9)
    fit(small_network(), train_data, val_data, tmp_path, config=config, device="cpu")
    (tmp_path / "checkpoints" / "step-00000006.copy").mkdir()  # a user's, left alone
    (Checkpoints(tmp_path).path(6) / "ema.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"step-00000006 is not whole, or of another version .*delete this folder"
    ):
        fit(small_network(), train_data, val_data, tmp_path, config=config, device="cpu", resume=True)


def test_float16_gradients_that_never_are_finite_end_the_run(tmp_path, train_data, val_data):
    class Broken(OhemCrossEntropyLoss):
        def forward(self, logits, labels):
            return super().forward(logits, labels) + 0 * (logits.float() - logits.float().detach()).sqrt().sum()

    config = replace(CONFIG, amp="float16", epochs=20)
    with pytest.raises(NonFiniteError, match=r"step \d+: the gradient is nan"):
        fit(small_network(), train_data, val_data, tmp_path, config=config, criterion=Broken(), device="cpu")


def test_sync_bn_needs_gpus(tmp_path, network, train_data, val_data):
    with pytest.raises(ValueError, match="sync_bn needs GPUs; the device is cpu"):
        fit(network, train_data, val_data, tmp_path, config=replace(CONFIG, sync_bn=True), device="cpu")


def test_a_plain_criterion_of_torch_does(tmp_path, network, train_data, val_data):
    criterion = torch.nn.CrossEntropyLoss(ignore_index=255)
    fit(network, train_data, val_data, tmp_path, config=CONFIG, criterion=criterion, device="cpu")


def test_a_finished_run_resumes_to_itself(tmp_path, train_data, val_data):
    first = fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")
    (tmp_path / "last.safetensors").unlink()  # as if killed just before
    network = small_network()
    again = fit(network, train_data, val_data, tmp_path, config=CONFIG, device="cpu", resume=True)
    assert str(again.history) == str(first.history)
    assert equal(weights(again.last), network.state_dict())


def test_seeds_make_runs_and_other_seeds_other_runs(tmp_path, train_data, val_data):
    runs = []
    for i, seed in enumerate((0, 0, 1)):
        result = fit(
            small_network(), train_data, val_data, tmp_path / str(i), config=replace(CONFIG, seed=seed), device="cpu"
        )
        runs.append(weights(result.last))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_an_earlier_run_is_never_overwritten(tmp_path, train_data, val_data):
    fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="holds a run of 6 steps already; resume it, or give another folder"):
        fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")
    narrow, known = small_network(), Subset(train_data, range(10))
    narrow.input_config = InputConfig((-100.0, 100.0))
    known.fingerprint = "ab"
    changes = {
        r"lr was 0\.05, is 0\.1": {"config": replace(CONFIG, lr=0.1)},
        "augmentation was 'None', is 'Augm": {"augmentation": Augmentation()},
        "train_images was 10, is 9": {"train_data": Subset(train_data, range(9))},
        "criterion was ": {"criterion": torch.nn.CrossEntropyLoss()},
        r"weight=\[1\.0, 2\.0": {"criterion": OhemCrossEntropyLoss(weight=[1, 2, 1, 1])},
        "input was {": {"model": narrow},
        "train_data was None, is 'ab'": {"train_data": known},
    }
    for message, change in changes.items():
        options = {"model": small_network(), "train_data": train_data, "val_data": val_data, "config": CONFIG} | change
        with pytest.raises(CheckpointError, match=f"was begun otherwise: .*{message}.*resume it as it was"):
            fit(output=tmp_path, device="cpu", resume=True, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_another_network_does_not_resume(tmp_path, train_data, val_data):
    fit(small_network(), train_data, val_data, tmp_path, config=CONFIG, device="cpu")
    with pytest.raises(CheckpointError, match="network was"):
        fit(small_network(aux_head=True), train_data, val_data, tmp_path, config=CONFIG, device="cpu", resume=True)


def test_empty_and_too_small_splits_are_named_and_nothing_is_written(tmp_path, network, train_data, val_data):
    none = Subset(train_data, [])
    for what, arguments in (("training", (none, val_data)), ("validation", (train_data, none))):
        with pytest.raises(ValueError, match=f"no {what} image; the {what} split is empty"):
            fit(network, *arguments, tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match=r"3 training image\(s\) make no batch of 4"):
        fit(network, Subset(train_data, range(3)), val_data, tmp_path / "run", device="cpu")
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_found_at_once(tmp_path, network, train_data, val_data):
    (tmp_path / "file").write_text("")
    untouched = Stopping(train_data, 0)
    with pytest.raises(OSError, match="file"):
        fit(network, untouched, val_data, tmp_path / "file", device="cpu")


def test_a_folder_without_permission_is_found_before_training(network, train_data, val_data):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)  # root may write everywhere
        with pytest.raises(PermissionError, match=folder.name):
            fit(network, Stopping(train_data, 0), val_data, folder / "run", device="cpu")
    finally:
        if is_root:
            os.seteuid(0)
    assert not list(folder.iterdir())
    folder.rmdir()


def test_a_disk_that_fills_up_ends_the_run_and_keeps_its_checkpoint(tmp_path, train_data, val_data, monkeypatch):
    config = replace(CONFIG, epochs=3)
    room = [2]  # checkpoints that fit

    def write(path, data):
        if path.name == "state.pt":
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("ddrsapc.training.checkpoints.write_atomically", write)
        with pytest.raises(OSError, match=r"No space left on device: .*state\.pt"):
            fit(small_network(), train_data, val_data, tmp_path / "full", config=config, device="cpu")
    assert Checkpoints(tmp_path / "full").steps() == [2, 4]
    assert not list(tmp_path.rglob("*.part"))
    resumed = fit(small_network(), train_data, val_data, tmp_path / "full", config=config, device="cpu", resume=True)
    whole = fit(small_network(), train_data, val_data, tmp_path / "whole", config=config, device="cpu")
    assert equal(weights(resumed.last), weights(whole.last))


def test_a_file_that_breaks_during_the_run_is_named(tmp_path, val_data):
    for kind, tensor in zip(("images", "labels"), squares(8).tensors, strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(tensor.numpy()):
            np.save(tmp_path / "data" / kind / f"p{i}.npy", array)
    data = SliceDataset(check_folder(tmp_path / "data").cases)
    (tmp_path / "data" / "images" / "p5.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/p5\.npy: cannot be read"):
        fit(small_network(), data, val_data, tmp_path / "run", config=CONFIG, device="cpu")


def test_nan_stops_with_step_files_and_learning_rate_and_the_run_goes_on_from_before(tmp_path, train_data, val_data):
    hu, labels = train_data.tensors
    broken = hu.float()
    broken[7, 3, 3] = math.nan
    config = replace(CONFIG, checkpoint_steps=1, seed=2)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step \d: the loss is nan .*learning rate 0\.0.*item 7"):
        fit(small_network(), TensorDataset(broken, labels), val_data, tmp_path, config=config, device="cpu")
    mended = TensorDataset(hu.float(), labels)
    resumed = fit(small_network(), mended, val_data, tmp_path, config=config, device="cpu", resume=True)
    whole = fit(small_network(), mended, val_data, tmp_path / "whole", config=config, device="cpu")
    assert equal(weights(resumed.last), weights(whole.last))


def test_the_average_is_what_is_evaluated_and_published(tmp_path, train_data, val_data):
    network = small_network()
    result = fit(network, train_data, val_data, tmp_path, config=replace(CONFIG, ema_decay=0.5), device="cpu")
    saved, _ = Checkpoints(tmp_path).load(6)
    assert equal(saved["model"], network.state_dict())
    assert equal(saved["ema"], weights(result.last))
    assert not equal(saved["model"], saved["ema"])


def test_batch_norm_is_estimated_again(tmp_path, train_data, val_data):
    network = small_network()
    config = replace(CONFIG, epochs=1, lr=1e-9, bn_batches=2)
    fit(network, train_data, val_data, tmp_path, config=config, device="cpu")
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    conv = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    hu = train_data.tensors[0][[0, 1, 2, 3, 5, 6, 7, 8]].float()[:, None] / 500  # eight images, evenly over the ten
    with torch.no_grad():
        expected = conv(hu.clamp(-2, 2)).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-3, atol=1e-5)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_can_be_left_as_it_is(frozen, tmp_path, train_data, val_data):
    network = small_network()
    norms = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    before = {name: (m.running_mean.clone(), m.running_var.clone(), m.weight.clone()) for name, m in norms.items()}
    config = replace(CONFIG, epochs=2, freeze_bn=frozen)
    fit(network, train_data, val_data, tmp_path, config=config, device="cpu")
    for name, norm in norms.items():
        mean, variance, weight = before[name]
        assert (torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)) == frozen
        assert not torch.equal(norm.weight, weight)


def test_deterministic_algorithms_are_switched_back(tmp_path, train_data, val_data):
    seen = []

    class Watching(Dataset):
        def __len__(self):
            return len(train_data)

        def __getitem__(self, index):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return train_data[index]

    config = replace(CONFIG, epochs=1, deterministic=True)
    fit(small_network(), Watching(), val_data, tmp_path, config=config, device="cpu")
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_runs_save_plain_weights(tmp_path, train_data, val_data, monkeypatch):
    torch.compiler.reset()  # sizes that other tests compiled for
    # Inductor takes a minute for the kernels, which are not what is tested
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = replace(CONFIG, epochs=1, compile=True)
    result = fit(small_network(), train_data, val_data, tmp_path, config=config, device="cpu")
    assert weights(result.last).keys() == small_network().state_dict().keys()


@pytest.mark.slow
def test_reading_processes_do_not_change_the_result(tmp_path, train_data, val_data):
    plain = fit(small_network(), train_data, val_data, tmp_path / "0", config=CONFIG, device="cpu")
    read = fit(small_network(), train_data, val_data, tmp_path / "2", config=replace(CONFIG, workers=2), device="cpu")
    assert equal(weights(plain.last), weights(read.last))
