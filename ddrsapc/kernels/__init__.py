"""Operations that networks and losses spend bandwidth on: plain ATen everywhere, fused kernels on CUDA.

Each function is defined by its namesake in `ddrsapc.kernels.reference`, which CPU tensors, exports and everything that
no kernel covers run. CUDA tensors take Triton kernels where Triton is installed, as it is with PyTorch's CUDA
builds; the environment variable `DDRSAPC_KERNELS` chooses: `auto`, `torch` (never) or `triton` (it must be there).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ddrsapc.kernels import ops, reference
from ddrsapc.kernels.dispatch import KernelInfo, kernel_info, takes_kernel

__all__ = ["KernelInfo", "dual_gate", "kernel_info", "ohem_cross_entropy", "upsample_add_act", "upsample_argmax"]


def upsample_add_act(x: Tensor, terms: Sequence[Tensor], *, relu: bool = False) -> Tensor:
    """Add maps of other resolutions to x, each resized bilinearly (`align_corners=False`) to its size.

    Args:
        x: (N, C, H, W), floating point.
        terms: maps (N, C, h, w), usually of lower resolution; one of x's size is added as it is.
        relu: end in ReLU.

    Returns:
        (N, C, H, W).
    """
    if takes_kernel(x, *terms) and ops.upsample_add_act_fits(x, terms):
        return ops.upsample_add_act(x, list(terms), relu)
    return reference.upsample_add_act(x, terms, relu=relu)


def dual_gate(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Scale x by the gate A + (1 - other A): its own attention, and what another resolution's lacks.

    The attention maps A are sigmoids; the other one's is resized bilinearly (`align_corners=False`) to x's size.

    Args:
        x: (N, C, H, W), floating point.
        own: (N, 1, H, W), x's attention before the sigmoid.
        other: (N, 1, h, w), the other side's, of any resolution.

    Returns:
        (N, C, H, W).

    Source:
        The Dual Attention Module of the DDR-SAPC-U paper.
    """
    if takes_kernel(x, own, other) and ops.dual_gate_fits(x, own, other):
        return ops.dual_gate(x, own, other)
    return reference.dual_gate(x, own, other)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 0.05,
    ignore_index: int = 255,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the difficult pixels; `ddrsapc.losses.OhemCrossEntropyLoss` defines them and checks its input.

    Args:
        logits: (N, C, H, W), or of lower resolution: they are then resized bilinearly (`align_corners=False`).
        target: (N, H, W), int64 labels in [0, C) or `ignore_index`.
        threshold: probability of the true class below which a pixel is always kept, in [0, 1].
        min_kept: fraction of the valid pixels that is kept at least, in [0, 1].
        ignore_index: label of pixels that do not count.
        weight: (C,), one factor of at least 0 per class on its pixels' losses, or None.

    Returns:
        The loss, a scalar: float64 for float64 logits, else float32.
    """
    if takes_kernel(logits, target) and ops.ohem_cross_entropy_fits(logits, target, weight):
        loss, _, _ = ops.ohem_cross_entropy(logits, target, weight, threshold, min_kept, ignore_index)
        return loss
    return reference.ohem_cross_entropy(
        logits, target, threshold=threshold, min_kept=min_kept, ignore_index=ignore_index, weight=weight
    )


def upsample_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The class of the largest logit of every pixel, the logits resized bilinearly (`align_corners=False`) to `size`.

    Args:
        logits: (N, C, h, w), floating point, C up to 256. The first of equal logits counts, and NaN as the largest.
        size: (H, W).

    Returns:
        (N, H, W), uint8.

    Raises:
        ValueError: if there are more than 256 classes.
    """
    if logits.shape[1] > 256:
        raise ValueError(f"labels are bytes, the logits have {logits.shape[1]} classes")
    if takes_kernel(logits) and ops.upsample_argmax_fits(logits, size):
        return ops.upsample_argmax(logits, list(size))
    return reference.upsample_argmax(logits, size)
