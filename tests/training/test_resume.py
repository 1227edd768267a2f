"""Killed with SIGKILL at random moments, a run ends as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from ddrsapc.data import Augmentation
from ddrsapc.training import TrainConfig, fit, run
from ddrsapc.training.checkpoints import Checkpoints
from tests.training.processes import CONTEXT
from tests.training.small import small_network, squares, write_curves

KILLS = 20
CONFIG = TrainConfig(
    epochs=6, batch_size=4, accumulate=2, lr=0.05, ema_decay=0.9, clip_norm=1.0, bn_batches=1, checkpoint_steps=2
)


def train(output):
    torch.set_num_threads(1)
    run.draw_curves = write_curves
    fit(
        small_network(aux_head=True),
        squares(48),
        squares(6, seed=1),
        output,
        config=CONFIG,
        augmentation=Augmentation(crop=32),
        device="cpu",
        resume=True,
    )


def contents(folder):
    """The files that a finished run leaves, without what tells the time or is a picture."""
    names = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    return {str(name): (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    whole = CONTEXT.Process(target=train, args=(tmp_path / "whole",))
    start = time.monotonic()
    whole.start()
    whole.join()
    seconds = time.monotonic() - start
    assert whole.exitcode == 0

    dice, kills, reached = random.Random(0), 0, set()
    output = tmp_path / "killed"
    for _ in range(200):
        child = CONTEXT.Process(target=train, args=(output,))
        before = Checkpoints(output).steps()
        child.start()
        while kills % 5 == 4 and child.is_alive() and Checkpoints(output).steps() == before:
            time.sleep(0.005)  # now and then it gets further, however slow the machine
        # early moments are likely, so that the run lives long enough to be killed 20 times
        child.join(dice.expovariate(1) * seconds / 40 if kills < KILLS else None)
        if child.is_alive():
            child.kill()
            child.join()
            kills += 1
        checkpoints = Checkpoints(output)
        for step in checkpoints.steps():
            weights, state = checkpoints.load(step)  # raises for a corrupt one
            assert state["step"] == step
            assert weights.keys() == {"model", "ema"}
        reached.update(checkpoints.steps()[-1:])
        if child.exitcode == 0:
            break
    assert kills >= KILLS
    assert len(reached) >= 2
    ours, theirs = contents(output), contents(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours)
    assert not list(output.rglob("*.part"))
    assert Checkpoints(output).steps() == Checkpoints(tmp_path / "whole").steps()
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (output, tmp_path / "whole")]
    columns = logs[0][0].split(",")
    kept = [i for i, column in enumerate(columns) if column not in ("seconds", "eval_seconds", "images_per_second")]
    ours, theirs = ([[line.split(",")[i] for i in kept] for line in log] for log in logs)
    assert ours == theirs


def killed_at(output, moment):
    """Trains, and is killed just before the file system's change of this number; counts them where it lives."""
    count = [0]

    def watched(change):
        def wrapper(*args, **kwargs):
            count[0] += 1
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return wrapper

    for name in ("rename", "replace"):
        setattr(Path, name, watched(getattr(Path, name)))
    shutil.rmtree = watched(shutil.rmtree)
    torch.set_num_threads(1)
    run.draw_curves = write_curves
    config = TrainConfig(epochs=2, batch_size=8, lr=0.05, ema_decay=0.9, keep=1)
    fit(small_network(), squares(8), squares(3, seed=1), output, config=config, device="cpu", resume=True)
    (output / "changes").write_text(str(count[0]))


@pytest.mark.slow
def test_killed_before_every_change_of_the_file_system(tmp_path):
    def ends(name, moment):
        child = CONTEXT.Process(target=killed_at, args=(tmp_path / name, moment))
        child.start()
        child.join()
        return child.exitcode

    assert ends("whole", 0) == 0
    changes = int((tmp_path / "whole" / "changes").read_text())
    assert changes > 15
    for moment in range(1, changes + 1):
        output = tmp_path / str(moment)
        assert ends(str(moment), moment) == -signal.SIGKILL
        for step in Checkpoints(output).steps():
            Checkpoints(output).load(step)
        assert ends(str(moment), 0) == 0
        ours, theirs = contents(output), contents(tmp_path / "whole")
        assert ours.keys() == theirs.keys(), moment
        assert all(ours[name] == theirs[name] for name in ours), moment
        assert not list(output.rglob("*.part")), moment
        assert (output / "curves.png").exists()
