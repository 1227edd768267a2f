"""`ddrsapc train`: image/label pairs or CT scans in, weights out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import click
import torch

import ddrsapc
from ddrsapc import data
from ddrsapc.cli.device import device_of
from ddrsapc.cli.sections import SectionedCommand, section
from ddrsapc.cli.training_data import data_options, load_data
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, RegisteredName, parse_model_name
from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.models import SegmentationModel
from ddrsapc.training import FitResult, TrainConfig, fit, process_group
from ddrsapc.training.report import without_nan

__all__ = ["train"]

F = TypeVar("F", bound=Callable[..., Any])

_run, _network, _training, _recipe = map(section, ("Run", "Network", "Training", "Recipe"))


def _recipe_option(field: Field[Any], hint: Any) -> Callable[[F], F]:
    """The option of a field of `TrainConfig`."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    name = field.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if kinds[0] is bool else f"--{name}"
    kind = click.Choice(kinds) if isinstance(kinds[0], str) else kinds[0]
    text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}."
    return _recipe(flag, field.name, type=kind, default=field.default, show_default=True, help=text)


def _recipe_options(command: F) -> F:
    """The recipe's options are the fields of `TrainConfig`."""
    hints = get_type_hints(TrainConfig)
    for field in reversed(fields(TrainConfig)):
        command = _recipe_option(field, hints[field.name])(command)
    return command


@click.command(cls=SectionedCommand, short_help="Train or fine-tune a network on pairs or scans of your own.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DATA")
@_run("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for weights, checkpoints and log.")
@_run("--resume", is_flag=True, help="Go on from the last checkpoint in the output, if there is one.")
@_run("--device", help="cpu, cuda, ... (a GPU where there is one)")
@_run("--json", "as_json", is_flag=True, help="Print the result as JSON, and all else on stderr.")
@_network(
    "--model",
    metavar="NAME",
    help="arch, arch.tag, hf-hub:org/name or local-dir:PATH; all but the first bring weights.  "
    "[default: ddr_sapc_u, or that of --init]",
)
@_network(
    "--init",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to begin with, as best.safetensors of a run.",
)
@_network("--num-classes", type=int, help="Background included.  [default: 4, or the weights']")
@_network("--width", type=int, help="Channels of a new network's first layer.  [default: the network's own]")
@_network("--aux-head", is_flag=True, help="A new network gets an auxiliary head for training.")
@data_options
@_training("--augment", is_flag=True, help="Shift, scale, rotate, add noise; no mirror, for vessels have sides.")
@_training("--crop", type=click.IntRange(min=1), help="Augment to crops of so many pixels, half around calcium.")
@_training("--loss", type=click.Choice(["ohem", "ohem+dice"]), default="ohem", show_default=True)
@_recipe_options
def train(
    *,
    folder: Path,
    output: Path,
    resume: bool,
    device: str | None,
    as_json: bool,
    model: str | None,
    init: Path | None,
    num_classes: int | None,
    width: int | None,
    aux_head: bool,
    augment: bool,
    crop: int | None,
    loss: str,
    **others: Any,
) -> None:
    """Train or fine-tune a network on the pairs or CT scans in DATA; the defaults are the DDR-SAPC-U paper's recipe.

    \b
      DATA/images/p01/0001.npy  HU, (H, W) or (Z, H, W); also .npz and .png
      DATA/labels/p01/0001.npy  0 none, 1 LAD, 2 LCX, 3 RCA, 255 where a pixel does not count

    or scans (with the extra ct):

    \b
      DATA/images/p01/          a DICOM series; or images/p01.nii.gz, .mha, .mhd, .nrrd
      DATA/labels/p01.nii.gz    a mask in the scan's geometry; or .dcm (DICOM SEG), .xml, .plist (COCA)

    Patients are split at random into training, validation and test, or as DATA/train, DATA/val and DATA/test say, each
    with images/ and labels/ inside. A run that was killed goes on with --resume, bit for bit.

    \b
      ddrsapc train DATA -o outputs/run --augment
      ddrsapc train DATA -o outputs/run --augment --resume
      ddrsapc train DATA -o outputs/tuned --init outputs/run/best.safetensors --backbone-lr-scale 0.1
      torchrun --nproc-per-node 4 -m ddrsapc train DATA -o outputs/run
    """
    if crop and not augment:
        raise click.UsageError("--crop is a part of --augment; give both")
    config = TrainConfig(**{field.name: others.pop(field.name) for field in fields(TrainConfig)})
    device_of(device)
    is_first = os.environ.get("RANK", "0") == "0"
    say = partial(click.echo, err=as_json) if is_first else _nothing
    torch.manual_seed(config.seed)
    network = _build(model, init, num_classes=num_classes, width=width, aux_head=aux_head)
    ohem = OhemCrossEntropyLoss()
    try:
        with process_group(device) as place:
            loaded = load_data(folder, output, num_classes=network.num_classes, say=say, **others)
            say("\n".join((*(report.summary() for report in loaded.reports), loaded.splits.summary())))
            result = fit(
                network,
                data.SliceDataset(loaded.splits.train, readers=loaded.readers),
                data.SliceDataset(loaded.splits.val, readers=loaded.readers),
                output,
                config=config,
                criterion=ohem if loss == "ohem" else WeightedSumLoss([(ohem, 1.0), (DiceLoss(), 1.0)]),
                augmentation=data.Augmentation(crop=crop) if augment else None,
                device=place,
                resume=resume,
            )
    except KeyboardInterrupt as error:
        raise click.Abort("the same command with --resume goes on") from error
    if is_first:
        click.echo(_as_json(result) if as_json else f"best weights: {result.best}")


def _nothing(_: str) -> None:
    """What processes but the first say."""


def _build(
    name: str | None, init: Path | None, *, num_classes: int | None, width: int | None, aux_head: bool
) -> SegmentationModel:
    """The network, with the weights that were named."""
    own: dict[str, Any] = ({} if width is None else {"width": width}) | ({"aux_head": True} if aux_head else {})
    asked: dict[str, Any] = {"in_chans": 1} | ({} if num_classes is None else {"num_classes": num_classes})
    parsed = parse_model_name(name or "ddr_sapc_u")
    has_weights = init is not None or not isinstance(parsed, RegisteredName) or parsed.tag is not None
    if own and has_weights:
        raise click.UsageError("weights bring their network; leave --width and --aux-head out")
    if init is None or name is not None:
        return ddrsapc.create_model(name or "ddr_sapc_u", weights=init, **asked, **own)
    weights = open_weights(FileName(init), HubOptions())
    if weights.config is None:
        raise click.UsageError(f"{init} does not say what network it is of; name it with --model")
    return build_with_weights(None, asked, weights)


def _as_json(result: FitResult) -> str:
    about = {"best": str(result.best), "last": str(result.last), "epochs": len(result.history)}
    return json.dumps({**about, "best_epoch": without_nan(result.best_epoch)}, indent=2)
