"""Pretrained weights: found, checked, loaded, saved and published."""

from ddrsapc.hub.config import ModelConfig
from ddrsapc.hub.errors import (
    ManifestError,
    UnsafeWeightsError,
    WeightsAccessError,
    WeightsDownloadError,
    WeightsError,
    WeightsIntegrityError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsNotPublishedError,
    WeightsOfflineError,
    WeightsUploadError,
)
from ddrsapc.hub.loading import load_weights
from ddrsapc.hub.manifest import Metric, Recipe, WeightsSpec, list_pretrained, load_manifest
from ddrsapc.hub.publishing import Publication, publish, push_to_hub
from ddrsapc.hub.saving import save_pretrained
from ddrsapc.hub.weights_file import WeightsFile, verify_weights

__all__ = [
    "ManifestError",
    "Metric",
    "ModelConfig",
    "Publication",
    "Recipe",
    "UnsafeWeightsError",
    "WeightsAccessError",
    "WeightsDownloadError",
    "WeightsError",
    "WeightsFile",
    "WeightsIntegrityError",
    "WeightsMismatchError",
    "WeightsNotFoundError",
    "WeightsNotPublishedError",
    "WeightsOfflineError",
    "WeightsSpec",
    "WeightsUploadError",
    "list_pretrained",
    "load_manifest",
    "load_weights",
    "publish",
    "push_to_hub",
    "save_pretrained",
    "verify_weights",
]
