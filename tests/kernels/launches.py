"""What the launchers would start on a GPU: kernels with the types and constants that they are compiled for."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type


@dataclass(frozen=True)
class Launch:
    """One start of a kernel."""

    kernel: Any
    args: dict[str, Any]
    grid: tuple[int, ...]

    @property
    def constants(self) -> dict[str, Any]:
        """What a specialisation is made for, by the names in capitals."""
        return {key: value for key, value in self.args.items() if key.isupper()}

    def compile(self, capability: int) -> Any:
        """As for a GPU of that compute capability, by the compiler that Triton brings."""
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = self.args[parameter.name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):  # Triton makes a constant of 1
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            signature[parameter.name] = parameter.annotation_type or _type(value)
            for path, leaf in _leaves(value, (index,)):
                if isinstance(leaf, torch.Tensor) or (isinstance(leaf, int) and leaf % 16 == 0):
                    attributes[path] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@contextlib.contextmanager
def recorded():
    """Within the context, kernels are noted and not started; tensors may be on the meta device."""
    launches = []

    def run(kernel, *args, grid, warmup, **kwargs):
        names = [parameter.name for parameter in kernel.params]
        launches.append(Launch(kernel, dict(zip(names, args, strict=False)) | kwargs, grid))

    original = triton.runtime.jit.JITFunction.run
    triton.runtime.jit.JITFunction.run = run
    try:
        yield launches
    finally:
        triton.runtime.jit.JITFunction.run = original


def _type(value):
    return tuple(_type(v) for v in value) if isinstance(value, tuple) else mangle_type(value)


def _leaves(value, path):
    if not isinstance(value, tuple):
        return [(path, value)]
    return [leaf for i, v in enumerate(value) for leaf in _leaves(v, (*path, i))]
