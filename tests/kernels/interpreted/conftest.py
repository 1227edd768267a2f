"""Run by tests/kernels/test_interpreter.py in a process of its own: importing Triton chooses its interpreter."""

import os

import pytest
import torch
import triton

from tests.kernels.guarded import Guard

assert os.environ.get("TRITON_INTERPRET") == "1"


class Launcher:
    """Calls a kernel's launcher on memory that is guarded and poisoned, and looks for damage."""

    def __init__(self, guard):
        self.guard = guard

    def __call__(self, function, *args, **options):
        put = [self._put(arg) for arg in args]
        before = [self._clone(arg) for arg in put]
        with self.guard.allocating():
            result = function(*put, **options)
        self.guard.check()
        for after, was in zip(put, before, strict=True):
            assert self._same(after, was), "an input was written to"
        return result

    def _put(self, arg):
        if isinstance(arg, (list, tuple)):
            return [self._put(a) for a in arg]
        return self.guard.put(arg) if isinstance(arg, torch.Tensor) else arg

    def _clone(self, arg):
        if isinstance(arg, list):
            return [self._clone(a) for a in arg]
        return arg.clone() if isinstance(arg, torch.Tensor) else arg

    def _same(self, a, b):
        if isinstance(a, list):
            return all(self._same(x, y) for x, y in zip(a, b, strict=True))
        return torch.equal(a.nan_to_num(), b.nan_to_num()) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def launch(monkeypatch):
    torch.manual_seed(0)
    assert type(triton.jit(lambda: None)).__name__ == "InterpretedFunction"
    return Launcher(Guard())
