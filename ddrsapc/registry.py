"""The register of networks: their names and the functions that build them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ddrsapc.models.base import SegmentationModel

__all__ = ["architectures", "build_model", "is_model", "model_entrypoint", "nearest", "register_model"]

EntryPoint = TypeVar("EntryPoint", bound=Callable[..., SegmentationModel])

_ENTRYPOINTS: dict[str, Callable[..., SegmentationModel]] = {}


def register_model(entrypoint: EntryPoint) -> EntryPoint:
    """Decorator: make a function that builds a network known to `create_model` under the function's name.

    The function takes keywords only, `num_classes` and `in_chans` among them, and no `**kwargs`.

    Raises:
        ValueError: if the name is taken, or the function has none.
        TypeError: if the function's signature is another.
    """
    name = entrypoint.__name__
    if not name.isidentifier():
        raise ValueError(f"a model needs a function with a name, got {name!r}")
    if name in _ENTRYPOINTS:
        raise ValueError(f"a model named {name!r} is registered already; give the function another name")
    parameters = inspect.signature(entrypoint).parameters
    if any(parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values()):
        raise TypeError(f"{name} must take keyword-only arguments and no *args or **kwargs")
    missing = {"num_classes", "in_chans"} - parameters.keys()
    if missing:
        raise TypeError(f"{name} must take the keyword(s) {', '.join(sorted(missing))}")
    _ENTRYPOINTS[name] = entrypoint
    return entrypoint


def architectures() -> list[str]:
    """The names of all registered networks, sorted."""
    return sorted(_ENTRYPOINTS)


def is_model(name: str) -> bool:
    """Whether `name` ("arch" or "arch.tag") names a registered network."""
    if not isinstance(name, str):
        return False
    architecture, dot, tag = name.partition(".")
    return architecture in _ENTRYPOINTS and bool(dot) == bool(tag)


def model_entrypoint(name: str) -> Callable[..., SegmentationModel]:
    """The function that builds the network `name` ("arch" or "arch.tag").

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
        TypeError: if `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a model is named by a string, got {type(name).__name__}")
    architecture = name.partition(".")[0]
    if architecture not in _ENTRYPOINTS:
        known = architectures()
        raise ValueError(f"unknown model {architecture!r}: {nearest(architecture, known)}")
    return _ENTRYPOINTS[architecture]


def build_model(architecture: str, model_args: Mapping[str, Any]) -> SegmentationModel:
    """Call the entry point of an architecture; the network notes what it was built by.

    Raises:
        ValueError: for an unknown architecture or a bad value.
        TypeError: for an unknown keyword.
    """
    model = model_entrypoint(architecture)(**model_args)
    model.architecture, model.model_args = architecture.partition(".")[0], dict(model_args)
    return model


def nearest(word: str, known: Iterable[str]) -> str:
    """For error messages: the entries of `known` that `word` may have meant, else all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"choose from {', '.join(known)}" if known else "there are none"
