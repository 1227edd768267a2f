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
    WeightsAccessError,
    WeightsDownloadError,
    WeightsError,
    WeightsIntegrityError,
    WeightsNotFoundError,
    WeightsOfflineError,
)
from ddrsapc.hub.weights_file import Expected

__all__ = ["HubOptions", "expected_by_etag", "fetch", "translate"]

Checked = TypeVar("Checked")

_OTHER_WAYS = "or load a file that you have with weights=PATH"


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked; the meaning is that of `huggingface_hub.hf_hub_download`.

    Args:
        revision: branch, tag or commit; None: the manifest's commit, else main.
        cache_dir: folder of the cache; None: the client's own.
        local_files_only: use the cache alone.
        token: access token; None: the one of the environment or the login, where there is one.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None


def fetch(
    repo_id: str,
    filename: str,
    revision: str,
    options: HubOptions,
    check: Callable[[Path], Checked],
) -> Checked:
    """A file of a repository, as `check` returns it; after wrong bytes or a broken transfer once more from the Hub.

    Args:
        repo_id: "org/name".
        filename: in the repository's root.
        revision: branch, tag or commit; a commit that is in the cache takes no request.
        options: `revision` there is not looked at.
        check: reads the file, and raises `WeightsIntegrityError` if its bytes are not the right ones.

    Raises:
        WeightsError: one of its subclasses, by cause.
    """
    import huggingface_hub  # noqa: PLC0415  # half a second, and only for those who download

    place = f"{repo_id}/{filename}@{revision}"

    def attempt(*, force: bool) -> Checked:
        path = huggingface_hub.hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            cache_dir=options.cache_dir,
            local_files_only=options.local_files_only,
            token=options.token,
            force_download=force,
            library_name="ddrsapc",
        )
        return check(Path(path))

    failure: WeightsError
    try:
        _fail_fast(repo_id, filename, revision, options)
        return attempt(force=False)
    except WeightsIntegrityError as error:
        if options.local_files_only or huggingface_hub.constants.is_offline_mode():
            raise
        failure = error
    except WeightsError:
        raise
    except Exception as error:  # the client lets its HTTP library's errors through
        failure = translate(error, place)
        if not _is_broken_transfer(error):
            raise failure from error
    try:
        return attempt(force=True)
    except WeightsError:
        raise
    except Exception as error:
        raise failure if isinstance(failure, WeightsIntegrityError) else translate(error, place) from error


def expected_by_etag(path: Path, repo_id: str, options: HubOptions) -> Expected:
    """The hash that the Hub gave for a file in its cache; empty if it is not known any more.

    Raises:
        WeightsError: where the cache does not hold it and the Hub does not answer.
    """
    # a snapshot's entry links to a blob named by its etag; the blob itself may link to elsewhere
    etag: str | None = Path(os.readlink(path)).name if path.is_symlink() else None
    if etag is None and not options.local_files_only:
        import huggingface_hub  # noqa: PLC0415

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
    reason = " ".join(str(actual).split())[:200] or type(actual).__name__
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
    return WeightsDownloadError(
        f"{place}: the transfer failed ({type(actual).__name__}: {reason}); try again, {_OTHER_WAYS}"
    )


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


def _fail_fast(repo_id: str, filename: str, revision: str, options: HubOptions) -> None:
    """Ask once whether the Hub can be reached, unless the cache has the file: the client would try for 24 s."""
    import httpx2  # noqa: PLC0415
    import huggingface_hub  # noqa: PLC0415

    cached = huggingface_hub.try_to_load_from_cache(repo_id, filename, options.cache_dir, revision)
    if isinstance(cached, str) or options.local_files_only:
        return
    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(repo_id, filename, revision=revision), token=options.token
        )
    except (httpx2.ConnectError, httpx2.TimeoutException):
        raise
    except Exception:  # the client's own attempt tells it better
        pass
