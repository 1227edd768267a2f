"""Losses for training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["OhemCrossEntropyLoss"]


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
        self._check(logits, target)
        target = target.long()
        self._check_labels(target, logits.shape[1])
        valid = target != self.ignore_index  # (N, H, W)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        loss = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")  # (N, H, W)
        kept = self._kept(torch.exp(-loss.detach()), valid)  # (N, H, W)
        if self.weight is not None:
            loss = loss * self.weight[target.where(valid, 0)]
        fallback, fallback_count = self._largest(loss, valid)
        count = kept.sum()
        total = torch.where(count > 0, loss.where(kept, 0).sum(), fallback)
        return total / torch.where(count > 0, count, fallback_count).clamp(min=1)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"threshold={self.threshold}, min_kept={self.min_kept}, ignore_index={self.ignore_index}"

    def _kept(self, probability: Tensor, valid: Tensor) -> Tensor:
        """Mask of the valid pixels strictly below the cut."""
        probability = probability.where(valid, torch.inf)
        smallest = probability.flatten().topk(self._bound(valid), largest=False).values
        smallest = F.pad(smallest, (0, 1), value=torch.inf)  # no (k + 1)-th pixel: all are kept
        # index_select, for indexing by a scalar tensor would read it back
        cut = smallest.index_select(0, self._k(valid)[None]).clamp(min=self.threshold)
        return ~(probability >= cut)  # NaN is kept, for the loss to show it

    def _largest(self, loss: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the k largest losses of valid pixels, and k (0 where none is valid)."""
        k = torch.minimum(self._k(valid), valid.sum())
        largest = loss.where(valid, 0).flatten().topk(self._bound(valid)).values
        rank = torch.arange(len(largest), device=loss.device)
        return largest.where(rank < k, 0).sum(), k

    def _k(self, valid: Tensor) -> Tensor:
        # float64 as in Python's int(min_kept * n); MPS has none
        dtype = torch.float32 if valid.device.type == "mps" else torch.float64
        return (valid.sum().to(dtype) * self.min_kept).long().clamp(min=1)

    def _bound(self, valid: Tensor) -> int:
        """An upper bound of k + 1 (the value if every pixel is valid), known without looking at the labels."""
        return min(max(1, int(self.min_kept * valid.numel())) + 1, valid.numel())

    def _check(self, logits: Tensor, target: Tensor) -> None:
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"expected logits as a tensor, got {type(logits).__name__}; "
                "add the losses of output.logits and output.aux where the network has an auxiliary head"
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
        classes = logits.shape[1]
        if self.weight is not None and len(self.weight) != classes:
            raise ValueError(f"weight has {len(self.weight)} entries, but the logits {classes} classes")
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"expected integer labels, got {target.dtype}; convert them with target.long()")

    def _check_labels(self, target: Tensor, classes: int) -> None:
        if target.device.type == "cpu" and not torch.compiler.is_compiling():
            outside = (target != self.ignore_index) & ((target < 0) | (target >= classes))
            if bool(outside.any()):
                values = sorted(set(target[outside].tolist()))[:5]
                raise ValueError(
                    f"labels {values} are outside the {classes} classes 0 to {classes - 1}; "
                    f"mark pixels that do not count with {self.ignore_index}"
                )
