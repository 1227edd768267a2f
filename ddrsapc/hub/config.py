"""`config.json`: how to build the network that a file of weights belongs to.

Read by `ddrsapc`, by timm-style tools (`architecture`, `pretrained_cfg`, `model_args`) and by subclasses of
`huggingface_hub.PyTorchModelHubMixin` (the arguments of the network's class, flat).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ddrsapc.hub.errors import UnsafeWeightsError, WeightsMismatchError
from ddrsapc.hub.strict_json import parse_object
from ddrsapc.messages import shown
from ddrsapc.models import InputConfig, SegmentationModel
from ddrsapc.registry import architectures, build_model, is_model, model_entrypoint, nearest

__all__ = ["MAX_CONFIG", "ModelConfig"]

MAX_CONFIG = 1 << 20
"""Bytes of a `config.json` that are read."""
_MAX_ARGUMENT = 1024  # no width, depth or number of classes is larger, and a network of that size is listed in seconds


@dataclass(frozen=True)
class ModelConfig:
    """A registered network, its arguments, and what its weights expect of their input.

    Args:
        architecture: name in the registry.
        model_args: keywords of its entry point.
        input_config: how HU become its input.
    """

    architecture: str
    model_args: Mapping[str, Any]
    input_config: InputConfig

    @classmethod
    def of(cls, model: SegmentationModel) -> ModelConfig:
        """The configuration of a network, with all arguments, those left at their defaults as well.

        Raises:
            ValueError: if the network was not built by `create_model`.
            TypeError: if it is none of ddrsapc, or wrapped.
        """
        if not isinstance(model, SegmentationModel):
            raise TypeError(f"expected a network of ddrsapc, got {type(model).__name__}; unwrap it first")
        if not model.architecture:
            raise ValueError(
                f"this {type(model).__name__} does not know its name in the registry; build it with create_model"
            )
        parameters = inspect.signature(model_entrypoint(model.architecture)).parameters
        arguments = {name: parameter.default for name, parameter in parameters.items()}
        # what may have been changed since: reset_classifier, and an auxiliary head that was dropped
        now = {"num_classes": model.num_classes, "in_chans": model.in_chans, "aux_head": model.aux_head is not None}
        now = {name: value for name, value in now.items() if name in arguments}
        return cls(model.architecture, {**arguments, **model.model_args, **now}, model.input_config)

    @classmethod
    def parse(cls, data: bytes, place: str) -> ModelConfig:
        """Read a `config.json`; whoever wrote it, it can only name a network of the registry.

        Raises:
            UnsafeWeightsError: if it is not such a file, or has arguments that no network takes.
            WeightsMismatchError: for an architecture or an argument that this version does not have.
        """
        try:
            found = parse_object(data)
            return cls.checked(*(found.get(key) for key in ("architecture", "model_args", "input")), place=place)
        except ValueError as error:
            if isinstance(error, UnsafeWeightsError):
                raise
            raise UnsafeWeightsError(f"{place}: not a config.json of ddrsapc: {shown(str(error), 300)}") from error

    @classmethod
    def checked(cls, architecture: Any, model_args: Any, input_settings: Any, *, place: str) -> ModelConfig:
        """A configuration of what a file says; see `parse`."""
        if not isinstance(architecture, str) or not isinstance(model_args, dict):
            raise UnsafeWeightsError(f"{place}: expected the name of an architecture and its model_args (an object)")
        if "." in architecture or not is_model(architecture):
            raise WeightsMismatchError(
                f"{place}: the architecture {shown(architecture)!r} is not one of this ddrsapc: "
                f"{nearest(architecture[:80], architectures())}"
            )
        known = inspect.signature(model_entrypoint(architecture)).parameters
        for keyword, value in model_args.items():
            if keyword not in known:
                raise WeightsMismatchError(
                    f"{place}: {architecture} takes no argument {shown(keyword)!r}: {nearest(keyword[:80], known)}"
                )
            kind = type(known[keyword].default)
            expected = "an integer" if kind is int else "true or false" if kind is bool else "a number or text"
            is_right = type(value) is kind if kind in (bool, int) else isinstance(value, str | int | float | None)
            if not is_right or (isinstance(value, int) and abs(value) > _MAX_ARGUMENT):
                raise UnsafeWeightsError(
                    f"{place}: expected {expected} up to {_MAX_ARGUMENT} as {keyword}, found {shown(value)}"
                )
        try:
            config = cls(architecture, model_args, InputConfig.from_dict(input_settings))
            config.skeleton()
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnsafeWeightsError(f"{place}: no network can be built from it: {shown(str(error), 300)}") from error
        return config

    def skeleton(self) -> SegmentationModel:
        """The network on the meta device: names and shapes, no values."""
        with torch.device("meta"):
            return build_model(self.architecture, self.model_args)

    def to_json(self, model: SegmentationModel, *, tag: str | None = None, license: str | None = None) -> bytes:
        """The file's text.

        Args:
            model: the network, or its skeleton.
            tag: of the weights.
            license: identifier of the licence, as `apache-2.0`.
        """
        classifiers = list(model.classifiers)
        parameters = inspect.signature(type(model).__init__).parameters
        # what an entry point fixes is an attribute of the network
        fixed = {name: getattr(model, name, None) for name in parameters if name not in self.model_args}
        channels = self.model_args["in_chans"]
        about = {
            "architecture": self.architecture,
            **self.model_args,
            **{name: value for name, value in fixed.items() if isinstance(value, bool | int | float | str)},
            "model_args": dict(self.model_args),
            "input": self.input_config.to_dict(),
            "pretrained_cfg": {
                "tag": tag or "",
                "input_size": [channels, *self.input_config.size],
                "mean": [self.input_config.mean] * channels,
                "std": [self.input_config.std] * channels,
                "num_classes": self.model_args["num_classes"],
                "first_conv": model.first_conv,
                "classifier": classifiers[0] if len(classifiers) == 1 else classifiers,
                "license": license,
            },
        }
        return (json.dumps(about, indent=2) + "\n").encode()
