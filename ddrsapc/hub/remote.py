"""One file from the Hub, checked: from the cache without a request, else downloaded.

The client (`huggingface_hub`) accepts wrong bytes of the right length, returns a damaged cache as it is, does not
retry a connection that was reset, and tries a dead endpoint for 24 s. What it does not do is done here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ddrsapc.hub.errors import (
    UnsafeWeightsError,
    WeightsAccessError,
    WeightsDownloadError,
    WeightsError,
    WeightsIntegrityError,
    WeightsNotFoundError,
    WeightsOfflineError,
)
from ddrsapc.hub.sources import check_revision
from ddrsapc.hub.weights_file import Expected
from ddrsapc.messages import shown

__all__ = ["HubOptions", "expected_by_etag", "fetch", "reason_of", "translate"]

Checked = TypeVar("Checked")

_SECRETS = (
    (re.compile(r"hf_\w+"), "hf_***"),
    (re.compile(r"(?i)(bearer|basic) [^\s'\"]+"), r"\1 ***"),
    (re.compile(r"(://)[^/@\s]+@"), r"\1***@"),
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*"), r"\1?***"),
)
_OTHER_WAYS = "or load a file that you have with weights=PATH"


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked; the meaning is that of `huggingface_hub.hf_hub_download`.

    Args:
        revision: branch, tag or commit; None: the manifest's commit, else main.
        cache_dir: folder of the cache; None: the client's own.
        local_files_only: use the cache alone.
        token: access token; None: the one of the environment or the login, where there is one.

    Raises:
        ValueError: for a revision or a token that cannot be one.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def __post_init__(self) -> None:
        if self.revision is not None:
            check_revision(self.revision)
        if isinstance(self.token, str) and not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise ValueError("the access token has characters that no token has; is there a line break in it?")


def fetch(
    repo_id: str,
    filename: str,
    revision: str,
    options: HubOptions,
    check: Callable[[Path], Checked],
    *,
    size: int | None = None,
    limit: int | None = None,
) -> Checked:
    """A file of a repository, as `check` returns it; after wrong bytes or a broken transfer once more from the Hub.

    Args:
        repo_id: "org/name".
        filename: in the repository's root.
        revision: branch, tag or commit; a commit that is in the cache takes no request.
        options: `revision` there is not looked at.
        check: reads the file, and raises `WeightsIntegrityError` if its bytes are not the right ones.
        size: bytes that it must have, asked before it is downloaded; None: any.
        limit: bytes that it may have at most; None: any.

    Raises:
        WeightsError: one of its subclasses, by cause.
    """
    import huggingface_hub  # noqa: PLC0415  # half a second, and only for those who download
    from huggingface_hub import constants  # noqa: PLC0415

    place = f"{repo_id}/{filename}@{revision}"
    is_offline = options.local_files_only or constants.is_offline_mode()

    def attempt(*, force: bool = False, local: bool = False) -> Checked:
        path = huggingface_hub.hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            cache_dir=options.cache_dir,
            local_files_only=local or options.local_files_only,
            token=options.token,
            force_download=force,
            library_name="ddrsapc",
        )
        return check(Path(path))

    _ask_first(place, repo_id, filename, revision, options, size=size, limit=limit)
    damage: WeightsIntegrityError | None = None
    try:
        return attempt()
    except WeightsIntegrityError as error:
        if is_offline:
            raise
        damage = error
    except WeightsError:
        raise
    except Exception as error:  # the client lets its HTTP library's errors through
        if not _is_broken_transfer(error):
            raise translate(error, place) from error
    try:
        return attempt(force=damage is not None)
    except WeightsError:
        raise
    except Exception as error:
        if damage is not None:
            raise damage from error
        if _is_cached(repo_id, filename, revision, options):  # a branch that could not be asked about
            return attempt(local=True)
        raise translate(error, place) from error


def expected_by_etag(path: Path, repo_id: str, options: HubOptions) -> Expected:
    """The hash that the Hub gave for a file in its cache; empty if it is not known any more.

    Raises:
        WeightsError: where the cache does not hold it and the Hub does not answer.
    """
    # a snapshot's entry links to a blob named by its etag; the blob itself may link to elsewhere
    etag: str | None = Path(os.readlink(path)).name if path.is_symlink() else None
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub import constants  # noqa: PLC0415

    if etag is None and not (options.local_files_only or constants.is_offline_mode()):
        url = huggingface_hub.hf_hub_url(repo_id, path.name, revision=path.parent.name)
        try:
            etag = huggingface_hub.get_hf_file_metadata(url, token=options.token).etag
        except Exception as error:
            raise translate(error, f"{repo_id}/{path.name}") from error
    if etag and re.fullmatch(r"[0-9a-f]{64}", etag):
        return Expected(sha256=etag)
    if etag and re.fullmatch(r"[0-9a-f]{40}", etag):
        return Expected(git_sha1=etag)
    return Expected()


def translate(error: Exception, place: str) -> WeightsError:
    """What an exception of the client means, with the way out."""
    import httpx2  # noqa: PLC0415  # the client's HTTP library
    from huggingface_hub import errors  # noqa: PLC0415

    actual = error  # a missing cache entry is said of many causes
    while isinstance(actual, errors.LocalEntryNotFoundError | ValueError) and isinstance(actual.__cause__, Exception):
        actual = actual.__cause__
    reason = reason_of(actual)
    status = actual.response.status_code if isinstance(actual, errors.HfHubHTTPError) else None
    log_in = "log in with: hf auth login (or set HF_TOKEN)"
    nowhere = "check the name on the Hub"
    meanings: tuple[tuple[tuple[type[Exception] | int, ...], type[WeightsError], str], ...] = (
        (
            (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError),
            WeightsOfflineError,
            "not in the cache, and downloads are switched off (HF_HUB_OFFLINE, local_files_only): allow them once, "
            + _OTHER_WAYS,
        ),
        (
            (errors.GatedRepoError,),
            WeightsAccessError,
            f"the repository is gated: ask for access on its page on the Hub, then {log_in}",
        ),
        (
            (errors.DisabledRepoError, 403),
            WeightsAccessError,
            f"the Hub refuses access ({reason}); ask the owner, {_OTHER_WAYS}",
        ),
        (
            (401,),
            WeightsAccessError,
            f"there is no such repository, or it is private: check the name, and {log_in}",
        ),
        ((errors.RepositoryNotFoundError,), WeightsNotFoundError, f"there is no such repository; {nowhere}"),
        ((errors.RevisionNotFoundError,), WeightsNotFoundError, f"there is no such revision; {nowhere}"),
        ((errors.RemoteEntryNotFoundError,), WeightsNotFoundError, f"there is no such file; {nowhere}"),
        ((errors.HFValidationError,), WeightsNotFoundError, f"no name of a repository ({reason}); {nowhere}"),
        (
            (errors.FileMetadataError,),
            WeightsDownloadError,
            "what answered is not the Hub; log in to the network (a captive portal?), and check HF_ENDPOINT",
        ),
        (
            (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError),
            WeightsOfflineError,
            f"the Hub cannot be reached ({reason}); connect to the network, {_OTHER_WAYS}",
        ),
        (
            (httpx2.TimeoutException,),
            WeightsDownloadError,
            f"the Hub did not answer in time ({type(actual).__name__}); try again, on a slow network with larger "
            "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT",
        ),
    )
    for causes, kind, meaning in meanings:
        if any(status == cause if isinstance(cause, int) else isinstance(actual, cause) for cause in causes):
            return kind(f"{place}: {meaning}")
    way_out = f"try again, {_OTHER_WAYS}"
    if isinstance(actual, OSError) and actual.errno is not None and not isinstance(actual, errors.HfHubHTTPError):
        way_out = "give another cache_dir, or set HF_HOME"  # the disk's error, not the network's
    return WeightsDownloadError(f"{place}: the transfer failed ({type(actual).__name__}: {reason}); {way_out}")


def reason_of(error: Exception) -> str:
    """An exception's text in one line, without what is secret: tokens, passwords, signatures in addresses."""
    text = " ".join(str(error).split())
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return shown(text, 200) or type(error).__name__


def _is_broken_transfer(error: Exception) -> bool:
    """Whether a new attempt may help; the client has tried timeouts and server errors again itself."""
    import httpx2  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    if isinstance(error, httpx2.ConnectError | httpx2.TimeoutException | httpx2.RemoteProtocolError):
        return False
    # a plain OSError is the client's check of the length
    return isinstance(error, httpx2.TransportError) or (
        isinstance(error, OSError)
        and not isinstance(error, errors.HfHubHTTPError | FileNotFoundError | PermissionError)
        and error.errno is None
    )


def _is_cached(repo_id: str, filename: str, revision: str, options: HubOptions) -> bool:
    import huggingface_hub  # noqa: PLC0415

    return isinstance(huggingface_hub.try_to_load_from_cache(repo_id, filename, options.cache_dir, revision), str)


def _ask_first(
    place: str,
    repo_id: str,
    filename: str,
    revision: str,
    options: HubOptions,
    *,
    size: int | None,
    limit: int | None,
) -> None:
    """Unless the cache has the file, ask whether the Hub can be reached, and for the file's size.

    The client would try a dead endpoint for 24 s, and download anything.
    """
    import httpx2  # noqa: PLC0415
    import huggingface_hub  # noqa: PLC0415

    if options.local_files_only or _is_cached(repo_id, filename, revision, options):
        return
    url = huggingface_hub.hf_hub_url(repo_id, filename, revision=revision)
    try:
        metadata = huggingface_hub.get_hf_file_metadata(url, token=options.token)
    except (httpx2.ConnectError, httpx2.TimeoutException) as error:
        raise translate(error, place) from error
    except Exception:  # the client's own attempt tells it better
        return
    found = metadata.size if metadata.commit_hash is not None else None  # else it is not the Hub that answers
    if found is not None and size not in (None, found):
        raise WeightsIntegrityError(
            f"{place}: expected {size} bytes, the Hub has {found}: not the file that was published"
        )
    if found is not None and limit is not None and found > limit:
        raise UnsafeWeightsError(f"{place}: {found} bytes are refused, {limit} are allowed")
