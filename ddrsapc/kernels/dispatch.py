"""Which implementation a tensor's kernels take."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ddrsapc.kernels.layout import MAX_ELEMENTS

__all__ = ["KernelInfo", "kernel_info", "takes_kernel"]

VARIABLE = "DDRSAPC_KERNELS"
CHOICES = ("auto", "torch", "triton")
DEVICE = "cuda"
OLDEST_TRITON = (3, 4)
"""The kernels are compiled by 3.4 to 3.7; 3.3 refuses them."""


@dataclass(frozen=True)
class KernelInfo:
    """What runs where."""

    requested: str
    """The value of `DDRSAPC_KERNELS`: auto, torch or triton."""
    triton: str | None
    """The installed Triton's version; None without one."""
    cuda: str
    """What CUDA tensors take: triton (the fused kernels) or torch (plain ATen)."""
    cpu: str = "torch"
    """What CPU tensors take."""


def kernel_info() -> KernelInfo:
    """What the kernels run on here, whether there is a GPU or not.

    Raises:
        ValueError: if `DDRSAPC_KERNELS` is none of auto, torch and triton.
        RuntimeError: if it is triton and Triton is not installed or too old, or the GPU is.
    """
    requested = os.environ.get(VARIABLE) or "auto"
    if requested not in CHOICES:
        raise ValueError(f"{VARIABLE} must be auto, torch or triton, got {requested!r}")
    if requested == "torch":
        return KernelInfo(requested, _triton_version(), "torch")
    problem = _problem()
    if requested == "triton" and problem is not None:
        raise RuntimeError(f"{VARIABLE}=triton, but {problem}; set it to auto or torch")
    return KernelInfo(requested, _triton_version(), "triton" if problem is None else "torch")


def takes_kernel(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors may be a fused kernel: on CUDA, unless it is being exported."""
    device = tensors[0].device
    if device.type != DEVICE or any(t.device != device or not 0 < t.numel() <= MAX_ELEMENTS for t in tensors):
        return False
    return not _exporting() and _cuda_takes_triton()


def _cuda_takes_triton() -> bool:
    return kernel_info().cuda == "triton" and not _transforming()


# torch.compiler.assume_constant_result sets this too, but imports the compiler, and with it Triton
_cuda_takes_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _transforming() -> bool:
    """Within forward-mode differentiation or a `torch.func` transform, of which the operators know nothing."""
    transform = torch._C._functorch.maybe_current_level()
    return forward_ad._current_level >= 0 or transform is not None


def _exporting() -> bool:
    """Exported programs hold ATen nodes only, so that they run without this package."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # newer than the oldest supported torch
    traces = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traces or (is_exporting is not None and is_exporting())


@cache  # asking takes longer than a kernel
def _problem() -> str | None:
    """Why the kernels cannot run here; None if they can, as far as can be known without a GPU."""
    installed = _triton_version()
    if installed is None:
        return "Triton is not installed"
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        return f"Triton {installed} is older than {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]}"
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        return "Triton finds no C compiler (gcc, clang or $CC)"
    if torch.version.hip is not None:
        return "the kernels were not tried on AMD GPUs"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return "this GPU is older than compute capability 8.0"
    return None


@cache
def _triton_version() -> str | None:
    if find_spec("triton") is None:
        return None
    try:
        return version("triton")
    except PackageNotFoundError:  # distributed under another name
        return "unknown"
