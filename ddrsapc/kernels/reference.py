"""The operations in plain ATen: the specification of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dual_gate", "ohem_cross_entropy", "upsample_add_act", "upsample_argmax"]


def upsample_add_act(x: Tensor, terms: Sequence[Tensor], *, relu: bool) -> Tensor:
    """See `ddrsapc.kernels.upsample_add_act`."""
    # in place once the sum is not x itself: a CPU takes longer to allocate a map than to add one
    eager = not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is None
    out = x
    for term in terms:
        resized = _resize(term, x.shape[-2:])  # (N, C, H, W)
        in_place = eager and out is not x and (resized.shape, resized.dtype) == (out.shape, out.dtype)
        out = out.add_(resized) if in_place else out + resized
    return F.relu(out, inplace=eager and out is not x) if relu else out


def dual_gate(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """See `ddrsapc.kernels.dual_gate`."""
    gate = own.sigmoid() + (1 - _resize(other.sigmoid(), x.shape[-2:]))  # (N, 1, H, W)
    return gate * x


def upsample_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """See `ddrsapc.kernels.upsample_argmax`."""
    return _resize(logits, size).max(1).indices.to(torch.uint8)  # several times faster than argmax on a CPU


def ohem_cross_entropy(
    logits: Tensor, target: Tensor, *, threshold: float, min_kept: float, ignore_index: int, weight: Tensor | None
) -> Tensor:
    """See `ddrsapc.kernels.ohem_cross_entropy`; no value is read back by the host."""
    valid = target != ignore_index  # (N, H, W)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    logits = _resize(logits, target.shape[-2:])  # (N, C, H, W)
    loss = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")  # (N, H, W)
    valid_count = valid.sum()
    k = _k(valid_count, min_kept)
    largest = _largest(loss, valid, min_kept)  # sorted
    # padded: without a (k + 1)-th pixel all are kept; index_select, for indexing by a scalar tensor would read it back
    cut = F.pad(largest.detach(), (0, 1), value=-torch.inf).index_select(0, k[None])
    cut = cut.clamp(max=-math.log(threshold) if threshold > 0 else torch.inf)  # a low probability is a high loss
    kept = valid & ~(loss.detach() <= cut)  # NaN is kept, for the loss to show it
    if weight is not None:
        loss = loss * weight.to(loss.dtype)[target.where(valid, 0)]
        largest = _largest(loss, valid, min_kept)
    fallback_count = torch.minimum(k, valid_count)  # 0 where no pixel is valid
    fallback = largest.where(torch.arange(len(largest), device=loss.device) < fallback_count, 0).sum()
    count = kept.sum()
    total = torch.where(count > 0, loss.where(kept, 0).sum(), fallback)
    return total / torch.where(count > 0, count, fallback_count).clamp(min=1)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _largest(loss: Tensor, valid: Tensor, min_kept: float) -> Tensor:
    """The losses of valid pixels, the largest first: at least k + 1 where there are as many."""
    bound = max(1, int(min_kept * valid.numel())) + 1  # k + 1 if every pixel is valid, known without the labels
    return loss.where(valid, -torch.inf).flatten().topk(min(bound, valid.numel())).values


def _k(valid_count: Tensor, min_kept: float) -> Tensor:
    # float64 as in Python's int(min_kept * n); MPS has none
    dtype = torch.float32 if valid_count.device.type == "mps" else torch.float64
    return (valid_count.to(dtype) * min_kept).long().clamp(min=1)
