"""`weights_manifest.json`: every pretrained weight, its hash, where it lies and how it came to be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import ddrsapc
from ddrsapc.files import locked_folder, write_atomically
from ddrsapc.hub.errors import ManifestError
from ddrsapc.hub.sources import check_repo_id
from ddrsapc.hub.strict_json import parse_object
from ddrsapc.messages import shown
from ddrsapc.models import InputConfig
from ddrsapc.registry import is_model

__all__ = [
    "Metric",
    "Recipe",
    "WeightsSpec",
    "checkout_folder",
    "list_pretrained",
    "load_manifest",
    "manifest_path",
    "parse_manifest",
    "record_publication",
]

SCHEMA_VERSION = 1
_MAX_BYTES, _MAX_TENSORS, _MAX_MANIFEST = 1 << 40, 20_000, 4 << 20

_HEX40, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True)
class Metric:
    """A figure that the weights reached: `value` of `name` on `n` cases of a dataset's split."""

    dataset: str
    split: str
    name: str
    value: float
    n: int
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How the weights were trained."""

    command: str
    git_commit: str
    """40 hex digits."""
    seed: int
    hardware: str


@dataclass(frozen=True)
class WeightsSpec:
    """An entry of the manifest."""

    architecture: str
    tag: str
    """The entry's name is `architecture.tag`."""
    default: bool
    """Whether `create_model(architecture, pretrained=True)` means this one."""
    repo_id: str | None
    """Repository on the Hub, which has the file as `model.safetensors`; None: not published."""
    revision: str | None
    """Commit in that repository, 40 hex digits."""
    filename: str
    """Of the local copy in `weights/` or `$DDRSAPC_WEIGHTS_DIR`."""
    sha256: str
    bytes: int
    num_tensors: int
    num_classes: int
    in_chans: int
    classes: tuple[str, ...]
    """Names by label, background first."""
    input: InputConfig
    first_conv: str
    """Name of the convolution that sees the input."""
    classifier: tuple[str, ...]
    """Names of the final convolutions."""
    metrics: tuple[Metric, ...]
    license: str
    data_license: str
    recipe: Recipe

    @property
    def name(self) -> str:
        """`architecture.tag`."""
        return f"{self.architecture}.{self.tag}"


def load_manifest() -> dict[str, WeightsSpec]:
    """The manifest of this installation, the wheel's or the source checkout's: entries by "arch.tag".

    Raises:
        ManifestError: if the file is missing or breaks the schema.
    """
    path = manifest_path()
    with path.open("rb") as file:
        return parse_manifest(file.read(_MAX_MANIFEST + 1), str(path))


def list_pretrained() -> list[str]:
    """The names of all weights in the manifest, as "arch.tag", sorted."""
    return sorted(load_manifest())


def manifest_path() -> Path:
    """Where the manifest lies: in the package (a wheel) or beside it (a checkout, an editable install).

    Raises:
        ManifestError: if the installation lacks it.
    """
    package = Path(ddrsapc.__file__).parent
    for folder in (package, package.parent):
        if (folder / "weights_manifest.json").is_file():
            return folder / "weights_manifest.json"
    raise ManifestError(f"weights_manifest.json is missing beside {package}; reinstall ddrsapc")


def checkout_folder() -> Path | None:
    """`weights/` beside the manifest in a source checkout; None in a wheel's installation."""
    folder = manifest_path().parent
    return folder / "weights" if folder != Path(ddrsapc.__file__).parent else None


def parse_manifest(data: bytes, place: str) -> dict[str, WeightsSpec]:
    """Check a manifest whole.

    Args:
        data: the file's bytes.
        place: what error messages call it.

    Raises:
        ManifestError: naming the entry, the field, what was found and what is expected.
    """
    try:
        if len(data) > _MAX_MANIFEST:
            raise ValueError(f"more than {_MAX_MANIFEST} bytes")
        top = parse_object(data)
        if top.keys() != {"schema_version", "weights"} or not isinstance(top["weights"], dict):
            raise ValueError("expected the fields schema_version and weights (an object)")
        if top["schema_version"] != SCHEMA_VERSION or isinstance(top["schema_version"], bool):
            raise ValueError(
                f"schema_version is {shown(top['schema_version'])}, this ddrsapc reads {SCHEMA_VERSION}; update ddrsapc"
            )
        specs = {name: _spec(name, entry) for name, entry in top["weights"].items()}
        for architecture in {spec.architecture for spec in specs.values()}:
            defaults = [name for name, spec in specs.items() if spec.default and spec.architecture == architecture]
            if len(defaults) != 1:
                raise ValueError(
                    f"{architecture} needs exactly one default, found {shown(defaults) if defaults else 'none'}"
                )
    except ValueError as error:
        raise ManifestError(f"{place} is not a valid manifest: {error}") from error
    return specs


def record_publication(path: Path, spec: WeightsSpec, repo_id: str, revision: str) -> None:
    """Note in a manifest where an entry was published; the file is replaced whole or not at all.

    Args:
        path: of the manifest.
        spec: the entry as it was when its file was sent.
        repo_id: "org/name".
        revision: commit.

    Raises:
        ManifestError: if the entry is another one by now, or the result would break the schema.
    """
    path = path.resolve()
    with locked_folder(path.parent):
        data = path.read_bytes()
        if parse_manifest(data, str(path)).get(spec.name) != spec:
            raise ManifestError(
                f"{path}: the entry {spec.name} was changed while its weights were published as {repo_id}@{revision}; "
                "the manifest is left as it is: publish again"
            )
        top = json.loads(data)
        top["weights"][spec.name] |= {"repo_id": repo_id, "revision": revision}
        data = (json.dumps(top, indent=2, ensure_ascii=False) + "\n").encode()
        parse_manifest(data, str(path))
        write_atomically(path, data)


Check = Callable[[Any], Any]
"""Takes what JSON holds and returns what a field holds, or raises ValueError with what is expected."""


def _spec(name: str, entry: Any) -> WeightsSpec:
    architecture, dot, tag = name.partition(".")
    try:
        if not (dot and is_model(architecture) and _TAG.fullmatch(tag)):
            raise ValueError("expected arch.tag as name, with an architecture of this ddrsapc")
        found = _object(entry, _ENTRY)
        if found["architecture"] != architecture:
            raise ValueError(f"architecture is {shown(found['architecture'])!r}")
        if (found["repo_id"] is None) != (found["revision"] is None):
            raise ValueError("repo_id and revision are given both or neither")
        if len(found["classes"]) != found["num_classes"]:
            raise ValueError(f"classes has {len(found['classes'])} names, num_classes is {found['num_classes']}")
    except ValueError as error:
        raise ValueError(f"entry {shown(name)!r}: {error}") from error
    return WeightsSpec(tag=tag, **found)


def _object(value: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """All fields of `checks`, no other ones."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {shown(value)}")
    for problem, keys in (("missing", checks.keys() - value.keys()), ("unknown", value.keys() - checks.keys())):
        if keys:
            raise ValueError(f"{problem} field(s) {shown(', '.join(sorted(keys)), 200)}")
    return {key: _field(key, check, value[key]) for key, check in checks.items()}


def _field(key: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _text(pattern: re.Pattern[str] | None = None) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"expected a line of text, found {shown(value)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise ValueError(f"{shown(value)} does not match {pattern.pattern}")
        return value

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected an integer from {low} to {high}, found {shown(value)}")
        return value

    return check


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {shown(value)}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {shown(value)}")
    return value


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _input(value: Any) -> InputConfig:
    names = {field.name for field in fields(InputConfig)}
    return InputConfig.from_dict(_object(value, dict.fromkeys(names, lambda setting: setting)))


def _list(check: Check, *, empty: bool = False) -> Check:
    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not (value or empty):
            raise ValueError(f"expected a list{'' if empty else ' that is not empty'}, found {shown(value)}")
        return tuple(check(item) for item in value)

    return checked


_SEED = _integer(0, 2**63 - 1)
_METRIC = {
    "dataset": _text(),
    "split": _text(),
    "name": _text(),
    "value": _number,
    "n": _integer(1, 10**9),
    "seed": _SEED,
}
_RECIPE = {"command": _text(), "git_commit": _text(_HEX40), "seed": _SEED, "hardware": _text()}
_ENTRY: dict[str, Check] = {
    "architecture": _text(),
    "default": _flag,
    "repo_id": _optional(lambda value: check_repo_id(_text()(value))),
    "revision": _optional(_text(_HEX40)),
    "filename": _text(_FILENAME),
    "sha256": _text(_SHA256),
    "bytes": _integer(1, _MAX_BYTES),
    "num_tensors": _integer(1, _MAX_TENSORS),
    "num_classes": _integer(1, 1024),
    "in_chans": _integer(1, 1024),
    "classes": _list(_text()),
    "input": _input,
    "first_conv": _text(_MODULE),
    "classifier": _list(_text(_MODULE)),
    "metrics": _list(lambda value: Metric(**_object(value, _METRIC)), empty=True),
    "license": _text(),
    "data_license": _text(),
    "recipe": lambda value: Recipe(**_object(value, _RECIPE)),
}
