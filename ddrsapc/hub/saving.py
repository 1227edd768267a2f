"""A network as files: its weights, `config.json` and a model card."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddrsapc.files import write_atomically
from ddrsapc.hub.card import model_card
from ddrsapc.hub.config import ModelConfig
from ddrsapc.hub.fitting import Weights, fitted_state
from ddrsapc.hub.loading import CONFIG_NAME, WEIGHTS_NAME
from ddrsapc.hub.manifest import Metric
from ddrsapc.hub.weights_file import parse_weights, serialize
from ddrsapc.models import SegmentationModel

__all__ = ["CARD_NAME", "model_files", "save_pretrained", "weights_bytes"]

CARD_NAME = "README.md"


def save_pretrained(
    model: SegmentationModel,
    directory: str | os.PathLike[str],
    *,
    license: str | None = None,
    metrics: Sequence[Metric] = (),
) -> None:
    """Save a network to a folder that `create_model("local-dir:PATH")` loads.

    Writes `model.safetensors`, `config.json` and, where there is none yet, `README.md` (a model card). Each file is
    written whole or not at all. `model.half()` first halves the weights' size.

    Args:
        model: built by `create_model`.
        directory: made where it is missing.
        license: identifier of the weights' licence on the Hub, as "apache-2.0".
        metrics: figures for the card.

    Raises:
        ValueError: if the network was not built by `create_model`.
        TypeError: if it is none of ddrsapc, or wrapped.
        WeightsError: if it could not be loaded again: values that are not finite, layers that were added.
        OSError: if the folder cannot be written to.
    """
    files = model_files(model, license=license, metrics=metrics)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if name != CARD_NAME or not (folder / name).exists():  # somebody may have written a better one
            write_atomically(folder / name, data)


def model_files(
    model: SegmentationModel, *, repo_id: str | None = None, license: str | None = None, metrics: Sequence[Metric] = ()
) -> dict[str, bytes]:
    """The bytes of the three files, checked to load again; see `save_pretrained`."""
    place = f"this {type(model).__name__}"
    config = ModelConfig.of(model)
    about = config.to_json(model, license=license)
    config = ModelConfig.parse(about, place)
    data = weights_bytes(model)
    fitted_state(config.skeleton(), Weights(place, parse_weights(data, place), config))
    card = model_card(config, repo_id=repo_id, license=license, metrics=metrics)
    return {WEIGHTS_NAME: data, CONFIG_NAME: about, CARD_NAME: card.encode()}


def weights_bytes(model: SegmentationModel, **notes: Any) -> bytes:
    """A network's weights as safetensors that say how to build it; equal weights are equal bytes.

    Args:
        model: built by `create_model`, or the weights do not say it.
        **notes: more to note in the header, as JSON.

    Raises:
        ValueError: if the network is on the meta device, which holds no values.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("the network is on the meta device, which holds no values to save")
    about: Mapping[str, Any] = {}
    if model.architecture:
        config = ModelConfig.of(model)
        about = {
            "architecture": config.architecture,
            "model_args": dict(config.model_args),
            "input": config.input_config.to_dict(),
        }
    return serialize(model.state_dict(), **about, **notes)
