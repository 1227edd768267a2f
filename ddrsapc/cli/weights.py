"""`ddrsapc convert`, `verify` and `push`."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import click
import torch

from ddrsapc.checkpoint import build_from_checkpoint
from ddrsapc.files import write_atomically
from ddrsapc.hub.errors import UnsafeWeightsError, WeightsNotFoundError
from ddrsapc.hub.loading import local_file, named_spec
from ddrsapc.hub.manifest import WeightsSpec, load_manifest
from ddrsapc.hub.publishing import publish
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.hub.sources import FileName, RegisteredName, parse_model_name, parse_source
from ddrsapc.hub.weights_file import parse_weights, verify_weights

__all__ = ["convert", "push", "verify"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(short_help="Turn a PyTorch checkpoint (.pth) into safetensors.")
@click.argument("source", type=click.Path(path_type=Path), metavar="IN.pth")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--model", metavar="NAME", help="The network, where it is not a public DDRNet: see list_models().")
@click.option("--width", type=click.IntRange(min=1), help="Its width, where it is not the network's own.")
def convert(source: Path, target: Path, model: str | None, width: int | None) -> None:
    """Turn a PyTorch checkpoint into safetensors that say what network they belong to.

    Reads public DDRNet-23 and DDRNet-23-slim checkpoints (the reference repository's and mmsegmentation's), and with
    --model a state dict of one of our networks. Only tensors are read (weights_only=True): code in the file does not
    run. Nothing is downloaded.

    \b
      ddrsapc convert DDRNet23s_imagenet.pth ddrnet_23_slim.safetensors
      ddrsapc convert mine.pth mine.safetensors --model ddr_sapc_u

    Then: create_model("ddrnet_23_slim", weights="ddrnet_23_slim.safetensors")
    """
    if target.suffix != ".safetensors":
        raise click.UsageError(f"{target} is to end in .safetensors")
    if os.path.lexists(target):
        raise click.UsageError(f"{target} exists already; give another name, or remove it")
    if not target.parent.is_dir():
        raise click.UsageError(f"the folder {target.parent} does not exist; make it first")
    if not source.is_file():
        raise click.UsageError(f"{source} does not exist")
    if width is not None and model is None:
        raise click.UsageError("--width goes with --model")
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeWeightsError(
            f"{source} is no checkpoint, or holds more than tensors, which is not read; where you trust it, save "
            "model.state_dict() alone from the program that wrote it"
        ) from error
    except Exception as error:  # PyTorch raises many kinds for damaged files
        raise click.UsageError(
            f"{source} is no checkpoint, or cut short ({' '.join(str(error).split())[:120]})"
        ) from error
    options: dict[str, Any] = {"width": width} if width is not None else {}
    try:
        network, left = build_from_checkpoint(state, architecture=model, **options)
    except ValueError as error:
        way_out = "" if model is not None else "; for a state dict of another network of ours name it with --model"
        raise click.UsageError(f"{source}: {error}{way_out}") from error
    data = weights_bytes(network, converted_from=source.name)
    file = parse_weights(data, str(source))
    write_atomically(target, data)
    click.echo(
        f"{target}: {network.architecture}, {network.num_classes} classes, {network.in_chans} channels, "
        f"{len(file.tensors)} tensors, {file.size} bytes, sha256 {file.sha256}"
    )
    if left:
        click.echo(f"{len(left)} tensors are newly initialised (DAPPM, head): fine-tune before use", err=True)


@click.command(short_help="Check weights against the manifest, or a file by itself.")
@click.argument("weights", required=False, metavar="[FILE|NAME]")
@click.option("--tag", metavar="NAME", help="The manifest's entry (arch.tag) that FILE must be a copy of.")
@click.option(
    "--all", "need_all", is_flag=True, help="An entry of the manifest that is not on this machine is an error."
)
@_JSON
def verify(weights: str | None, tag: str | None, need_all: bool, as_json: bool) -> None:
    """Check that weights are what they should be: hash, size, header, finite values.

    Without FILE: all entries of the manifest that are on this machine. With the name of an entry (arch.tag): that one.
    With FILE: the file, against the entry that --tag names, else by itself; prints what a manifest's entry needs.

    \b
      ddrsapc verify
      ddrsapc verify outputs/run/best.safetensors --json
    """
    source = parse_source(weights) if weights is not None else None
    if tag is not None and not isinstance(source, FileName):
        raise click.UsageError("--tag goes with a FILE")
    if isinstance(source, FileName):
        spec = named_spec(_registered(tag)) if tag is not None else None
        found = [_verified(source.path, spec)]
    elif weights is not None:
        found = [_verified_entry(named_spec(_registered(weights)), needed=True)]
    else:
        found = [_verified_entry(spec, needed=need_all) for spec in load_manifest().values()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for row in found:
        label = " ".join(str(row[key]) for key in ("name", "file") if row.get(key))
        details = f"{row['bytes']} bytes, {row['num_tensors']} tensors, sha256 {row['sha256']}" if row["file"] else ""
        click.echo(f"{label}: {details or 'not here'}")
    if not found:
        click.echo("the manifest lists no weights")


def _verified(path: Path, spec: WeightsSpec | None) -> dict[str, Any]:
    file = verify_weights(path, spec)
    name = {} if spec is None else {"name": spec.name}
    return {**name, "file": str(path), "sha256": file.sha256, "bytes": file.size, "num_tensors": len(file.tensors)}


def _verified_entry(spec: WeightsSpec, *, needed: bool) -> dict[str, Any]:
    path = local_file(spec)
    if path is not None:
        return _verified(path, spec)
    if needed:
        raise WeightsNotFoundError(
            f"{spec.name} is not on this machine: no {spec.filename} in weights/ or $DDRSAPC_WEIGHTS_DIR"
        )
    return {"name": spec.name, "file": None}


@click.command(short_help="Publish weights of the manifest on the Hub.")
@click.option("--tag", required=True, metavar="NAME", help="The manifest's entry: arch.tag.")
@click.option("--repo-id", required=True, metavar="ORG/NAME", help="The repository; made where it is missing.")
@click.option("--private", is_flag=True, help="Make it a private repository.")
@click.option("--dry-run", is_flag=True, help="Check everything here, show what would be sent, send nothing.")
@_JSON
def push(tag: str, repo_id: str, private: bool, dry_run: bool, as_json: bool) -> None:
    """Publish weights of the manifest on the Hugging Face Hub, and note in the manifest where.

    One commit with model.safetensors, config.json and a model card, read back and loaded from an empty cache; only then
    is weights_manifest.json rewritten. The access token is that of `hf auth login`, or of HF_TOKEN.

    \b
      ddrsapc push --tag ddr_sapc_u.cac_phantom --repo-id ORG/ddr_sapc_u.cac_phantom --dry-run
    """
    done = publish(tag, repo_id, private=private, dry_run=dry_run)
    if as_json:
        about = {key: getattr(done, key) for key in ("name", "repo_id", "revision", "sha256", "sizes")}
        click.echo(json.dumps(about, indent=2))
        return
    for name, size in done.sizes.items():
        click.echo(f"{name}: {size} bytes" + (f", sha256 {done.sha256}" if name.endswith(".safetensors") else ""))
    if done.revision is None:
        click.echo(f"\n{done.card}\nchecked; nothing was sent to {repo_id}")
    else:
        click.echo(f"published as {repo_id}@{done.revision}; commit weights_manifest.json now")


def _registered(name: str) -> RegisteredName:
    parsed = parse_model_name(name)
    if not isinstance(parsed, RegisteredName) or parsed.tag is None:
        raise click.UsageError(f"expected the name of an entry of the manifest (arch.tag), got {name!r}")
    return parsed
