"""What every network shares: the door that inputs come in by, the head that can be replaced, the groups that train."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ddrsapc.layers.head import SegmentationHead
from ddrsapc.layers.init import init_classifier, init_weights
from ddrsapc.layers.resize import pad_to_multiple, resize
from ddrsapc.layers.stage import Stage
from ddrsapc.models.input_config import InputConfig

MIN_SIZE = 32
_AUTOCAST_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class FeatureInfo(NamedTuple):
    """One of the maps that `forward_features` returns."""

    name: str
    channels: int
    reduction: int
    """Input resolution over the map's."""


class SegmentationOutput(NamedTuple):
    """What a network with `aux_head=True` returns in training."""

    logits: Tensor
    """(N, num_classes, H, W)."""
    aux: Tensor
    """Logits of the auxiliary head, (N, num_classes, H, W)."""


class SegmentationModel(nn.Module, ABC):
    """Base of the networks: (N, in_chans, H, W) -> logits (N, num_classes, H, W), for any H, W >= 32.

    The input is replicate-padded to a multiple of `stride` and the logits are cropped to its size. A
    network defines `encode` and `decode`, sets `feature_info`, and ends its constructor with
    `finish_init`.
    """

    stride: int
    """The multiple that the input's sides are padded to."""
    first_conv: ClassVar[str]
    """Name of the convolution that sees the input."""
    classifier: ClassVar[str]
    """Name of the final convolution."""
    head_modules: ClassVar[tuple[str, ...]]
    """Children that `decode` uses, which a backbone's pretrained weights do not cover."""
    no_weight_decay: ClassVar[tuple[str, ...]] = ()
    """Parameters exempt from weight decay besides norms and biases."""
    aux_feature: ClassVar[int] = -1
    """Index of the feature map that the auxiliary head reads."""

    feature_info: tuple[FeatureInfo, ...]
    architecture: str = ""
    """The name it is registered by; empty if it was not built by `create_model`."""
    model_args: Mapping[str, Any] = MappingProxyType({})
    """The keywords that `create_model` built it with."""
    input_config: InputConfig = InputConfig()
    """How HU become the network's input; weights bring their own."""

    def __init__(self, *, num_classes: int, in_chans: int, width: int) -> None:
        super().__init__()
        self.num_classes = check_positive("num_classes", num_classes)
        self.in_chans = check_positive("in_chans", in_chans)
        self.width = check_positive("width", width)
        self.aux_head: SegmentationHead | None = None

    def finish_init(self, *, aux_head: bool, aux_channels: int) -> None:
        """Build the auxiliary head where it is asked for, and initialise all weights."""
        if aux_head:
            in_channels = self.feature_info[self.aux_feature].channels
            self.aux_head = SegmentationHead(in_channels, aux_channels, self.num_classes)
        self.apply(init_weights)
        for name in self.classifiers:
            init_classifier(self._conv(name))

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of the final convolutions: `classifier`, and the auxiliary head's where there is one."""
        return (self.classifier,) if self.aux_head is None else (self.classifier, "aux_head.classifier")

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps of a checked and padded input, in the order of `feature_info`."""

    @abstractmethod
    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits at the network's native resolution."""

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps that `feature_info` describes.

        Args:
            x: (N, in_chans, H, W), any H, W >= 32.

        Returns:
            One (N, channels, H' / reduction, W' / reduction) per entry of `feature_info`, where H', W'
            are H, W rounded up to multiples of `stride`.

        Raises:
            ValueError: for another rank or channel count, an empty batch, or a side below 32.
            TypeError: for a dtype other than the weights' (unless under autocast).
        """
        self._check_input(x)
        return self.encode(pad_to_multiple(x, self.stride))

    def forward_head(self, features: tuple[Tensor, ...], *, native: bool = False) -> Tensor:
        """Logits from what `forward_features` returned.

        Args:
            features: the tuple of feature maps.
            native: leave the logits at the resolution that the head computes them at.

        Returns:
            (N, num_classes, H', W'), the size of the padded input, of which the input's H, W are the top left;
            smaller by the head's reduction if `native`.

        Raises:
            ValueError: if that is not a tuple of as many maps as `feature_info` describes.
        """
        if not isinstance(features, tuple) or len(features) != len(self.feature_info):
            raise ValueError(f"expected the tuple of {len(self.feature_info)} maps that forward_features returns")
        logits = self.decode(features)
        size = self._padded_size(features)
        return logits if native or tuple(logits.shape[-2:]) == size else resize(logits, size)

    def forward(self, x: Tensor) -> Tensor | SegmentationOutput:
        """Logits (N, num_classes, H, W); in training with an auxiliary head, a `SegmentationOutput`."""
        features = self.forward_features(x)
        height, width = x.shape[-2:]
        logits = self.forward_head(features)[..., :height, :width]  # (N, num_classes, H, W)
        if self.aux_head is None or not self.training:
            return logits
        aux = resize(self.aux_head(features[self.aux_feature]), self._padded_size(features))
        return SegmentationOutput(logits, aux[..., :height, :width])

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the final convolutions by freshly initialised ones of `num_classes` classes.

        Device, dtype and memory layout stay the old ones'; the rest of the network keeps its weights.
        """
        self.num_classes = num_classes = check_positive("num_classes", num_classes)
        for name in self.classifiers:
            old = self._conv(name)
            new = nn.Conv2d(
                old.in_channels,
                num_classes,
                old.kernel_size,  # type: ignore[arg-type]
                padding=old.padding,  # type: ignore[arg-type]
                device=old.weight.device,
                dtype=old.weight.dtype,
            )
            init_classifier(new)
            # a 1x1 weight is contiguous in both layouts: only its strides tell them apart
            if old.weight.stride(-1) > 1:
                new = new.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.set_submodule(name, new.train(old.training))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage's activations in the backward pass instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def param_groups(
        self, lr: float, *, weight_decay: float = 5e-4, backbone_lr_scale: float = 1.0
    ) -> list[dict[str, Any]]:
        """Parameter groups for a `torch.optim` optimizer.

        Norms, biases and position embeddings get no weight decay.

        Args:
            lr: learning rate of the head.
            weight_decay: weight decay of all other weights (the paper's: 5e-4).
            backbone_lr_scale: the backbone's learning rate is this times `lr`; below 1 to preserve
                pretrained weights. The head is what `decode` uses, the backbone everything else.

        Returns:
            Up to four groups with the keys name, params, lr and weight_decay; frozen parameters are left out.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            is_head = name.split(".")[0] in (*self.head_modules, "aux_head")
            decays = parameter.ndim > 1 and name not in self.no_weight_decay
            key = f"{'head' if is_head else 'backbone'}{'' if decays else '_no_decay'}"
            group = {
                "name": key,
                "params": [],
                "lr": lr if is_head else lr * backbone_lr_scale,
                "weight_decay": weight_decay if decays else 0.0,
            }
            groups.setdefault(key, group)["params"].append(parameter)
        return list(groups.values())

    def _conv(self, name: str) -> nn.Conv2d:
        conv = self.get_submodule(name)
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"expected a Conv2d at {name}, found {type(conv).__name__}")
        return conv

    def _padded_size(self, features: tuple[Tensor, ...]) -> tuple[int, int]:
        reduction = self.feature_info[0].reduction
        height, width = features[0].shape[-2:]
        return height * reduction, width * reduction

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor (N, {self.in_chans}, H, W), got {type(x).__name__}")
        if x.ndim != 4:
            raise ValueError(f"expected a batch of images (N, {self.in_chans}, H, W), got shape {tuple(x.shape)}")
        if x.shape[1] != self.in_chans:
            raise ValueError(
                f"expected {self.in_chans} input channel(s), got {x.shape[1]} in shape {tuple(x.shape)}; "
                "the number is set by create_model(..., in_chans=...)"
            )
        if x.shape[0] == 0:
            raise ValueError(f"expected at least one image, got an empty batch of shape {tuple(x.shape)}")
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            raise ValueError(f"expected images of at least {MIN_SIZE} x {MIN_SIZE} pixels, got {tuple(x.shape[2:])}")
        if torch.compiler.is_compiling():
            return  # the dtype is a constant of the graph
        dtype = next(self.parameters()).dtype
        casts = x.dtype in _AUTOCAST_TYPES and x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        if x.dtype != dtype and not casts:
            raise TypeError(f"expected {dtype} input like the weights', got {x.dtype}; convert it with x.to({dtype})")


def check_positive(name: str, value: int) -> int:
    """`value` as an int; raises ValueError unless it is a positive integer."""
    try:
        number = operator.index(value)  # NumPy's integers as well
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number
