"""`create_model` and `list_models`: networks by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ddrsapc.hub import list_pretrained
from ddrsapc.models import SegmentationModel  # and registers the networks
from ddrsapc.registry import architectures, model_entrypoint, nearest

__all__ = ["HubName", "LocalName", "RegisteredName", "create_model", "list_models", "parse_model_name"]


@dataclass(frozen=True)
class RegisteredName:
    """`arch` or `arch.tag`: a registered network, with the tag of its weights in the manifest."""

    architecture: str
    tag: str | None = None


@dataclass(frozen=True)
class HubName:
    """`hf-hub:org/name[@revision]`: a model repository on the Hugging Face Hub."""

    repo_id: str
    revision: str | None = None


@dataclass(frozen=True)
class LocalName:
    """`local-dir:PATH`: a folder with a saved model."""

    path: Path


def parse_model_name(name: str) -> RegisteredName | HubName | LocalName:
    """Take the first argument of `create_model` apart; nothing is looked up or loaded.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if it has none of the forms above.
    """
    if not isinstance(name, str):
        raise TypeError(f"a model is named by a string, got {type(name).__name__}")
    scheme, colon, rest = name.partition(":")
    if colon:
        if scheme == "hf-hub":
            repo_id, at, revision = rest.partition("@")
            organisation, slash, repository = repo_id.partition("/")
            if not (organisation and slash and repository) or "/" in repository or (at and not revision):
                raise ValueError(f"expected hf-hub:org/name or hf-hub:org/name@revision, got {name!r}")
            return HubName(repo_id, revision or None)
        if scheme == "local-dir":
            if not rest:
                raise ValueError(f"expected local-dir:PATH, got {name!r}")
            return LocalName(Path(rest).expanduser())
        raise ValueError(
            f"unknown source {scheme!r} in {name!r}: expected 'hf-hub:' or 'local-dir:', or a model's name"
        )
    architecture, dot, tag = name.partition(".")
    if dot and not tag:
        raise ValueError(f"expected arch.tag, got {name!r}")
    return RegisteredName(architecture, tag or None)


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    **model_args: Any,
) -> SegmentationModel:
    """Build a network by name.

    Args:
        name: "arch", "arch.tag", "hf-hub:org/name[@revision]" or "local-dir:PATH"; all but the first
            load weights.
        pretrained: load the architecture's default weights.
        num_classes: classes, background included; None: the weights' own, else 4 (none, LAD, LCX, RCA).
        in_chans: input channels; None: the weights' own, else 1 (CT).
        weights: a safetensors file to load.
        **model_args: further keywords of the network's entry point, as `width` or `aux_head`.

    Returns:
        The network in training mode, as any new `torch.nn.Module`; its input is (N, in_chans, H, W).

    Raises:
        ValueError: for an unknown name or tag, with the nearest known ones, or a bad value.
        TypeError: for an unknown keyword, with the nearest known ones.
        NotImplementedError: if weights are asked for: this version does not load any.

    Example:
        >>> model = create_model("ddr_sapc_u", num_classes=4)
    """
    parsed = parse_model_name(name)
    if not isinstance(parsed, RegisteredName):
        raise _cannot_load(name)
    entrypoint = model_entrypoint(parsed.architecture)
    keywords = inspect.signature(entrypoint).parameters
    for keyword in model_args:
        if keyword not in keywords:
            known = [*inspect.signature(create_model).parameters, *keywords]
            known = [name for name in dict.fromkeys(known) if name not in ("name", "model_args")]
            raise TypeError(f"{parsed.architecture} takes no keyword {keyword!r}: {nearest(keyword, known)}")
    tags = [entry.partition(".")[2] for entry in list_pretrained() if entry.startswith(f"{parsed.architecture}.")]
    if parsed.tag is not None and parsed.tag not in tags:
        raise ValueError(f"{parsed.architecture} has no weights tagged {parsed.tag!r}: {nearest(parsed.tag, tags)}")
    if parsed.tag is not None or pretrained or weights is not None:
        raise _cannot_load(name)
    if num_classes is not None:
        model_args["num_classes"] = num_classes
    if in_chans is not None:
        model_args["in_chans"] = in_chans
    model = entrypoint(**model_args)
    model.architecture, model.model_args = parsed.architecture, model_args
    return model


def list_models(
    filter: str | Sequence[str] = "", pretrained: bool = False, exclude: str | Sequence[str] = ()
) -> list[str]:
    """The names of the registered networks, sorted.

    Args:
        filter: a glob or several; a name is listed if it matches one of them. Empty: all names.
        pretrained: list the available weights instead, as "arch.tag".
        exclude: a glob or several; a name that matches one of them is not listed.

    Example:
        >>> list_models("ddr_sapc*", exclude="*_s")
        ['ddr_sapc', 'ddr_sapc_u']
    """
    filters, excludes = _globs("filter", filter), _globs("exclude", exclude)
    names = architectures()
    if pretrained:
        names = list_pretrained()
        filters += [f"{glob}.*" for glob in filters if "." not in glob]
        excludes += [f"{glob}.*" for glob in excludes if "." not in glob]
    return [
        name
        for name in names
        if (not filters or any(fnmatchcase(name, glob) for glob in filters))
        and not any(fnmatchcase(name, glob) for glob in excludes)
    ]


def _globs(argument: str, globs: str | Sequence[str]) -> list[str]:
    as_list = [globs] if isinstance(globs, str) else globs
    if not isinstance(as_list, Sequence) or not all(isinstance(glob, str) for glob in as_list):
        raise TypeError(f"{argument} must be a string or a list of strings, got {globs!r}")
    return [glob for glob in as_list if glob]


def _cannot_load(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name!r}: this version of ddrsapc cannot load weights by itself. Build the network with "
        "create_model(architecture) and load a state dict of your own with model.load_state_dict(...)"
    )
