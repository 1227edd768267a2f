"""Weights into the network that they belong to, or one that differs from it in classes and channels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddrsapc.hub.config import ModelConfig
from ddrsapc.hub.errors import WeightsMismatchError
from ddrsapc.hub.weights_file import WeightsFile
from ddrsapc.layers.init import init_classifier
from ddrsapc.models import InputConfig, SegmentationModel
from ddrsapc.registry import build_model
from ddrsapc.state_dicts import classes_and_channels, mismatches

__all__ = ["Weights", "build_with_weights", "fitted_state", "load_into"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Checked weights, before they meet a network."""

    place: str
    """What messages call them."""
    file: WeightsFile
    config: ModelConfig | None
    """None: the file does not say what network it belongs to."""


def build_with_weights(architecture: str | None, asked: Mapping[str, Any], weights: Weights) -> SegmentationModel:
    """The network of weights, with what was asked for in place of its own arguments.

    Args:
        architecture: name in the registry; None: the one that the weights name.
        asked: keywords of the entry point.
        weights: from `open_weights`.

    Raises:
        WeightsMismatchError: if they do not fit it; found before memory is taken for the network.
    """
    config = weights.config
    if architecture is None:
        if config is None:
            raise WeightsMismatchError(
                f"{weights.place} does not name its network; use create_model(arch, weights=...)"
            )
        architecture = config.architecture
    own = dict(config.model_args) if config is not None and config.architecture == architecture else {}
    arguments = {**own, **asked}
    skeleton = ModelConfig(architecture, arguments, InputConfig()).skeleton()
    if not own:
        arguments = {**classes_and_channels(skeleton, weights.file.tensors), **asked}
        skeleton = ModelConfig(architecture, arguments, InputConfig()).skeleton()
    fitted_state(skeleton, weights)
    model = build_model(architecture, arguments)
    load_into(model, weights)
    return model


def load_into(model: SegmentationModel, weights: Weights) -> None:
    """Load weights into a network, which is changed only if they fit; what is adapted is logged.

    Raises:
        WeightsMismatchError: if they do not fit it.
        ValueError: if the network is on the meta device.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("the network is on the meta device, which holds no values; move it with to_empty(device=...)")
    state, notes = fitted_state(model, weights)
    model.load_state_dict(state, strict=False)
    for name in model.classifiers:
        if f"{name}.weight" not in state:
            init_classifier(model.get_submodule(name))  # type: ignore[arg-type]
    if weights.config is not None:
        model.input_config = weights.config.input_config
    for note in notes:
        _log.warning("%s: %s", weights.place, note)


def fitted_state(model: SegmentationModel, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """What to load into a network, and notes on what of the weights had to be changed for it.

    Args:
        model: the network, or its skeleton on the meta device.
        weights: from `open_weights`.

    Raises:
        WeightsMismatchError: if they do not fit it.
    """
    state, notes = dict(weights.file.tensors), []
    counts = classes_and_channels(model, weights.file.tensors)
    said = weights.config.model_args if weights.config is not None else {}
    for name, count in counts.items():
        if count != said.get(name, count):
            raise WeightsMismatchError(f"{weights.place}: said to have {name}={said[name]}, but has {count}")
    own = dict(model.state_dict())
    renewed: list[str] = []
    if counts.get("num_classes", model.num_classes) != model.num_classes:
        parts = [f"{name}.{part}" for name in model.classifiers for part in ("weight", "bias")]
        renewed = [key for key in parts if key in own]
        for key in renewed:  # must be there and fit, but for the number of classes
            own[key] = own[key].new_empty((counts["num_classes"], *own[key].shape[1:]), device="meta")
        notes.append(
            f"{', '.join(model.classifiers)} initialised anew for {model.num_classes} classes instead of "
            f"{counts['num_classes']}: train before use"
        )
    if counts.get("in_chans", model.in_chans) != model.in_chans:
        key = f"{model.first_conv}.weight"
        state[key] = _adapt_channels(state[key], model.in_chans)
        notes.append(f"{model.first_conv} adapted to {model.in_chans} input channels instead of {counts['in_chans']}")
    problems = mismatches(own, state)
    if problems:
        config = weights.config
        its = f"{config.architecture} {dict(config.model_args)}" if config is not None else "a network it does not name"
        raise WeightsMismatchError(
            f"{weights.place} does not fit {model.architecture or type(model).__name__}: {problems}. It is of {its}; "
            "build that one"
        )
    for key, tensor in state.items():
        if tensor.is_floating_point() and tensor.dtype != own[key].dtype:
            largest = max(abs(float(value)) for value in tensor.aminmax())
            if largest > torch.finfo(own[key].dtype).max:
                raise WeightsMismatchError(
                    f"{weights.place}: {key} holds {largest:g}, which {own[key].dtype} cannot; use a wider dtype"
                )
    return {key: tensor for key, tensor in state.items() if key not in renewed}, notes


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (O, M, k, k) for N = `channels`: summed over groups, or repeated and scaled by M / N.

    An image repeated in all channels gives the same output before and after, if N < M or M divides N.
    """
    own = weight.shape[1]
    if channels < own:
        groups = [weight[:, i::channels].sum(1, dtype=torch.float64) for i in range(channels)]
        return torch.stack(groups, 1)  # (O, N, k, k)
    repeated = weight.repeat(1, -(-channels // own), 1, 1)[:, :channels]  # (O, N, k, k)
    return repeated.double() * (own / channels)
