"""Two processes with gloo, as two machines without GPUs would have them."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from ddrsapc.cli.app import run
from ddrsapc.data import Augmentation, EpochBatches, make_loader, shard_batches
from ddrsapc.losses import OhemCrossEntropyLoss
from ddrsapc.models import InputConfig
from ddrsapc.training import BatchPreparation, TrainConfig, evaluate, fit, load_trained, train_one_epoch
from ddrsapc.training import run as training_run
from ddrsapc.training.checkpoints import Checkpoints
from ddrsapc.training.distributed import broadcast_buffers, gather, process_group, rank_and_world_size, unwrap
from tests.training.processes import CONTEXT
from tests.training.small import small_network, squares, write_curves

PREPARE = BatchPreparation(InputConfig(), torch.device("cpu"))
pytestmark = pytest.mark.slow


def two_processes(function, folder):
    """Runs function(rank, folder) on both; an assertion that fails there fails here."""
    processes = [CONTEXT.Process(target=joined, args=(function, rank, folder)) for rank in range(2)]
    end(processes)


def end(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def quickly():
    torch.set_num_threads(1)
    training_run.draw_curves = write_curves


def joined(function, rank, folder):
    quickly()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    function(rank, folder)
    dist.destroy_process_group()


def steps(rank, folder):
    data = squares(16)
    network = small_network()
    parallel = DistributedDataParallel(network)
    alone = copy.deepcopy(network)  # this rank's gradient without the other
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    batches = EpochBatches(16, 2, seed=0, rank=rank, world_size=2)
    loader = make_loader(data, batches)
    expected = []

    def prepare(batch):
        """And this process's own gradient at the step's weights."""
        x, labels = PREPARE(batch)
        alone.load_state_dict(network.state_dict())
        alone.zero_grad()
        OhemCrossEntropyLoss()(alone.train()(x), labels).backward()
        expected.append([parameter.grad.clone() for parameter in alone.parameters()])
        return x, labels

    seen = []
    optimizer.register_step_pre_hook(
        lambda *_: seen.append([parameter.grad.clone() for parameter in network.parameters()])
    )
    count = []

    def identical(_):
        count.append(1)
        for parameter in network.parameters():
            other = parameter.detach().clone()
            dist.broadcast(other, 0)
            assert torch.equal(parameter, other)

    train_one_epoch(parallel, loader, OhemCrossEntropyLoss(), optimizer, prepare, on_step=identical)
    assert len(count) == 4
    assert len(seen) == len(expected) == 4
    for averaged, own in zip(seen, expected, strict=True):
        for ours, theirs in zip(averaged, own, strict=True):
            dist.all_reduce(theirs)
            torch.testing.assert_close(ours, theirs / 2, rtol=1e-4, atol=1e-6)


def accumulated(rank, folder):
    """Gradients of two batches on two processes are those of all four batches' mean."""
    data = squares(16)
    network = small_network().eval()  # batch statistics would differ between groupings
    network.train = lambda mode=True: network
    parallel = DistributedDataParallel(network)
    whole = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in network.parameters()))
    loader = make_loader(data, EpochBatches(16, 4, seed=0, rank=rank, world_size=2))

    class CrossEntropy(torch.nn.Module):
        def forward(self, logits, labels):
            return F.cross_entropy(logits, labels.long())

    train_one_epoch(parallel, loader, CrossEntropy(), optimizer, PREPARE, accumulate=2)
    hu, labels = data.tensors
    F.cross_entropy(whole(InputConfig().normalize(hu)[:, None]), labels.long()).backward()
    for ours, theirs in zip(seen, whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-6)


def evaluation(rank, folder):
    data = squares(7, seed=1)  # an odd count: nothing may be evaluated twice to even it out
    network = small_network()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(rank)  # statistics differ, until the first process's are given to all
    broadcast_buffers(network)
    ours = evaluate(
        DistributedDataParallel(network),
        make_loader(data, shard_batches(7, 2, rank=rank, world_size=2)),
        PREPARE,
        criterion=OhemCrossEntropyLoss(),
    )
    assert ours.images == 7
    whole = make_loader(data, shard_batches(7, 7))
    predictions = []
    reference = small_network()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(0)
    with torch.no_grad():
        for batch in whole:
            x, _ = PREPARE(batch)
            predictions.append(reference.eval()(x).argmax(1))
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for true, predicted in zip(data.tensors[1].flatten(), torch.cat(predictions).flatten(), strict=True):
        confusion[true.long(), predicted] += 1
    assert torch.equal(ours.confusion.counts, confusion)
    assert gather(ours.scores.mean_iou)[0] == gather(ours.scores.mean_iou)[1]


def few(rank, folder):
    """One image for two processes: the second has nothing to evaluate and must not be waited for."""
    loader = make_loader(squares(1), shard_batches(1, 2, rank=rank, world_size=2))
    assert evaluate(DistributedDataParallel(small_network()), loader, PREPARE).images == 1


FIT = TrainConfig(epochs=2, batch_size=2, accumulate=2, lr=0.05, ema_decay=0.5, bn_batches=1, checkpoint_steps=1)


def whole_run(rank, folder):
    options = {"config": FIT, "augmentation": Augmentation(crop=32), "device": "cpu"}
    result = fit(small_network(), squares(16), squares(5, seed=1), folder / "whole", **options)
    assert len({str(history) for history in gather([record["val_iou"] for record in result.history])}) == 1

    class StopError(Exception):
        pass

    calls = []

    class Stopping(OhemCrossEntropyLoss):
        def forward(self, logits, labels):
            calls.append(1)
            if len(calls) == 9:  # on both, in the second epoch
                raise StopError
            return super().forward(logits, labels)

        def __repr__(self):
            return repr(OhemCrossEntropyLoss())

    arguments = (squares(16), squares(5, seed=1), folder / "stopped")
    with pytest.raises(StopError):
        fit(small_network(), *arguments, **options, criterion=Stopping())
    dist.barrier()
    fit(small_network(), *arguments, **options, resume=True)
    if rank == 0:
        for name in ("best", "last"):
            ours, theirs = ((folder / run / f"{name}.safetensors").read_bytes() for run in ("whole", "stopped"))
            assert ours == theirs
        assert json.loads((folder / "whole" / "config.json").read_text())["processes"] == 2


@pytest.mark.parametrize("function", [steps, accumulated, evaluation, few, whole_run], ids=lambda f: f.__name__)
def test_two_processes(function, tmp_path):
    two_processes(function, tmp_path)


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert rank_and_world_size() == (0, 1)
        assert gather("alone") == ["alone"]
        network = small_network()
        broadcast_buffers(network)
        assert unwrap(network) is network


def write_data(folder):
    for split, count, seed in (("train", 16, 0), ("val", 3, 1)):
        for kind, tensor in zip(("images", "labels"), squares(count, seed=seed).tensors, strict=True):
            (folder / split / kind).mkdir(parents=True)
            for i, array in enumerate(tensor.numpy()):
                np.save(folder / split / kind / f"{split}{i}.npy", array)


def arguments(data, output, epochs):
    network = ["--model", "unet", "--width", "4", "--batch-size", "2", "--device", "cpu"]
    return ["train", str(data), "-o", str(output), *network, "--epochs", str(epochs), "--checkpoint-steps", "1"]


def as_torchrun_does(rank, port, command):
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    quickly()
    sys.exit(run(command))


def two_trainings(command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [CONTEXT.Process(target=as_torchrun_does, args=(rank, port, command)) for rank in range(2)]


def test_a_process_that_dies_ends_the_others_and_the_next_run_resumes(tmp_path):
    write_data(tmp_path / "data")
    processes = two_trainings(arguments(tmp_path / "data", tmp_path / "run", epochs=6))
    for process in processes:
        process.start()
    deadline = time.monotonic() + 90
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    processes[1].kill()
    for process in processes:
        process.join(120)
    assert processes[1].exitcode == -signal.SIGKILL
    assert processes[0].exitcode == 2  # it does not wait for ever
    steps = Checkpoints(tmp_path / "run").steps()
    assert 0 < steps[-1] < 24

    end(two_trainings([*arguments(tmp_path / "data", tmp_path / "run", epochs=6), "--resume"]))
    end(two_trainings(arguments(tmp_path / "data", tmp_path / "whole", epochs=6)))
    ours, theirs = (load_trained(tmp_path / run / "last.safetensors").state_dict() for run in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_torchrun_reports_the_error_of_a_process(root, tmp_path):
    write_data(tmp_path / "data")
    (tmp_path / "data" / "train" / "labels" / "train3.npy").write_bytes(b"")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ddrsapc"]
    command = [sys.executable, "-m", *launcher, *arguments(tmp_path / "data", tmp_path / "run", epochs=1)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    reason, report = done.stderr.split("Root Cause (first observed failure)")
    assert "train3.npy: cannot be read" in report
    assert "  File " not in report  # the error, not a traceback of ours
    assert reason.count("error: 1 problem(s) in ") == 2
    assert not (tmp_path / "run").exists()
