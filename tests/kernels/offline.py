"""Triton's own way from a call to machine code, for a GPU that is not there: all of it but the start."""

import contextlib
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class AbsentGPU:
    """What the runtime asks of a driver before it starts a kernel."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability  # kernels are kept by device

    def get_current_stream(self, device):
        return 0


@dataclass(frozen=True)
class Specialisation:
    """A kernel, compiled for some constants and types."""

    module: str
    name: str
    constants: dict[str, Any]
    asm: dict[str, Any]
    """Machine code (cubin) and what led to it (ptx, ...)."""


@contextlib.contextmanager
def compiled_for(capability):
    """Within the context, kernels are compiled and not started; tensors may be on the meta device."""
    found = {}
    run = JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **kwargs):
        compiled = run(kernel, *args, grid=grid, warmup=True, **kwargs)
        module = kernel.fn.__module__.rpartition(".")[2]
        constants = {name: value for name, value in kwargs.items() if name.isupper()}
        found[compiled.hash] = Specialisation(module, kernel.fn.__name__, constants, compiled.asm)

    result = []
    driver.set_active(AbsentGPU(capability))
    JITFunction.run = compile_only
    try:
        yield result
    finally:
        JITFunction.run = run
        driver._active = None
        result.extend(found.values())
