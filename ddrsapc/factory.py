"""`create_model` and `list_models`: networks by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.manifest import list_pretrained
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName, HubName, LocalName, RegisteredName, Source, parse_model_name
from ddrsapc.models import SegmentationModel  # and registers the networks
from ddrsapc.registry import architectures, build_model, model_entrypoint, nearest

__all__ = ["create_model", "list_models"]


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    **model_args: Any,
) -> SegmentationModel:
    """Build a network by name, with or without pretrained weights.

    Args:
        name: "arch", "arch.tag", "hf-hub:org/name[@revision]" or "local-dir:PATH"; all but the first
            load weights.
        pretrained: load the architecture's default weights.
        num_classes: classes, background included; None: the weights' own, else 4 (none, LAD, LCX, RCA).
            With another number than the weights' the final convolution is new.
        in_chans: input channels; None: the weights' own, else 1 (CT). With another number than the weights'
            the first convolution is adapted.
        weights: a safetensors file to load; with "arch.tag" it must be a copy of that one.
        sha256: that the file of weights must have.
        revision: branch, tag or commit on the Hub; None: the manifest's, else main.
        cache_dir: folder of the Hub client's cache.
        local_files_only: no downloads.
        token: for the Hub; by default the one of the environment or the login.
        **model_args: further keywords of the network's entry point, as `width` or `aux_head`.

    Returns:
        The network in training mode, as any new `torch.nn.Module`; its input is (N, in_chans, H, W).

    Raises:
        ValueError: for an unknown name or tag, with the nearest known ones, or a bad value.
        TypeError: for an unknown keyword, with the nearest known ones.
        WeightsError: if the weights cannot be had, are damaged, unsafe, or not this network's: one of its
            subclasses in `ddrsapc.hub`.

    Example:
        >>> model = create_model("ddr_sapc_u", num_classes=4)
    """
    parsed = parse_model_name(name)
    architecture = parsed.architecture if isinstance(parsed, RegisteredName) else None
    if architecture is not None:
        _check_keywords(architecture, model_args)
    counts = {"num_classes": num_classes, "in_chans": in_chans}
    asked = {key: value for key, value in counts.items() if value is not None} | model_args
    source = _source(parsed, pretrained, weights)
    if source is None:
        if sha256 is not None or revision is not None:
            raise ValueError(f"{name!r} loads no weights to have a sha256 or a revision; add pretrained=True")
        return build_model(parsed.architecture, asked)  # type: ignore[union-attr]  # all others are sources
    opened = open_weights(source, HubOptions(revision, cache_dir, local_files_only, token), sha256=sha256)
    if architecture is None and opened.config is not None:
        _check_keywords(opened.config.architecture, model_args)
    return build_with_weights(architecture, asked, opened)


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


def _source(
    parsed: RegisteredName | HubName | LocalName, pretrained: bool, weights: str | os.PathLike[str] | None
) -> Source | None:
    """Where `create_model` takes weights from; None: from nowhere."""
    if not isinstance(parsed, RegisteredName):
        if weights is not None:
            raise ValueError("two sources of weights, the name and weights=...; give one")
        return parsed
    if weights is not None:
        return FileName(Path(os.path.expanduser(weights)), parsed if parsed.tag is not None else None)
    return parsed if pretrained or parsed.tag is not None else None


def _check_keywords(architecture: str, model_args: Mapping[str, Any]) -> None:
    keywords = inspect.signature(model_entrypoint(architecture)).parameters
    for keyword in model_args:
        if keyword not in keywords:
            known = [*inspect.signature(create_model).parameters, *keywords]
            known = [name for name in dict.fromkeys(known) if name not in ("name", "model_args")]
            raise TypeError(f"{architecture} takes no keyword {keyword!r}: {nearest(keyword, known)}")
