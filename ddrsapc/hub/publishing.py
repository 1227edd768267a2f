"""Weights to the Hub: one commit, read back and compared before anything here says that it is published."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddrsapc.hub.card import model_card
from ddrsapc.hub.config import ModelConfig
from ddrsapc.hub.errors import (
    WeightsAccessError,
    WeightsError,
    WeightsIntegrityError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsOfflineError,
    WeightsUploadError,
)
from ddrsapc.hub.fitting import Weights, build_with_weights
from ddrsapc.hub.loading import CONFIG_NAME, WEIGHTS_NAME, check_header, local_file, open_weights
from ddrsapc.hub.manifest import Metric, WeightsSpec, checkout_folder, load_manifest, manifest_path, record_publication
from ddrsapc.hub.remote import HubOptions, reason_of, translate
from ddrsapc.hub.saving import CARD_NAME, model_files
from ddrsapc.hub.sources import HubName, check_repo_id
from ddrsapc.hub.weights_file import verify_weights
from ddrsapc.models import SegmentationModel
from ddrsapc.registry import nearest

__all__ = ["Publication", "publish", "push_to_hub"]


@dataclass(frozen=True)
class Publication:
    """What `publish` sent, or would send."""

    name: str
    """`architecture.tag`."""
    repo_id: str
    revision: str | None
    """The commit; None after a dry run."""
    sha256: str
    """Of the weights."""
    sizes: Mapping[str, int]
    """Bytes of each file."""
    card: str
    """Text of the model card."""


def push_to_hub(
    model: SegmentationModel,
    repo_id: str,
    *,
    license: str | None = None,
    metrics: Sequence[Metric] = (),
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Publish a network: weights, `config.json` and a model card in one commit, read back and compared.

    Args:
        model: built by `create_model`.
        repo_id: "org/name"; the repository is made where it is missing.
        license: identifier of the weights' licence on the Hub, as "apache-2.0".
        metrics: figures for the card.
        private: make it a private repository.
        revision: an existing branch to commit to; None: main.
        token: with write access; by default the one of the environment or the login.

    Returns:
        "hf-hub:org/name@commit", which `create_model` takes.

    Raises:
        ValueError: if the network was not built by `create_model`, or for an impossible name.
        WeightsError: one of its subclasses, by cause.
    """
    check_repo_id(repo_id)
    files = model_files(model, repo_id=repo_id, license=license, metrics=metrics)
    sha256 = hashlib.sha256(files[WEIGHTS_NAME]).hexdigest()
    commit = _push(files, repo_id, private=private, revision=revision, token=token, sha256=sha256)
    return f"hf-hub:{repo_id}@{commit}"


def publish(
    name: str, repo_id: str, *, private: bool = False, dry_run: bool = False, token: str | None = None
) -> Publication:
    """Publish an entry of the manifest, and note in the manifest where.

    The local file must be the manifest's, load strictly and hold finite values only. The manifest is rewritten last,
    and only if a download into an empty cache gave the same bytes: whatever happens before leaves it as it was.
    The model card takes in the text that lies beside the file under the same name with .md.

    Args:
        name: "arch.tag".
        repo_id: "org/name"; the repository is made where it is missing.
        private: make it a private repository.
        dry_run: check everything here, send nothing.
        token: with write access; by default the one of the environment or the login.

    Raises:
        WeightsError: one of its subclasses, by cause.
        ValueError: if `repo_id` is not "org/name".
    """
    check_repo_id(repo_id)
    specs = load_manifest()
    if checkout_folder() is None:
        raise WeightsNotFoundError(
            f"the manifest in {manifest_path().parent} is an installed copy; publish from a checkout"
        )
    if name not in specs:
        raise WeightsNotFoundError(f"the manifest has no entry {name!r}: {nearest(name, specs)}")
    spec = specs[name]
    path = local_file(spec)
    if path is None:
        raise WeightsNotFoundError(
            f"{name} is not on this machine: put {spec.filename} into weights/ of the checkout, or into a folder named "
            "by $DDRSAPC_WEIGHTS_DIR"
        )
    config = _checked_config(spec, path)
    beside = path.with_suffix(".md")
    notes = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    card = model_card(config, repo_id=repo_id, spec=spec, notes=notes)
    about = config.to_json(config.skeleton(), tag=spec.tag, license=spec.license)
    files: dict[str, bytes | Path] = {WEIGHTS_NAME: path, CONFIG_NAME: about, CARD_NAME: card.encode()}
    sizes = {file: len(data) if isinstance(data, bytes) else spec.bytes for file, data in files.items()}
    commit = None
    if not dry_run:
        commit = _push(files, repo_id, private=private, revision=None, token=token, sha256=spec.sha256)
        record_publication(manifest_path(), spec, repo_id, commit)
    return Publication(name, repo_id, commit, spec.sha256, sizes, card)


def _checked_config(spec: WeightsSpec, path: Path) -> ModelConfig:
    """The configuration of an entry whose file is fit to be published."""
    counts = {"num_classes": spec.num_classes, "in_chans": spec.in_chans}
    file = verify_weights(path, spec)
    weights = Weights(f"{spec.name} ({path})", file, ModelConfig(spec.architecture, counts, spec.input))
    check_header(weights)
    model = build_with_weights(spec.architecture, {}, weights)
    if (spec.first_conv, spec.classifier) != (model.first_conv, model.classifiers):
        raise WeightsMismatchError(
            f"{spec.name}: the manifest names first_conv {spec.first_conv} and classifier {list(spec.classifier)}, "
            f"the network's are {model.first_conv} and {list(model.classifiers)}; correct the manifest"
        )
    if file.metadata.get("format") != "pt":
        raise WeightsMismatchError(
            f"{spec.name} ({path}): the file's header lacks the format 'pt' that other tools need; save it anew with "
            "ddrsapc.hub.save_pretrained, and correct the manifest"
        )
    return ModelConfig.of(model)


def _push(
    files: Mapping[str, bytes | Path],
    repo_id: str,
    *,
    private: bool,
    revision: str | None,
    token: str | None,
    sha256: str,
) -> str:
    """Send files in one commit, read them back, return the commit."""
    import huggingface_hub as hub  # noqa: PLC0415  # half a second, and only for those who publish

    options = HubOptions(revision=revision, token=token)  # checks both
    if (token or hub.get_token()) is None:
        raise WeightsAccessError(
            f"{repo_id}: publishing needs an access token: log in with: hf auth login (or HF_TOKEN)"
        )
    api = hub.HfApi(token=token, library_name="ddrsapc")
    with _uploading(repo_id):
        api.create_repo(repo_id, private=private or None, exist_ok=True)  # None: as the organisation has it
        if private and not api.model_info(repo_id).private:
            raise WeightsAccessError(
                f"{repo_id} exists and is public; make it private on the Hub, or leave out private: nothing was sent"
            )
        commit = api.create_commit(
            repo_id,
            [
                hub.CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
                for name, data in files.items()
            ],
            commit_message="Weights, configuration and model card",
            revision=revision,
        ).oid
        found = {info.path: info for info in api.get_paths_info(repo_id, list(files), revision=commit)}
    wrong = [name for name, data in files.items() if not _is_stored(found.get(name), data, sha256)]
    if wrong:
        raise WeightsIntegrityError(
            f"{repo_id}@{commit}: the Hub does not hold the bytes that were sent for {', '.join(wrong)}; nothing here "
            "names this commit: run the same again, and remove it on the Hub"
        )
    with tempfile.TemporaryDirectory() as cache:
        options = replace(options, cache_dir=cache, revision=None)
        build_with_weights(None, {}, open_weights(HubName(repo_id, commit), options, sha256=sha256))
    return commit


def _is_stored(info: Any, data: bytes | Path, sha256: str) -> bool:
    """Whether what the Hub says of a file are the hashes of these bytes; `sha256` is that of the weights in LFS."""
    lfs = getattr(info, "lfs", None)
    if lfs is not None or isinstance(data, Path):
        return lfs is not None and bool(lfs.sha256 == sha256)
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(getattr(info, "blob_id", None) == git_sha1)


@contextmanager
def _uploading(repo_id: str) -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # the client and its upload library raise many kinds
        from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415

        if isinstance(error, OfflineModeIsEnabled):
            raise WeightsOfflineError(f"{repo_id}: HF_HUB_OFFLINE is set, so nothing is sent; unset it") from error
        meaning = translate(error, repo_id)
        if isinstance(meaning, WeightsAccessError | WeightsOfflineError):
            raise meaning from error
        raise WeightsUploadError(
            f"{repo_id}: publishing failed ({type(error).__name__}: {reason_of(error)}); the same may be run again"
        ) from error
