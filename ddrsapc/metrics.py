"""Metrics of a segmentation, from one confusion matrix that is summed over batches and processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ConfusionMatrix", "SegmentationScores"]


@dataclass(frozen=True)
class SegmentationScores:
    """Scores per class, float64 of shape (num_classes,); NaN where a score is undefined, as for an absent class.

    With TP, FP and FN a class's true positive, false positive and false negative pixels:
    """

    iou: Tensor
    """TP / (TP + FP + FN); undefined where the class is neither in the truth nor in the prediction."""
    dice: Tensor
    """2 TP / (2 TP + FP + FN); undefined where `iou` is."""
    precision: Tensor
    """TP / (TP + FP); undefined where the class is not predicted."""
    recall: Tensor
    """TP / (TP + FN); undefined where the class is not in the truth."""
    support: Tensor
    """Pixels of the class in the truth, int64."""

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes present, background included: Table I of the DDR-SAPC-U paper."""
        return self.iou.nanmean().item()

    @property
    def foreground_mean_iou(self) -> float:
        """Mean IoU over the classes present, without class 0: background fills nearly all of a CT slice."""
        return self.iou[1:].nanmean().item()

    @property
    def absent(self) -> tuple[int, ...]:
        """The classes that are neither in the truth nor in the prediction."""
        return tuple(self.iou.isnan().nonzero().flatten().tolist())


class ConfusionMatrix:
    """Pixel counts by true and predicted class, accumulated batch by batch.

    Args:
        num_classes: classes, background included.
        ignore_index: label of pixels that do not count.
        device: where the counts live; that of the predictions.

    Raises:
        ValueError: for fewer than two classes.

    Example:
        >>> confusion = ConfusionMatrix(4)
        >>> confusion.update(torch.tensor([[0, 1]]), torch.tensor([[0, 2]]))
        >>> confusion.scores().iou
        tensor([1., 0., 0., nan], dtype=torch.float64)
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, device: torch.device | str | None = None) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, background included, got {num_classes}")
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        """(true class, predicted class)."""

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.counts)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: predicted labels of any shape, as `logits.argmax(1)` gives them: (N, H, W).
            target: true labels of the same shape; `ignore_index` where a pixel does not count.

        Raises:
            ValueError: if the shapes differ or a label is outside the classes; nothing is counted then.
            TypeError: if either is not of an integer type.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"expected labels of one shape, got prediction {tuple(prediction.shape)}, target {tuple(target.shape)}"
            )
        for name, labels in (("prediction", prediction), ("target", target)):
            if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
                raise TypeError(f"expected integer labels as the {name}, got {labels.dtype}; logits need .argmax(1)")
        valid = target != self.ignore_index
        predicted, true = prediction[valid].long(), target[valid].long()
        for name, labels in (("prediction", predicted), ("target", true)):
            outside = labels[(labels < 0) | (labels >= self.num_classes)]
            if len(outside):
                raise ValueError(
                    f"labels {outside.unique().tolist()[:5]} of the {name} are outside the {self.num_classes} classes"
                )
        pairs = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += pairs.view_as(self.counts)

    def all_reduce(self) -> ConfusionMatrix:
        """The sum over all processes, as a new matrix; a copy where there is one process only."""
        total = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index, device=self.counts.device)
        total.counts += self.counts
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total.counts)
        return total

    def scores(self) -> SegmentationScores:
        """The scores of everything counted so far."""
        counts = self.counts.cpu().double()  # MPS has no float64
        hits, predicted, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        return SegmentationScores(
            iou=hits / (predicted + true - hits),
            dice=2 * hits / (predicted + true),
            precision=hits / predicted,
            recall=hits / true,
            support=self.counts.sum(1).cpu(),
        )
