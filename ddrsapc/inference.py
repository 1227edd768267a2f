"""Labels and probabilities of whole scans, a batch of slices at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc.ct.orientation import SliceOrientation
from ddrsapc.ct.volume import Volume, check_axial
from ddrsapc.kernels import upsample_argmax
from ddrsapc.models import SegmentationModel

__all__ = ["predict", "predict_probabilities"]

CALCIUM_HU = 130.0


def predict(
    model: SegmentationModel,
    volume: Volume,
    *,
    threshold: float | None = CALCIUM_HU,
    batch_size: int = 2,
    progress: bool = False,
) -> NDArray[np.uint8]:
    """Label every voxel of a scan, slice by slice, in the scan's own geometry.

    The network sees every slice as radiologists do, whichever way it is stored: columns run to the patient's left,
    rows to the back. It runs where its weights are, in evaluation mode, on slices prepared by its own `input_config`; a
    network of several input channels sees the slice in each. Memory: the scan, a byte a voxel, and a batch.

    Args:
        model: the network.
        volume: the scan, (Z, H, W); slices of at least 32 x 32 pixels.
        threshold: HU below which a voxel is not calcium, whatever the network says; None: its word counts.
        batch_size: slices at once.
        progress: show a bar.

    Returns:
        Labels (Z, H, W): 0 none, 1 LAD, 2 LCX, 3 RCA, or the classes of the network.

    Raises:
        ValueError: if the network has more than 256 classes, slices are too small or not axial, or `batch_size` is
            below 1.
    """
    labels = np.empty(volume.hu.shape, np.uint8)  # (Z, H, W)
    for first, logits in _logits(model, volume, batch_size=batch_size, progress=progress):
        found = upsample_argmax(logits, logits.shape[-2:])  # (N, H, W)
        labels[first : first + len(found)] = found.cpu().numpy()
    if threshold is not None:
        for hu, label in zip(volume.hu, labels, strict=True):  # by slice: no second volume
            label[hu < threshold] = 0
    return labels


def predict_probabilities(
    model: SegmentationModel, volume: Volume, *, batch_size: int = 2, progress: bool = False
) -> Iterator[NDArray[np.float32]]:
    """The probabilities of the classes, slice by slice; a whole scan of them would be large.

    Args:
        model: the network, as for `predict`.
        volume: the scan, (Z, H, W).
        batch_size: slices at once.
        progress: show a bar.

    Yields:
        (num_classes, H, W) of each slice, which sum to 1.

    Raises:
        ValueError: as `predict`.
    """
    for _, logits in _logits(model, volume, batch_size=batch_size, progress=progress):
        yield from logits.softmax(1).cpu().numpy()


def _logits(
    model: SegmentationModel, volume: Volume, *, batch_size: int, progress: bool
) -> Iterator[tuple[int, Tensor]]:
    """The first slice of each batch, and its logits (N, num_classes, H, W) in float32."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_axial(volume)
    orientation = SliceOrientation.of(volume.affine)
    parameter = next(model.parameters())
    with _evaluating(model), tqdm(total=len(volume.hu), unit="slice", disable=not progress) as bar:
        for first in range(0, len(volume.hu), batch_size):
            batch = volume.hu[first : first + batch_size]
            hu = torch.from_numpy(np.ascontiguousarray(batch)).to(parameter.device)  # (N, H, W)
            x = model.input_config.normalize(orientation.upright(hu))[:, None].to(parameter.dtype)  # (N, 1, H, W)
            with torch.inference_mode():
                logits = model(x.expand(-1, model.in_chans, -1, -1)).float()
            yield first, orientation.as_stored(logits)
            bar.update(len(batch))


@contextmanager
def _evaluating(model: SegmentationModel) -> Iterator[None]:
    """In evaluation mode; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
