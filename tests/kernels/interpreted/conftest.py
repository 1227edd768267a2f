"""Run by tests/kernels/test_interpreter.py in a process of its own: importing Triton chooses its interpreter."""

import contextlib
import os

import numpy as np
import pytest
import torch
import triton
from triton.runtime.interpreter import InterpreterBuilder

assert os.environ.get("TRITON_INTERPRET") == "1"


class Memory:
    """The tensors that a kernel may access, for the interpreter does not notice accesses outside."""

    def __init__(self):
        self.extents = []

    def add(self, x):
        storage = x.untyped_storage()
        self.extents.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        return x

    def check(self, pointers, mask):
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        size = np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        inside = np.zeros(addresses.shape, bool)
        for begin, end in self.extents:
            inside |= (addresses >= begin) & (addresses + size <= end)
        assert inside.all(), "access outside of all tensors"

    @contextlib.contextmanager
    def allocating(self):
        """What is allocated in here belongs to it, and holds NaN (255, or the least integer) until it is written."""
        with contextlib.ExitStack() as stack:
            for name in ("empty", "empty_like", "zeros"):
                function = getattr(torch, name)
                stack.callback(setattr, torch, name, function)
                setattr(torch, name, lambda *args, function=function, **kwargs: self.poisoned(function, args, kwargs))
            yield

    def poisoned(self, function, args, kwargs):
        x = self.add(function(*args, **kwargs))
        if function.__name__ == "zeros":
            return x
        return x.fill_(torch.nan if x.is_floating_point() else 255 if x.dtype == torch.uint8 else -(2**31))


@pytest.fixture
def launch(monkeypatch):
    """Calls a kernel's launcher; fails if a kernel accesses other memory than its tensors, or writes to its inputs."""
    assert type(triton.jit(lambda: None)).__name__ == "InterpretedFunction"
    memory = Memory()
    for name, mask_at in (("create_masked_load", 1), ("create_masked_store", 2), ("create_atomic_rmw", 3)):
        monkeypatch.setattr(InterpreterBuilder, name, checked(getattr(InterpreterBuilder, name), memory, mask_at))

    def call(function, *args, **options):
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        before = [memory.add(x).clone() for x in tensors]
        with memory.allocating():
            result = function(*args, **options)
        for x, was in zip(tensors, before, strict=True):
            torch.testing.assert_close(x, was, rtol=0, atol=0, equal_nan=True)
        return result

    return call


def checked(method, memory, mask_at):
    """The interpreter's access to memory, after a look at where."""
    first = 1 if method.__name__ == "create_atomic_rmw" else 0

    def access(builder, *args):
        memory.check(args[first], args[mask_at])
        return method(builder, *args)

    return access
