"""Weights from wherever they are into a network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ddrsapc.hub.config import MAX_CONFIG, ModelConfig
from ddrsapc.hub.errors import (
    UnsafeWeightsError,
    WeightsIntegrityError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsNotPublishedError,
)
from ddrsapc.hub.fitting import Weights, load_into
from ddrsapc.hub.manifest import WeightsSpec, checkout_folder, load_manifest
from ddrsapc.hub.remote import HubOptions, expected_by_etag, fetch
from ddrsapc.hub.sources import FileName, HubName, LocalName, RegisteredName, Source, parse_source
from ddrsapc.hub.weights_file import Expected, WeightsFile, read_bytes, read_weights, verify_weights
from ddrsapc.messages import shown
from ddrsapc.models import InputConfig, SegmentationModel
from ddrsapc.registry import nearest

__all__ = [
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "check_header",
    "load_weights",
    "local_file",
    "named_spec",
    "open_weights",
]

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
"""Names of the two files, in a repository and in a folder."""


def load_weights(
    model: SegmentationModel,
    source: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> None:
    """Load weights into a network, and how they expect their input (`model.input_config`).

    Everything must fit: no key may be missing or left over. Where the network has another number of classes than
    the weights, its final convolutions are initialised anew; where it has another number of input channels, the
    first convolution is summed or repeated over them. Both are logged. The network is changed only if all fits.

    Args:
        model: the network; it keeps its device, dtype and mode.
        source: a safetensors file, "arch.tag", "hf-hub:org/name[@revision]" or "local-dir:PATH".
        sha256: that the file of weights must have.
        revision: branch, tag or commit on the Hub.
        cache_dir: of the Hub's client.
        local_files_only: no downloads.
        token: for the Hub; by default the one of the environment or the login.

    Raises:
        WeightsError: one of its subclasses, by cause; see `ddrsapc.hub.errors`.
        TypeError: if `model` is not a network of ddrsapc.
        ValueError: for a malformed source.
    """
    if not isinstance(model, SegmentationModel):
        raise TypeError(f"expected a network of ddrsapc, got {type(model).__name__}; unwrap it first")
    parsed = parse_source(source)
    options = HubOptions(revision, cache_dir, local_files_only, token)
    load_into(model, open_weights(parsed, options, sha256=sha256))


def open_weights(source: Source, options: HubOptions, *, sha256: str | None = None) -> Weights:
    """Find, check and parse weights; nothing is built.

    Raises:
        WeightsError: one of its subclasses, by cause.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"expected 64 lower-case hex digits as sha256, got {sha256!r}")
    if isinstance(source, RegisteredName):
        weights = _open_listed(named_spec(source), options)
    elif isinstance(source, FileName) and source.listed is not None:
        weights = _open_listed(named_spec(source.listed), options, source.path)
    elif isinstance(source, HubName):
        weights = _open_repository(source, options, sha256)
    elif isinstance(source, LocalName):
        weights = _open_folder(source.path)
    else:
        weights = _open_file(source.path)
    check_header(weights)
    if sha256 not in (None, weights.file.sha256):
        raise WeightsIntegrityError(f"{weights.place}: expected sha256 {sha256}, found {weights.file.sha256}")
    return weights


def check_header(weights: Weights) -> None:
    """Whether the header of the weights and the configuration beside them speak of the same input.

    Raises:
        WeightsMismatchError: if they do not: one of the two files is of another network, or was edited.
    """
    config, settings = weights.config, weights.file.metadata.get("input")
    if config is None or settings is None:
        return
    try:
        said = InputConfig.from_dict(json.loads(settings))
    except (ValueError, RecursionError) as error:
        raise UnsafeWeightsError(f"{weights.place}: the input settings in its header are none: {error}") from error
    if said != config.input_config:
        raise WeightsMismatchError(
            f"{weights.place}: the configuration or manifest says {config.input_config}, the weights' own header "
            f"{said}; correct the one that is wrong"
        )


def named_spec(name: RegisteredName) -> WeightsSpec:
    """The manifest's entry of "arch.tag"; the default one of "arch".

    Raises:
        WeightsNotFoundError: if there are no weights for the architecture.
        ValueError: for an unknown tag, with the nearest known ones.
    """
    specs = {spec.tag: spec for spec in load_manifest().values() if spec.architecture == name.architecture}
    if name.tag is not None:
        if name.tag not in specs:
            raise ValueError(f"{name.architecture} has no weights tagged {name.tag!r}: {nearest(name.tag, specs)}")
        return specs[name.tag]
    for spec in specs.values():
        if spec.default:
            return spec
    raise WeightsNotFoundError(
        f"there are no pretrained weights for {name.architecture}; list_models(pretrained=True) lists all there are"
    )


def local_file(spec: WeightsSpec) -> Path | None:
    """The local copy of an entry: in `$DDRSAPC_WEIGHTS_DIR`, else in `weights/` of a source checkout.

    Raises:
        WeightsNotFoundError: if `$DDRSAPC_WEIGHTS_DIR` is no folder.
    """
    chosen = os.environ.get("DDRSAPC_WEIGHTS_DIR")
    if chosen and not Path(chosen).is_dir():
        raise WeightsNotFoundError(f"$DDRSAPC_WEIGHTS_DIR is {chosen!r}, which is no folder; correct or unset it")
    for folder in (Path(chosen) if chosen else None, checkout_folder()):
        if folder is not None and os.path.lexists(folder / spec.filename):
            return folder / spec.filename
    return None


def _open_listed(spec: WeightsSpec, options: HubOptions, path: Path | None = None) -> Weights:
    counts = {"num_classes": spec.num_classes, "in_chans": spec.in_chans}
    config = ModelConfig(spec.architecture, counts, spec.input)
    path = path or local_file(spec)
    if path is not None:
        return Weights(f"{spec.name} ({path})", verify_weights(path, spec), config)
    revision = options.revision or spec.revision
    if spec.repo_id is None or revision is None:
        raise WeightsNotPublishedError(
            f"{spec.name} is not published on the Hub yet. It loads from a source checkout (weights/{spec.filename}), "
            f"from a folder named by $DDRSAPC_WEIGHTS_DIR that holds {spec.filename}, or with weights=PATH"
        )
    file = fetch(
        spec.repo_id, WEIGHTS_NAME, revision, options, lambda path: verify_weights(path, spec), size=spec.bytes
    )
    return Weights(f"{spec.name} ({spec.repo_id}@{revision})", file, config)


def _open_repository(name: HubName, options: HubOptions, sha256: str | None) -> Weights:
    if name.revision is not None and options.revision not in (None, name.revision):
        raise ValueError(f"two revisions, {name.revision!r} in the name and {options.revision!r}; give one")
    revision = name.revision or options.revision or "main"

    def config(path: Path) -> tuple[ModelConfig | None, str]:
        expected = expected_by_etag(path, name.repo_id, options)
        place = f"{name.repo_id}/{CONFIG_NAME}@{revision}"
        if expected == Expected():
            return None, path.parent.name  # cannot be checked: the header of the weights, which can, says the same
        data = read_bytes(path, expected, place=place, limit=MAX_CONFIG)
        return ModelConfig.parse(data, place), path.parent.name

    def weights(path: Path) -> WeightsFile:
        place = f"{name.repo_id}/{WEIGHTS_NAME}@{revision}"
        expected = Expected(sha256) if sha256 else expected_by_etag(path, name.repo_id, options)
        if expected == Expected():
            raise WeightsIntegrityError(f"{place}: the Hub's hash of the file is not known here; give sha256=...")
        return read_weights(path, expected, place=place)

    found, commit = fetch(name.repo_id, CONFIG_NAME, revision, options, config, limit=MAX_CONFIG)
    # of the same commit, though the branch may move meanwhile
    file = fetch(name.repo_id, WEIGHTS_NAME, commit, options, weights)
    place = f"{name.repo_id}@{commit}"
    return Weights(place, file, found or _config_in(file, place))


def _open_folder(folder: Path) -> Weights:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not os.path.isfile(folder / name):
            raise WeightsNotFoundError(
                f"{folder} has no {name}; expected a folder written by save_pretrained (for the weights of a training "
                "run: create_model(arch, weights=PATH))"
            )
    place = str(folder / CONFIG_NAME)
    config = ModelConfig.parse(read_bytes(folder / CONFIG_NAME, place=place, limit=MAX_CONFIG), place)
    return Weights(str(folder), read_weights(folder / WEIGHTS_NAME), config)


def _open_file(path: Path) -> Weights:
    file = read_weights(path)
    return Weights(str(path), file, _config_in(file, str(path)))


def _config_in(file: WeightsFile, place: str) -> ModelConfig | None:
    """What the header of a file says of its network; None: nothing."""
    if "architecture" not in file.metadata:
        return None
    try:
        said = [json.loads(file.metadata[key]) for key in ("architecture", "model_args", "input")]
    except (KeyError, ValueError, RecursionError) as error:
        reason = shown(str(error), 160)
        raise UnsafeWeightsError(
            f"{place}: its header does not say well what network it belongs to ({reason})"
        ) from error
    return ModelConfig.checked(*said, place=place)
