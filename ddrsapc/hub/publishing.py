"""Weights to the Hub: one commit, read back and compared before anything here says that it is published."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from ddrsapc.hub.loading import CONFIG_NAME, WEIGHTS_NAME, local_file, open_weights
from ddrsapc.hub.manifest import Metric, WeightsSpec, checkout_folder, load_manifest, manifest_path, record_publication
from ddrsapc.hub.remote import HubOptions, translate
from ddrsapc.hub.saving import CARD_NAME, model_files
from ddrsapc.hub.sources import HubName
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
        revision: branch to commit to; None: main.
        token: with write access; by default the one of the environment or the login.

    Returns:
        "hf-hub:org/name@commit", which `create_model` takes.

    Raises:
        ValueError: if the network was not built by `create_model`.
        WeightsError: one of its subclasses, by cause.
    """
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

    Args:
        name: "arch.tag".
        repo_id: "org/name"; the repository is made where it is missing.
        private: make it a private repository.
        dry_run: check everything here, send nothing.
        token: with write access; by default the one of the environment or the login.

    Raises:
        WeightsError: one of its subclasses, by cause.
    """
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
    card = model_card(config, repo_id=repo_id, spec=spec)
    about = config.to_json(config.skeleton(), tag=spec.tag, license=spec.license)
    files: dict[str, bytes | Path] = {WEIGHTS_NAME: path, CONFIG_NAME: about, CARD_NAME: card.encode()}
    sizes = {file: len(data) if isinstance(data, bytes) else spec.bytes for file, data in files.items()}
    commit = None
    if not dry_run:
        commit = _push(files, repo_id, private=private, revision=None, token=token, sha256=spec.sha256)
        record_publication(manifest_path(), name, repo_id, commit)
    return Publication(name, repo_id, commit, spec.sha256, sizes, card)


def _checked_config(spec: WeightsSpec, path: Path) -> ModelConfig:
    """The configuration of an entry whose file is fit to be published."""
    counts = {"num_classes": spec.num_classes, "in_chans": spec.in_chans}
    file = verify_weights(path, spec)
    weights = Weights(f"{spec.name} ({path})", file, ModelConfig(spec.architecture, counts, spec.input))
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
    wrong = [name for name, data in files.items() if not _is_stored(found.get(name), data)]
    if wrong:
        raise WeightsIntegrityError(
            f"{repo_id}@{commit}: the Hub does not hold the bytes that were sent for {', '.join(wrong)}; nothing here "
            "names this commit: run the same again, and remove it on the Hub"
        )
    with tempfile.TemporaryDirectory() as cache:
        options = HubOptions(cache_dir=cache, token=token)
        build_with_weights(None, {}, open_weights(HubName(repo_id, commit), options, sha256=sha256))
    return commit


def _is_stored(info: Any, data: bytes | Path) -> bool:
    """Whether what the Hub says of a file are the hashes of these bytes."""
    content = data if isinstance(data, bytes) else data.read_bytes()
    lfs = getattr(info, "lfs", None)
    if lfs is not None:
        return bool(lfs.sha256 == hashlib.sha256(content).hexdigest())
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return bool(getattr(info, "blob_id", None) == git_sha1)


@contextmanager
def _uploading(repo_id: str) -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # the client and its upload library raise many kinds
        meaning = translate(error, repo_id)
        if isinstance(meaning, WeightsAccessError | WeightsOfflineError):
            raise meaning from error
        reason = " ".join(str(error).split())[:200]
        raise WeightsUploadError(
            f"{repo_id}: publishing failed ({type(error).__name__}: {reason}); run the same again"
        ) from error
