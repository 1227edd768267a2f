"""State dicts compared with the network that they are meant for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from ddrsapc.messages import shown
from ddrsapc.models import SegmentationModel

__all__ = ["classes_and_channels", "mismatches"]


def classes_and_channels(model: SegmentationModel, loaded: Mapping[str, Tensor]) -> dict[str, int]:
    """`num_classes` and `in_chans` of a state dict, as far as it has the layers that tell.

    Args:
        model: a network that names these layers, also on the meta device.
        loaded: the state dict.
    """
    layers = {"num_classes": (model.classifier, 0), "in_chans": (model.first_conv, 1)}
    found = {name: (loaded.get(f"{layer}.weight"), axis) for name, (layer, axis) in layers.items()}
    return {
        name: weight.shape[axis] for name, (weight, axis) in found.items() if weight is not None and weight.ndim == 4
    }


def mismatches(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], *, may_lack: Collection[str] = ()) -> str:
    """Why `loaded` does not fit a network: "2 missing [a, b]; 1 unexpected [c]"; empty if it does.

    Args:
        own: the network's state dict, also on the meta device.
        loaded: the one to load.
        may_lack: keys of `own` that need not be there.
    """
    problems = {
        "missing": [key for key in own if key not in loaded and key not in may_lack],
        "unexpected": [key for key in loaded if key not in own],
        "of another shape": [
            f"{key} {tuple(loaded[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in loaded and loaded[key].shape != own[key].shape
        ],
        "of another type": [
            f"{key} {loaded[key].dtype} instead of {own[key].dtype}"
            for key in own
            if key in loaded and loaded[key].is_floating_point() != own[key].is_floating_point()
        ],
    }
    return "; ".join(
        f"{len(keys)} {problem} [{', '.join(shown(key, 160) for key in keys[:5])}{', ...' if len(keys) > 5 else ''}]"
        for problem, keys in problems.items()
        if keys
    )
