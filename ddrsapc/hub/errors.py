"""What can go wrong with weights. Each message says which weights, where, and the way out."""

from __future__ import annotations

__all__ = [
    "ManifestError",
    "UnsafeWeightsError",
    "WeightsAccessError",
    "WeightsDownloadError",
    "WeightsError",
    "WeightsIntegrityError",
    "WeightsMismatchError",
    "WeightsNotFoundError",
    "WeightsNotPublishedError",
    "WeightsOfflineError",
    "WeightsUploadError",
]


class WeightsError(RuntimeError):
    """Base of all errors of `ddrsapc.hub`."""


class ManifestError(WeightsError, ValueError):
    """`weights_manifest.json` breaks its schema."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """There is no such file, repository, revision, or entry in the manifest."""


class WeightsNotPublishedError(WeightsError):
    """The weights are listed, but on no Hub yet, and not on this machine."""


class WeightsAccessError(WeightsError, PermissionError):
    """A gated or private repository, or a file that may not be read."""


class WeightsOfflineError(WeightsError, ConnectionError):
    """The Hub cannot be reached, or may not be, and the weights are not in the cache."""


class WeightsDownloadError(WeightsError, OSError):
    """The transfer from the Hub broke off, or something else than the Hub answered."""


class WeightsUploadError(WeightsError, OSError):
    """The transfer to the Hub failed."""


class WeightsIntegrityError(WeightsError, ValueError):
    """The bytes are not those that were published."""


class UnsafeWeightsError(WeightsError, ValueError):
    """A file or a configuration that is refused because of what it contains."""


class WeightsMismatchError(WeightsError):
    """The weights are not this network's."""
