"""Memory whose surroundings are known, for the interpreter does not notice accesses outside a tensor."""

import contextlib

import torch

MARGIN = 4096
"""Elements before and after a tensor."""


class Guard:
    """Tensors between margins of NaN (integers: of the lowest value), which `check` finds as they were."""

    def __init__(self):
        self.held = []

    def empty_like(self, x, *, dtype=None, device=None, memory_format=torch.preserve_format):
        """As torch's, but full of NaN."""
        strides = EMPTY_LIKE(x, memory_format=memory_format).stride()
        return self._between_margins(x.shape, strides, dtype or x.dtype, x.device)

    def empty(self, *shape, dtype=torch.float32, device=None, memory_format=torch.contiguous_format):
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        strides = EMPTY(shape, memory_format=memory_format).stride()
        return self._between_margins(shape, strides, dtype, device)

    def zeros(self, *shape, dtype=torch.float32, device=None):
        return self.empty(*shape, dtype=dtype, device=device).zero_()

    def put(self, x):
        """A copy of x between margins."""
        return None if x is None else self.empty_like(x).copy_(x)

    @contextlib.contextmanager
    def allocating(self):
        """What is allocated in here lies between margins, and holds NaN until it is written."""
        with contextlib.ExitStack() as stack:
            for name in ("empty", "empty_like", "zeros"):
                stack.callback(setattr, torch, name, getattr(torch, name))
                setattr(torch, name, getattr(self, name))
            yield

    def check(self):
        for buffer in self.held:
            for margin in (buffer[:MARGIN], buffer[-MARGIN:]):
                poison = margin.isnan() if margin.is_floating_point() else margin == torch.iinfo(margin.dtype).min
                assert poison.all(), "written outside a tensor"

    def _between_margins(self, shape, strides, dtype, device):
        poison = torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min
        elements = torch.Size(shape).numel()
        buffer = FULL((elements + 2 * MARGIN,), poison, dtype=dtype, device=device)
        self.held.append(buffer)
        return buffer[MARGIN : MARGIN + elements].as_strided(shape, strides, MARGIN)


EMPTY, EMPTY_LIKE, FULL = torch.empty, torch.empty_like, torch.full
