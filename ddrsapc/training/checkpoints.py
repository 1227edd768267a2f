"""Checkpoints of a run: a folder each, written whole or not at all.

checkpoints/step-00000120/model.safetensors   the weights in training
checkpoints/step-00000120/ema.safetensors     their average, where there is one
checkpoints/step-00000120/state.pt            optimizer, schedule, RNG, position, history
last.safetensors, best.safetensors            the weights to use (the average where there is one)
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ddrsapc.factory import create_model
from ddrsapc.files import sync_folder, write_atomically
from ddrsapc.models import InputConfig, SegmentationModel

__all__ = ["CheckpointError", "Checkpoints", "load_trained", "state_bytes", "weights_bytes"]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class Checkpoints:
    """The checkpoints below a run's folder.

    Args:
        folder: of the run; made where it is missing.
        keep: newest checkpoints kept, and best ones.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._steps = folder / "checkpoints"

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of an optimizer step."""
        return self._steps / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, ascending."""
        found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self._steps.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint: into a hidden folder first, which then gets its name.

        Raises:
            OSError: if it cannot be written; older checkpoints are as they were.
        """
        partial = self._steps / f".step-{step:08d}.part"
        try:
            self.clean()
            partial.mkdir(parents=True)
            for name, data in files.items():
                write_atomically(partial / name, data)
            partial.rename(self.path(step))
            sync_folder(self._steps)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def load(self, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors by file name without extension, and the state.

        Raises:
            CheckpointError: if a file is damaged or missing, with the way out.
        """
        folder = self.path(step)
        try:
            weights = {path.stem: _read_safetensors(path)[0] for path in sorted(folder.glob("*.safetensors"))}
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            weights["model"]  # KeyError where it is missing
        except Exception as error:  # torch raises many kinds for damaged files
            raise CheckpointError(
                f"{folder} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
                "delete this folder to go on from the checkpoint before it"
            ) from error
        return weights, state

    def publish(self, step: int, name: str) -> None:
        """Make `name`.safetensors the weights to use of a checkpoint."""
        source = self.path(step) / "ema.safetensors"
        source = source if source.exists() else self.path(step) / "model.safetensors"
        write_atomically(self.folder / f"{name}.safetensors", source.read_bytes())

    def prune(self, best: Iterable[int]) -> None:
        """Remove all but the newest checkpoints and the first of `best`."""
        kept = {*self.steps()[-self.keep :], *list(best)[: self.keep]}
        for step in self.steps():
            if step not in kept:
                hidden = self._steps / f".step-{step:08d}.part"  # half a folder must not look like a checkpoint
                self.path(step).rename(hidden)
                shutil.rmtree(hidden)

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for partial in self._steps.glob(".step-*.part"):
            shutil.rmtree(partial)
        for partial in self.folder.glob(".*.part"):
            partial.unlink()


def state_bytes(state: dict[str, Any]) -> bytes:
    """A state of tensors, numbers, strings and containers, for `state.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def weights_bytes(model: SegmentationModel, **metadata: Any) -> bytes:
    """A network's weights as safetensors that say how to build it.

    Args:
        model: built by `create_model`, or weights alone are kept.
        **metadata: more to note in the header.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    notes = {
        "architecture": model.architecture,
        "model_args": {**model.model_args, "num_classes": model.num_classes, "in_chans": model.in_chans},
        "input": asdict(model.input_config),
    }
    header = {"format": "pt"} | {key: json.dumps(value) for key, value in (notes | metadata).items()}
    data = save_safetensors(tensors, header)
    # the library writes the notes in random order: sorted, equal weights are equal bytes
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def load_trained(path: str | os.PathLike[str]) -> SegmentationModel:
    """The network of a `best.safetensors` or `last.safetensors`, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged, or does not say what it belongs to.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected the best.safetensors of a training run")
    try:
        tensors, metadata = _read_safetensors(path)
        architecture, model_args = json.loads(metadata["architecture"]), json.loads(metadata["model_args"])
        settings = json.loads(metadata["input"])
        input_config = InputConfig(tuple(settings["hu_window"]), settings["mean"], settings["std"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no trained network of ddrsapc ({error})") from error
    if not architecture:
        raise CheckpointError(f"{path} does not name its network: it was not built by create_model; load it by hand")
    try:
        model = create_model(architecture, **model_args)
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit {architecture} ({error})") from error
    model.input_config = input_config
    return model.eval()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
