"""Checkpoints of a run: a folder each, written whole or not at all.

checkpoints/step-00000120/model.safetensors   the weights in training
checkpoints/step-00000120/ema.safetensors     their average, where there is one
checkpoints/step-00000120/state.pt            optimizer, schedule, RNG, position, history
last.safetensors, best.safetensors            the weights to use (the average where there is one)
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddrsapc.files import sync_folder, write_atomically
from ddrsapc.hub.errors import WeightsError
from ddrsapc.hub.fitting import build_with_weights
from ddrsapc.hub.loading import open_weights
from ddrsapc.hub.remote import HubOptions
from ddrsapc.hub.sources import FileName
from ddrsapc.models import SegmentationModel

__all__ = ["CheckpointError", "Checkpoints", "load_trained", "state_bytes"]


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
            weights = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
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


def load_trained(path: str | os.PathLike[str]) -> SegmentationModel:
    """The network of a `best.safetensors` or `last.safetensors`, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged, or does not say what it belongs to.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; expected the best.safetensors of a training run")
    try:
        weights = open_weights(FileName(path), HubOptions())
        if weights.config is None:
            raise CheckpointError(f"{path} does not name its network: load it with create_model(arch, weights=PATH)")
        return build_with_weights(None, {}, weights).eval()
    except WeightsError as error:
        raise CheckpointError(f"{path} holds no trained network of ddrsapc ({error})") from error
