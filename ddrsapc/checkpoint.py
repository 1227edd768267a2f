"""Public DDRNet checkpoints, mapped onto our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddrsapc.messages import shown
from ddrsapc.models import SegmentationModel
from ddrsapc.models.ddrnet import DDRNet
from ddrsapc.registry import build_model
from ddrsapc.state_dicts import classes_and_channels, mismatches

__all__ = ["build_from_checkpoint", "from_public_ddrnet", "load_public_ddrnet"]

_WRAPPER_PREFIXES = ("module.", "model.")
_WRAPPER_KEYS, _MAX_WRAPPERS = ("state_dict", "model_state_dict", "model"), 4

# Public prefix -> ours, in the reference repository's layout
_REFERENCE = {
    "conv1.0.": "encoder.stem1.0.",
    "conv1.1.": "encoder.stem1.1.",
    "conv1.3.": "encoder.stem2.0.",
    "conv1.4.": "encoder.stem2.1.",
    **{f"layer{i}.": f"encoder.layer{i}." for i in (1, 2, 3, 4)},
    **{f"layer{i}_.": f"encoder.layer{i}_." for i in (3, 4)},
    "layer5.0.": "encoder.layer5.",
    "layer5_.0.": "encoder.layer5_.",
    **{f"compression{i}.": f"encoder.fusion{i}.low_to_high." for i in (3, 4)},
    **{f"down{i}.": f"encoder.fusion{i}.high_to_low." for i in (3, 4)},
    # DAPPM's sequences begin with the pooling, except for the unpooled scale
    **{f"spp.scale0.{j}.": f"encoder.spp.scales.0.{j + 1}." for j in range(3)},
    **{f"spp.scale{i}.": f"encoder.spp.scales.{i}." for i in (1, 2, 3, 4)},
    **{f"spp.process{i}.": f"encoder.spp.processes.{i - 1}." for i in (1, 2, 3, 4)},
    "spp.compression.": "encoder.spp.compression.",
    "spp.shortcut.": "encoder.spp.shortcut.",
    **{
        f"{public}.{part}.": f"{ours}.{our_part}."
        for public, ours in (("final_layer", "head"), ("seghead_extra", "aux_head"))
        for part, our_part in (("bn1", "bn1"), ("conv1", "conv"), ("bn2", "bn2"), ("conv2", "classifier"))
    },
}

# The same in mmsegmentation's, without `backbone.`
_MMSEG = {
    "stem.0.conv.": "encoder.stem1.0.",
    "stem.0.bn.": "encoder.stem1.1.",
    "stem.1.conv.": "encoder.stem2.0.",
    "stem.1.bn.": "encoder.stem2.1.",
    "stem.2.": "encoder.layer1.",
    "stem.4.": "encoder.layer2.",
    "context_branch_layers.0.": "encoder.layer3.",
    "context_branch_layers.1.": "encoder.layer4.",
    "context_branch_layers.2.0.": "encoder.layer5.",
    "spatial_branch_layers.0.": "encoder.layer3_.",
    "spatial_branch_layers.1.": "encoder.layer4_.",
    "spatial_branch_layers.2.0.": "encoder.layer5_.",
    **{
        f"{public}.{part}.": f"encoder.{ours}.{index}."
        for public, ours, offset in (
            ("compression_1", "fusion3.low_to_high", 0),
            ("compression_2", "fusion4.low_to_high", 0),
            ("down_1", "fusion3.high_to_low", 0),
            ("down_2.0", "fusion4.high_to_low", 0),
            ("down_2.1", "fusion4.high_to_low", 3),
        )
        for part, index in (("conv", offset), ("bn", offset + 1))
    },
    **{
        f"spp.{public}.{part}.": f"encoder.spp.{ours}.{index}."
        for public, ours, offset in (
            ("scales.0", "scales.0", 1),
            *((f"scales.{i}.1", f"scales.{i}", 1) for i in (1, 2, 3, 4)),
            *((f"processes.{i}", f"processes.{i}", 0) for i in (0, 1, 2, 3)),
            ("compression", "compression", 0),
            ("shortcut", "shortcut", 0),
        )
        for part, index in (("bn", offset), ("conv", offset + 2))
    },
    "decode_head.head.0.bn.": "head.bn1.",
    "decode_head.head.0.conv.": "head.conv.",
    "decode_head.head.1.": "head.bn2.",
    "decode_head.conv_seg.": "head.classifier.",
    "decode_head.aux_head.0.bn.": "aux_head.bn1.",
    "decode_head.aux_head.0.conv.": "aux_head.conv.",
    "decode_head.aux_head.1.": "aux_head.bn2.",
    "decode_head.aux_cls_seg.": "aux_head.classifier.",
}

# A residual block's conv1.conv.weight is conv1.weight in ours, its conv1.bn.weight bn1.weight
_CONV_MODULE = re.compile(r"\bconv(\d)\.(conv|bn)\.")

# ImageNet classifiers and training losses, which no segmentation network has
_DROPPED = ("down5.", "last_layer.", "linear.", "loss.", "head.", "neck.", "data_preprocessor.")
_NOT_IN_IMAGENET = ("encoder.spp.", "head.", "aux_head.")
_PUBLIC_WIDTHS = {32: "ddrnet_23_slim", 64: "ddrnet_23"}


def from_public_ddrnet(state_dict: Mapping[str, Any], *, aux_head: bool = False) -> dict[str, Tensor]:
    """Rename a public DDRNet-23 or 23-slim state dict to `ddrnet_23`'s or `ddrnet_23_slim`'s keys.

    Both key layouts in use are read: the reference repository's (`conv1.0`, `layer1`, `layer3_`,
    `compression3`, `spp`, `final_layer`, ...) and mmsegmentation's (`backbone.*`, `decode_head.*`);
    with `module.` or `model.` prefixes or wrapped in a `state_dict` entry as well. ImageNet
    checkpoints lose their classifier; mmsegmentation's bias-free stem gets biases of zero.

    Args:
        state_dict: what `torch.load(path, weights_only=True)` returned; it is not changed.
        aux_head: keep the auxiliary head, for a network built with `aux_head=True`.

    Returns:
        A new dict with the same tensors under our names.

    Raises:
        ValueError: if it is not the state dict of a DDRNet-23, with the keys that do not fit.
    """
    tensors = _unwrap(state_dict)
    is_mmseg = any(key.startswith(("backbone.", "decode_head.", "stem.")) for key in tensors)
    table = _MMSEG if is_mmseg else _REFERENCE
    renamed, unknown = {}, []
    for public_key, tensor in tensors.items():
        key = _CONV_MODULE.sub(r"\2\1.", public_key.removeprefix("backbone.")) if is_mmseg else public_key
        prefix = next((prefix for prefix in table if key.startswith(prefix)), None)
        if prefix is not None:
            renamed[table[prefix] + key[len(prefix) :]] = tensor
        elif not key.startswith(_DROPPED):
            unknown.append(public_key)
    if unknown or not renamed:
        found = (
            f"unknown keys {shown(unknown[:5], 400)}"
            if unknown
            else f"no known key among {shown(list(tensors)[:5], 400)}"
        )
        raise ValueError(
            f"not a DDRNet-23 or DDRNet-23-slim state dict: {found}; expected the reference repository's keys "
            "(conv1.0.weight, ...) or mmsegmentation's (backbone.stem.0.conv.weight, ...)"
        )
    if not aux_head:
        renamed = {key: tensor for key, tensor in renamed.items() if not key.startswith("aux_head.")}
    for stem in ("encoder.stem1.0", "encoder.stem2.0"):
        if is_mmseg and f"{stem}.weight" in renamed:
            weight = renamed[f"{stem}.weight"]
            renamed[f"{stem}.bias"] = weight.new_zeros(len(weight))
    return renamed


def load_public_ddrnet(model: nn.Module, state_dict: Mapping[str, Any]) -> list[str]:
    """Load a public DDRNet checkpoint into a network of the same size.

    A segmentation checkpoint must cover the network exactly; an ImageNet one must cover the backbone.
    The network is changed only if everything fits.

    Args:
        model: `ddrnet_23` or `ddrnet_23_slim`, built with the checkpoint's own `in_chans` (3) and
            `num_classes` (19 for Cityscapes).
        state_dict: as for `from_public_ddrnet`.

    Returns:
        The keys left at their initialisation: none for a segmentation checkpoint; DAPPM's and the
        heads' for an ImageNet one.

    Raises:
        ValueError: if keys are missing, left over or of another shape, each named.
        TypeError: if the network is not a DDRNet.
    """
    if not isinstance(model, DDRNet):
        raise TypeError(f"expected ddrnet_23 or ddrnet_23_slim, got a {type(model).__name__}")
    loaded = from_public_ddrnet(state_dict, aux_head=model.aux_head is not None)
    own = model.state_dict()
    is_imagenet = not any(key.startswith(_NOT_IN_IMAGENET) for key in loaded)
    counters = re.compile(r"num_batches_tracked$")  # absent from checkpoints older than PyTorch 0.4.1
    left = [key for key in own if key not in loaded and not counters.search(key)]
    lackable = {key for key in own if counters.search(key) or (is_imagenet and key.startswith(_NOT_IN_IMAGENET))}
    problems = mismatches(own, loaded, may_lack=lackable)
    if problems:
        raise ValueError(
            f"the checkpoint does not fit this DDRNet (width {model.width}, {model.in_chans} input channels, "
            f"{model.num_classes} classes): {problems}. Build the network with the checkpoint's own "
            "size, in_chans and num_classes, and call reset_classifier afterwards"
        )
    model.load_state_dict(loaded, strict=False)
    return left


def build_from_checkpoint(
    state_dict: Mapping[str, Any], *, architecture: str | None = None, **model_args: Any
) -> tuple[SegmentationModel, list[str]]:
    """The network of a checkpoint, loaded; its size, channels and classes are read off the tensors.

    Args:
        state_dict: a public DDRNet's, as for `from_public_ddrnet` (its auxiliary head is left out), or that of a
            network of ours.
        architecture: name in the registry; None: a public DDRNet's.
        **model_args: further keywords of the network, as `width`.

    Returns:
        The network, and the keys left at their initialisation: none, but for a DDRNet trained on ImageNet, which
        lacks DAPPM and the head.

    Raises:
        ValueError: if it is not such a checkpoint, or does not fit the network, with the keys that do not.
    """
    is_public = architecture is None
    tensors = from_public_ddrnet(state_dict) if is_public else _unwrap(state_dict)
    if architecture is None:
        width = len(tensors.get("encoder.stem1.0.weight", ()))
        if width not in _PUBLIC_WIDTHS:
            raise ValueError(f"not a DDRNet-23 or DDRNet-23-slim: {width} channels in its first layer, not 32 or 64")
        architecture = _PUBLIC_WIDTHS[width]
    if any(key.startswith("aux_head.") for key in tensors):
        model_args = {"aux_head": True, **model_args}
    with torch.device("meta"):  # compared before memory is taken
        counts = classes_and_channels(build_model(architecture, model_args), tensors)
        skeleton = build_model(architecture, {**counts, **model_args})
    problems = "" if is_public else mismatches(skeleton.state_dict(), tensors)
    if problems:
        raise ValueError(f"the checkpoint does not fit {architecture}: {problems}")
    model = build_model(architecture, {**counts, **model_args})
    if is_public:
        return model, load_public_ddrnet(model, state_dict)
    model.load_state_dict(tensors, strict=True)
    return model, []


def _unwrap(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without a `state_dict` entry around it and without prefixes that all keys share."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"expected a state dict, got {type(state_dict).__name__}")
    for _ in range(_MAX_WRAPPERS):
        inner = next((state_dict[key] for key in _WRAPPER_KEYS if isinstance(state_dict.get(key), Mapping)), None)
        if inner is None:
            break
        state_dict = inner
    tensors = {
        key: value for key, value in state_dict.items() if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ValueError(f"not a state dict: no tensors under the keys {shown(list(state_dict)[:5], 200)}")
    if any(tensor.layout != torch.strided for tensor in tensors.values()):
        raise ValueError("not a network's state dict: it has sparse tensors")
    stripped = {}
    for wrapped_key, tensor in tensors.items():
        key = wrapped_key
        while key.startswith(_WRAPPER_PREFIXES):
            key = key.partition(".")[2]
        stripped[key] = tensor
    return stripped
