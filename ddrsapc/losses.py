"""Losses for training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddrsapc.kernels import ohem_cross_entropy
from ddrsapc.models.base import SegmentationOutput

__all__ = ["AuxiliaryLoss", "DiceLoss", "OhemCrossEntropyLoss", "WeightedSumLoss"]


class OhemCrossEntropyLoss(nn.Module):
    """Cross-entropy with online hard example mining, over the pixels that the network finds difficult.

    Of the n valid pixels, k = max(1, int(min_kept * n)). A pixel is kept if the probability of its
    true class is strictly below the cut = max(threshold, the (k + 1)-th smallest such probability): all
    pixels below the threshold, and at least k. If none is (the k + 1 smallest are all equal and not
    below the threshold), the k largest losses are kept. The loss is the sum of the kept losses over
    their count.

    Nothing waits for the GPU: no value is read back by the host. Half-precision logits are
    computed with in float32. NaN logits make the loss NaN.

    Args:
        threshold: probability of the true class below which a pixel is always kept, in [0, 1].
        min_kept: fraction of the valid pixels that is kept at least, in [0, 1].
        ignore_index: label of pixels that do not count.
        weight: one factor per class on the losses of its pixels; it does not change which are kept by the cut.

    Source:
        OHEM: Shrivastava et al., arXiv 1604.03540. The DDR-SAPC-U paper trains with it, as DDRNet does.
    """

    weight: Tensor | None

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 0.05,
        ignore_index: int = 255,
        weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("min_kept", min_kept)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
        self.threshold = threshold
        self.min_kept = min_kept
        self.ignore_index = ignore_index
        as_tensor = None if weight is None else torch.as_tensor(weight, dtype=torch.float32)
        if as_tensor is not None and (as_tensor.ndim != 1 or not bool((as_tensor >= 0).all())):
            raise ValueError(f"weight must be one non-negative number per class, got {weight!r}")
        self.register_buffer("weight", as_tensor)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; zero with zero gradients where every pixel is ignored.

        Args:
            logits: (N, C, H, W), floating point.
            target: (N, H, W), integer labels in [0, C) or `ignore_index`.

        Raises:
            ValueError: if the shapes do not fit or are empty; on the CPU also for labels outside the classes
                (a GPU would have to wait to check them).
            TypeError: if the logits are not floating-point or the target is not of an integer type.
        """
        target = _checked(logits, target, self.ignore_index)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight has {len(self.weight)} entries, but the logits {logits.shape[1]} classes")
        return ohem_cross_entropy(
            logits,
            target,
            threshold=self.threshold,
            min_kept=self.min_kept,
            ignore_index=self.ignore_index,
            weight=self.weight,
        )

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        weight = None if self.weight is None else self.weight.tolist()
        return (
            f"threshold={self.threshold}, min_kept={self.min_kept}, ignore_index={self.ignore_index}, weight={weight}"
        )


class DiceLoss(nn.Module):
    """1 - soft Dice, the mean over classes, of the softmax probabilities of a whole batch.

    A class's Dice is 2 sum(p g) / (sum(p) + sum(g)) over the valid pixels, with p the class's probability and
    g 1 where it is the true class. Classes that the batch's labels lack do not count: their Dice is 0 or
    undefined whatever the network does. Add another loss, as `OhemCrossEntropyLoss`, which does see them.

    Half-precision logits are computed with in float32. NaN logits make the loss NaN.

    Args:
        ignore_index: label of pixels that do not count.
        include_background: count class 0, which fills nearly all of a CT slice and is found easily.

    Source:
        V-Net: Milletari et al., arXiv 1606.04797.
    """

    def __init__(self, *, ignore_index: int = 255, include_background: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.include_background = include_background

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar in [0, 1]; zero with zero gradients where no class counts.

        Args:
            logits: (N, C, H, W), floating point.
            target: (N, H, W), integer labels in [0, C) or `ignore_index`.

        Raises:
            ValueError: if the shapes do not fit or are empty; on the CPU also for labels outside the classes.
            TypeError: if the logits are not floating-point or the target is not of an integer type.
        """
        target = _checked(logits, target, self.ignore_index)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        valid = (target != self.ignore_index)[:, None]  # (N, 1, H, W)
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
        truth = (target[:, None] == classes) & valid  # (N, C, H, W)
        probability = logits.softmax(1) * valid  # (N, C, H, W)
        both = (probability * truth).sum((0, 2, 3))  # (C,)
        pixels = truth.sum((0, 2, 3))  # (C,)
        dice = 2 * both / (probability.sum((0, 2, 3)) + pixels.clamp(min=1))  # (C,)
        counts = pixels > 0
        if not self.include_background:
            counts = counts & (classes.flatten() > 0)
        # multiplied, not selected, for NaN to show
        return ((1 - dice) * counts).sum() / counts.sum().clamp(min=1)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"ignore_index={self.ignore_index}, include_background={self.include_background}"


class WeightedSumLoss(nn.Module):
    """The sum of several losses of the same logits and target, each times its weight.

    Args:
        terms: pairs of a loss and its weight.

    Raises:
        ValueError: if there is none, or a weight is not a finite number of at least 0.
        TypeError: if a loss is not a module.

    Example:
        >>> criterion = WeightedSumLoss([(OhemCrossEntropyLoss(), 1.0), (DiceLoss(), 0.5)])
    """

    def __init__(self, terms: Sequence[tuple[nn.Module, float]]) -> None:
        super().__init__()
        if not terms or not all(0 <= weight < math.inf for _, weight in terms):
            raise ValueError(f"expected pairs of a loss and a finite weight of at least 0, got {terms!r}")
        for loss, _ in terms:
            _check_module(loss)
        self.losses = nn.ModuleList(loss for loss, _ in terms)
        self.weights = tuple(float(weight) for _, weight in terms)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar, of whatever the losses take; see them."""
        values = [weight * loss(logits, target) for loss, weight in zip(self.losses, self.weights, strict=True)]
        return torch.stack(values).sum()

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"weights={self.weights}"


class AuxiliaryLoss(nn.Module):
    """A loss of what a network returns: of its logits, and of its auxiliary head's where it has one.

    Args:
        criterion: loss of (logits, target).
        aux_weight: weight of the auxiliary logits' loss.

    Raises:
        ValueError: if the weight is not a finite number of at least 0.
        TypeError: if the criterion is not a module.

    Source:
        DDRNet: Hong et al., arXiv 2101.06085, trains with the weight 0.4.
    """

    def __init__(self, criterion: nn.Module, aux_weight: float = 0.4) -> None:
        super().__init__()
        if not 0 <= aux_weight < math.inf:
            raise ValueError(f"aux_weight must be a finite number of at least 0, got {aux_weight!r}")
        _check_module(criterion)
        self.criterion = criterion
        self.aux_weight = aux_weight

    def forward(self, output: Tensor | SegmentationOutput, target: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            output: logits (N, C, H, W), or those and the auxiliary head's.
            target: (N, H, W), integer labels.
        """
        if not isinstance(output, SegmentationOutput):
            loss: Tensor = self.criterion(output, target)
            return loss
        total: Tensor = self.criterion(output.logits, target) + self.aux_weight * self.criterion(output.aux, target)
        return total

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"aux_weight={self.aux_weight}"


def _check_module(loss: nn.Module) -> None:
    if not isinstance(loss, nn.Module):
        raise TypeError(f"expected a loss module as OhemCrossEntropyLoss(), got {loss!r}; wrap a function in one")


def _checked(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The target as int64; raises for logits and targets that do not fit."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"expected logits as a tensor, got {type(logits).__name__}; "
            "wrap the loss in AuxiliaryLoss where the network has an auxiliary head"
        )
    if not isinstance(target, Tensor):
        raise TypeError(f"expected the target as a tensor, got {type(target).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"expected floating-point logits, got {logits.dtype}")
    if logits.ndim != 4:
        raise ValueError(f"expected logits (N, C, H, W), got shape {tuple(logits.shape)}")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"expected a target {expected} for logits {tuple(logits.shape)}, got shape {tuple(target.shape)}"
        )
    if target.numel() == 0:
        raise ValueError(f"expected at least one pixel, got a target of shape {tuple(target.shape)}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"expected integer labels, got {target.dtype}; convert them with target.long()")
    target, classes = target.long(), logits.shape[1]
    if target.device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU would have to wait for it
        outside = (target != ignore_index) & ((target < 0) | (target >= classes))
        if bool(outside.any()):
            values = sorted(set(target[outside].tolist()))[:5]
            raise ValueError(
                f"labels {values} are outside the {classes} classes 0 to {classes - 1}; "
                f"mark pixels that do not count with {ignore_index}"
            )
    return target
