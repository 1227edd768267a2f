"""From datasets to batches: which items, in which order, on which process, and how they are put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddrsapc.data.folder import IGNORE_INDEX

__all__ = ["Batch", "EpochBatches", "collate", "make_loader", "shard_batches"]

_AIR = -1024  # HU that images are padded with


class Batch(NamedTuple):
    """A batch as it leaves the loader."""

    hu: Tensor
    """(N, C, H, W), int16 or float32."""
    labels: Tensor
    """(N, H, W), uint8; 255 where a pixel does not count."""
    names: tuple[str, ...]


class EpochBatches(Sampler[list[int]]):
    """Batches of indices for training: a new order every epoch, the same for the same seed, begun at any batch.

    All processes cut the same permutation, so every index is used once per epoch, on one process.

    Args:
        size: items in the dataset.
        batch_size: items per batch and process.
        seed: of the orders.
        drop_last: leave out the last items where they do not fill a batch on every process.
        rank: this process.
        world_size: processes.

    Raises:
        ValueError: if there is not a single batch.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, drop_last: bool = True, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size, self.seed, self.rank, self.world_size = size, batch_size, seed, rank, world_size
        self.epoch = 0
        """Which order."""
        self.start = 0
        """The first batch of the next iteration, to go on in the middle of an epoch."""
        everyone = batch_size * world_size
        # without drop_last the rest makes a smaller batch, if everyone gets the two images that batch norm needs
        self.batches_per_epoch = size // everyone + (not drop_last and size % everyone >= 2 * world_size)
        if not self.batches_per_epoch:
            raise ValueError(
                f"{size} training image(s) make no batch of {batch_size} on {world_size} process(es); "
                "take a smaller batch_size or drop_last=False"
            )

    def __len__(self) -> int:
        return self.batches_per_epoch - self.start

    def __iter__(self) -> Iterator[list[int]]:
        seed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed)).tolist()
        everyone = self.batch_size * self.world_size
        for batch in range(self.start, self.batches_per_epoch):
            yield order[batch * everyone : (batch + 1) * everyone][self.rank :: self.world_size]


def shard_batches(size: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Batches of indices for evaluation: every index once over all processes, none twice to fill up a batch."""
    own = range(rank, size, world_size)
    return [list(own[start : start + batch_size]) for start in range(0, len(own), batch_size)]


def collate(samples: Sequence[tuple[Tensor, Tensor, str]]) -> Batch:
    """Put samples together; smaller images are padded on the right and bottom by air, and ignored there.

    Args:
        samples: (image, label, name) each; images (H, W) or (C, H, W) in HU, labels (H, W).

    Raises:
        ValueError: if image and label differ in size, or labels are not in [0, 255]; the message names the sample.
    """
    images, labels = [], []
    for given_image, given_label, name in samples:
        image, label = torch.as_tensor(given_image), torch.as_tensor(given_label)  # NumPy arrays as well
        if image.shape[-2:] != label.shape or image.ndim not in (2, 3):
            raise ValueError(f"{name}: image {tuple(image.shape)} and label {tuple(label.shape)} do not fit")
        if label.dtype != torch.uint8 and bool(((label < 0) | (label > IGNORE_INDEX)).any()):
            raise ValueError(f"{name}: labels must be in [0, 255], got {int(label.min())} to {int(label.max())}")
        images.append(image if image.ndim == 3 else image[None])  # (C, H, W)
        if len(images[-1]) != len(images[0]):
            raise ValueError(f"{name}: has {len(images[-1])} channels, {samples[0][2]} has {len(images[0])}")
        labels.append(label.to(torch.uint8))
    height, width = (max(label.shape[axis] for label in labels) for axis in (0, 1))
    dtype = torch.int16 if all(image.dtype == torch.int16 for image in images) else torch.float32

    def padded(x: Tensor, value: int) -> Tensor:
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=value)

    hu = torch.stack([padded(image.to(dtype), _AIR) for image in images])  # (N, C, H, W)
    return Batch(hu, torch.stack([padded(label, IGNORE_INDEX) for label in labels]), tuple(s[2] for s in samples))


class _Named(Dataset[Any]):
    """Gives the items of a dataset of (image, label) a name; what goes wrong becomes the item."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str] | Exception:
        try:
            image, label, *name = self.dataset[index]
        except (OSError, ValueError) as error:
            return error
        return image, label, str(name[0]) if name else f"item {index}"


def _collate_or_error(samples: Sequence[Any]) -> Batch | Exception:
    errors = [sample for sample in samples if isinstance(sample, Exception)]
    try:
        return errors[0] if errors else collate(samples)
    except ValueError as error:
        return error


class _Loader(DataLoader[Batch]):
    """Raises an error of a reading process as it was, not as a text with that process's traceback."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                raise batch
            yield batch


def make_loader(
    dataset: Dataset[Any], batches: Sampler[list[int]] | Sequence[list[int]], *, workers: int = 0, pin: bool = False
) -> DataLoader[Batch]:
    """A DataLoader of `Batch`.

    Args:
        dataset: of (image, label) or (image, label, name), as `SliceDataset`.
        batches: indices of each batch: an `EpochBatches`, or what `shard_batches` returns.
        workers: processes that read; 0: this one. The batches do not depend on it.
        pin: keep batches in page-locked memory, for a GPU.
    """
    return _Loader(
        _Named(dataset),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_or_error,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),  # the global one is not drawn from
    )
