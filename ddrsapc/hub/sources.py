"""Where weights come from, as `create_model` and `load_weights` name it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ddrsapc.messages import shown

__all__ = [
    "FileName",
    "HubName",
    "LocalName",
    "RegisteredName",
    "Source",
    "check_repo_id",
    "check_revision",
    "parse_model_name",
    "parse_source",
]

_REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")


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


@dataclass(frozen=True)
class FileName:
    """A safetensors file."""

    path: Path
    listed: RegisteredName | None = None
    """The manifest's entry that it must be a copy of; None: any file."""


Source = RegisteredName | HubName | LocalName | FileName


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
            try:
                return HubName(check_repo_id(repo_id), check_revision(revision) if at else None)
            except ValueError as error:
                raise ValueError(f"expected hf-hub:org/name or hf-hub:org/name@revision: {error}") from error
        if scheme == "local-dir":
            if not rest:
                raise ValueError(f"expected local-dir:PATH, got {name!r}")
            return LocalName(_path(rest))
        raise ValueError(
            f"unknown source {scheme!r} in {name!r}: expected 'hf-hub:' or 'local-dir:', or a model's name"
        )
    architecture, dot, tag = name.partition(".")
    if dot and not tag:
        raise ValueError(f"expected arch.tag, got {name!r}")
    return RegisteredName(architecture, tag or None)


def check_repo_id(repo_id: str) -> str:
    """A repository's name as it is, if the Hub can have it; raises ValueError otherwise."""
    parts = repo_id.split("/")
    if (
        not _REPO_ID.fullmatch(repo_id)
        or "--" in repo_id
        or ".." in repo_id
        or any(len(part) > 96 or part.endswith(("-", ".")) for part in parts)
    ):
        raise ValueError(f"expected a repository as org/name, got {shown(repo_id)!r}")
    return repo_id


def check_revision(revision: str) -> str:
    """A branch, tag or commit as it is, if it cannot be a path out of the cache; raises ValueError otherwise."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise ValueError(f"expected a branch, tag or commit as revision, got {shown(revision)!r}")
    return revision


def parse_source(source: str | os.PathLike[str]) -> Source:
    """A source of weights: a path, or a string as `create_model` takes it.

    A string is a path if it ends in .safetensors or has a slash, unless it begins with hf-hub: or local-dir:.
    """
    is_scheme = isinstance(source, str) and source.startswith(("hf-hub:", "local-dir:"))
    if isinstance(source, os.PathLike) or (
        isinstance(source, str)
        and not is_scheme
        and (source.endswith(".safetensors") or "/" in source or os.sep in source)
    ):
        return FileName(_path(source))
    return parse_model_name(source)


def _path(text: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(text))  # an unknown ~user stays as it is, and is not found
