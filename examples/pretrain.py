"""Train the weights that ddrsapc publishes, on simulated scans alone.

    python examples/pretrain.py ddr_sapc_u_s outputs/small
    python examples/pretrain.py ddr_sapc_u outputs/large --widen outputs/small/last.safetensors
    python examples/pretrain.py ddr_sapc_u outputs/finished --finish outputs/large/last.safetensors
    python examples/pretrain.py ddr_sapc_u outputs/refined --refine outputs/finished/last.safetensors
    python examples/pretrain.py ddr_sapc_u outputs/final --abstain outputs/refined/last.safetensors

Calcium fills a few pixels in a hundred thousand, too few to learn the places of the arteries from: first these are
labelled themselves. Then calcium, in whole slices of low resolution, with crops of full resolution among them, with
bright spots that are none, in whole slices of full resolution; to finish, upper abdomens and more bones among them; to
refine, more contrast and more calcium of aorta, aortic valve and mitral annulus. Last, nothing is labelled in hearts
with contrast, as scores are defined without; more of these hearts have no calcium, and some slices lie above the heart;
then more spots lie in the aorta. What is kept is the mean of the weights before and after these.
Every image is another case. Killed, the same command goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pretrain_data import (
    CHANGES,
    FULL,
    QUIET,
    SIDE,
    SPARED,
    Courses,
    Interspersed,
    Varied,
    WholeAndCropped,
    abdomens,
    lumens,
    slices,
    upper_chests,
)
from pretrain_decoys import Bones, Decoys
from short_recipe import short_criterion, short_settings
from torch.utils.data import Dataset

import ddrsapc
from ddrsapc.data import Augmentation, Sample
from ddrsapc.files import write_atomically
from ddrsapc.hub import WeightsError, load_weights
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.models import InputConfig, SegmentationModel
from ddrsapc.phantom import PhantomDataset
from ddrsapc.training import CheckpointError, NonFiniteError, TrainConfig, fit, load_trained
from ddrsapc.training.config import Amp

VALIDATED = 40  # slices after every stage
INPUT = InputConfig(hu_window=(-200.0, 800.0), mean=0.2, std=0.2)
"""From fat to dense calcium: air and lung, which vary most, are black."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the schedule, with a learning rate that rises and falls once."""

    name: Literal["courses", "low", "mixed", "decoys", "full", "abdomens", "whole", "refined", "abstain", "aorta"]
    """Of its data, see `data`."""
    steps: int
    batch_size: int
    lr: float
    contrast: float = 0.2
    """Of the cases, the part with contrast."""
    bn_batches: int = 0
    """Batch norm is re-estimated on so many at the end: abdomens and chests differ too much for its running average."""

    def data(self, seed: int) -> Dataset[Sample]:
        """Of cases that no other seed has."""
        n = self.steps * self.batch_size
        chests: dict[str, Any] = {"contrast_rate": self.contrast}
        if self.name in {"abdomens", "whole", "refined", "abstain", "aorta"}:
            chests["noise_sd"] = QUIET
        if self.name in {"refined", "abstain", "aorta"}:
            chests |= SPARED
        abstain, aorta = self.name in {"abstain", "aorta"}, self.name == "aorta"
        if abstain:  # a third of the images show no calcium anyway
            chests["positive_rate"] = 1.0
        low = slices(SIDE, n, seed, (160.0, 300.0))
        whole, full = slices(SIDE, n, seed, (200.0, 400.0), **chests), slices(FULL, n, seed, (160.0, 500.0), **chests)
        whole_below, full_below = abdomens(SIDE, n, seed, (250.0, 550.0)), abdomens(FULL, n, seed, (300.0, 550.0))
        few, many = Bones(part=0.4), Bones(part=0.6, ribs=True)
        hearts = Decoys(full, bones=few, aorta=aorta, abstain=abstain)
        below = Decoys(full_below, bones=many, vessels=True)
        above = Decoys(upper_chests(FULL, n, seed, (160.0, 500.0)), bones=many, vessels=True)
        bright = Decoys(lumens(FULL, n, seed, (160.0, 500.0)), bones=few, vessels=True, abstain=abstain)
        beside = Interspersed(above, below, every=10)  # all at multiples of five: every second is below
        everything = Interspersed(hearts, below, every=3)
        mostly = Interspersed(Interspersed(hearts, bright, every=6), beside, every=5)
        datasets: dict[str, Dataset[Sample]] = {
            "courses": Courses(low),
            "low": low,
            "mixed": WholeAndCropped(whole, full),
            "decoys": WholeAndCropped(Decoys(whole), Decoys(full)),
            "full": Decoys(full),
            "abdomens": Interspersed(
                WholeAndCropped(Decoys(whole, bones=few), Decoys(full, bones=few)),
                WholeAndCropped(Decoys(whole_below, bones=many), Decoys(full_below, bones=many)),
                every=3,
            ),
            "whole": Varied(everything, seed),
            "refined": Varied(everything, seed, part=0.6),
            "abstain": Varied(mostly, seed, part=0.6),
            "aorta": Varied(mostly, seed, part=0.6),
        }
        return datasets[self.name]


FROM_SCRATCH: tuple[Stage, ...] = (
    Stage(name="courses", steps=400, batch_size=4, lr=2e-3),
    Stage(name="low", steps=500, batch_size=4, lr=2e-3),
    Stage(name="mixed", steps=500, batch_size=4, lr=1e-3),
    Stage(name="decoys", steps=400, batch_size=4, lr=1e-3),
    Stage(name="decoys", steps=2400, batch_size=4, lr=1e-3, contrast=0.3),
    Stage(name="full", steps=80, batch_size=2, lr=2e-4, contrast=0.3),
)
WIDENED: tuple[Stage, ...] = (
    Stage(name="decoys", steps=260, batch_size=4, lr=3e-4, contrast=0.3),
    Stage(name="full", steps=24, batch_size=2, lr=1e-4, contrast=0.3),
    Stage(name="decoys", steps=560, batch_size=4, lr=4e-4, contrast=0.3),
    Stage(name="full", steps=36, batch_size=2, lr=1e-4, contrast=0.3),
)
FINISH: tuple[Stage, ...] = (
    Stage(name="abdomens", steps=1100, batch_size=8, lr=5e-4, contrast=0.3, bn_batches=32),
    Stage(name="whole", steps=600, batch_size=4, lr=2e-4, contrast=0.3, bn_batches=32),
)
"""After either of them."""
REFINE: tuple[Stage, ...] = (Stage(name="refined", steps=900, batch_size=4, lr=4e-4, contrast=0.5, bn_batches=32),)
"""After that."""
ABSTAIN: tuple[Stage, ...] = (
    Stage(name="abstain", steps=900, batch_size=4, lr=3e-4, contrast=0.15, bn_batches=32),
    Stage(name="aorta", steps=150, batch_size=4, lr=2e-4, contrast=0.15, bn_batches=32),
)
"""After that."""
BEGINNINGS = {
    "widen": "begin with those of a network half as wide",
    "finish": "go on from the network's own: abdomens, bones",
    "refine": "go on from finished ones: contrast, valves",
    "abstain": "go on from refined ones: nothing is labelled in hearts with contrast",
}


def widen(small: SegmentationModel, large: SegmentationModel, *, noise: float = 0.02) -> None:
    """Give `large`, twice as wide, the weights of `small`: it computes the same, but for a little noise.

    Every channel becomes two, and what reads them takes half of each. The noise, relative to a weight, makes them
    learn apart. Source: Chen et al., Net2Net, arXiv 1511.05641.
    """
    source, target = small.state_dict(), large.state_dict()
    fits = source.keys() == target.keys() and all(
        wide in (narrow, 2 * narrow)
        for name in source
        for narrow, wide in zip(source[name].shape, target[name].shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{large.architecture} is not {small.architecture} at twice the width")
    transposed = {
        f"{name}.weight" for name, module in large.named_modules() if isinstance(module, torch.nn.ConvTranspose2d)
    }
    generator = torch.Generator().manual_seed(0)
    for name, wide in target.items():
        value = source[name]
        inputs = 0 if name in transposed else 1
        for axis in range(min(value.ndim, 2)):
            if wide.shape[axis] == 2 * value.shape[axis]:
                value = value.repeat_interleave(2, dim=axis) / (2 if axis == inputs and value.ndim > 1 else 1)
        if value.ndim > 1:
            value = value * (1 + noise * torch.randn(value.shape, generator=generator))
        wide.copy_(value)


def average(model: SegmentationModel, other: SegmentationModel) -> None:
    """Give `model` the mean of its weights and those of `other`, which it went on from; running statistics included.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models, arXiv 2109.01903.
    """
    others = other.state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(others[name], 0.5)


def train_once(
    model: SegmentationModel,
    data: Dataset[Sample],
    val: Dataset[Sample],
    output: Path,
    *,
    batch_size: int,
    lr: float,
    seed: int,
    bn_batches: int = 0,
    amp: Amp = "none",
) -> Path:
    """Train on every image once; return the weights of the end."""
    steps = len(data) // batch_size  # type: ignore[arg-type]  # a Dataset with a length
    result = fit(
        model,
        data,
        val,
        output,
        config=TrainConfig(
            batch_size=batch_size,
            seed=seed,
            channels_last=True,
            checkpoint_steps=50,
            bn_batches=bn_batches,
            amp=amp,
            **short_settings(steps, lr),
        ),
        criterion=short_criterion(),
        augmentation=Augmentation(**CHANGES, noise=8, gain=0.02, offset=8),
        resume=True,
    )
    print(output.name, result.history[-1], flush=True)
    return result.last


def main(argv: Sequence[str] | None = None) -> int:
    """Train through all stages; one line on stderr and 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of the network")
    parser.add_argument("output", type=Path, help="folder for checkpoints, logs and last.safetensors")
    parser.add_argument("--width", type=int, help="channels of the network's first level (the network's own)")
    parser.add_argument("--amp", choices=get_args(Amp), default="none", help="as of `ddrsapc train` (%(default)s)")
    begin = parser.add_mutually_exclusive_group()
    for beginning, about in BEGINNINGS.items():
        begin.add_argument(f"--{beginning}", type=Path, metavar="WEIGHTS", help=about)
    args = parser.parse_args(argv)
    given = {beginning: getattr(args, beginning) for beginning in BEGINNINGS if getattr(args, beginning) is not None}
    try:
        run(args.model, args.output, width=args.width, amp=args.amp, given=given)
    except (CheckpointError, NonFiniteError, WeightsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(name: str, output: Path, *, width: int | None, amp: Amp, given: dict[str, Path]) -> None:
    """Train a network from scratch, or with one of the beginnings and its weights."""
    torch.manual_seed(0)
    options: dict[str, Any] = {} if width is None else {"width": width}
    model = ddrsapc.create_model(name, num_classes=4, **options)
    model.input_config = INPUT
    schedules = {"": FROM_SCRATCH, "widen": WIDENED, "finish": FINISH, "refine": REFINE, "abstain": ABSTAIN}
    beginning, weights = next(iter(given.items()), ("", None))
    if weights is not None:
        if beginning == "widen":
            widen(load_trained(weights), model)
        else:
            load_weights(model, weights)
        keep_beginning(weights, output)
    first_seed = sum(len(stages) for stages in list(schedules.values())[: list(schedules).index(beginning)])
    val = PhantomDataset("val", FULL, VALIDATED, seed=0)
    lasts: list[Path] = []
    for seed, stage in enumerate(schedules[beginning], first_seed):
        folder = output / f"{seed}_{stage.name}"
        schedule: dict[str, Any] = {key: getattr(stage, key) for key in ("batch_size", "lr", "bn_batches")}
        lasts.append(train_once(model, stage.data(seed), val, folder, seed=seed, amp=amp, **schedule))
        model = load_trained(lasts[-1])
    if beginning == "abstain":
        average(model, load_trained(lasts[-2]))
    write_atomically(output / "last.safetensors", weights_bytes(model))


def keep_beginning(weights: Path, output: Path) -> None:
    """Put the weights that a run begins with beside its checkpoints.

    Raises:
        ValueError: if other ones are there: the checkpoints are another run's.
    """
    kept = output / "first.safetensors"
    if kept.exists() and not filecmp.cmp(weights, kept, shallow=False):
        raise ValueError(f"{output} holds a run that began with other weights than {weights}; take another folder")
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, kept)


if __name__ == "__main__":
    sys.exit(main())
