import pytest
import torch

from ddrsapc.kernels import layout, reference
from ddrsapc.kernels.triton import dual_gate as kernel
from tests.kernels.tolerances import DTYPES, LAYOUTS, assert_backward, assert_forward

# (channels, (H, W), (h, w)): both directions, odd and uneven factors, several tiles, more channels than one has
UP, DOWN = (5, (12, 14), (6, 7)), (5, (6, 7), (12, 14))
CASES = [
    (130, (4, 4), (1, 1)),
    (3, (9, 6), (3, 2)),
    (3, (3, 2), (9, 6)),
    (2, (2, 3), (16, 3)),
    (2, (16, 3), (2, 3)),
    (1, (12, 14), (3, 7)),
    (9, (3, 5), (6, 20)),
]


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [UP, DOWN])
def test_dtypes_and_layouts(case, dtype, memory_format, launch):
    check(case, dtype, memory_format, launch)


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_sizes(case, memory_format, launch):
    check(case, torch.float32, memory_format, launch)


def check(case, dtype, memory_format, launch):
    channels, size, other_size = case
    x = torch.randn(2, channels, *size).to(dtype).to(memory_format=memory_format)
    own, other = (torch.randn(2, 1, *s).mul(2).to(dtype) for s in (size, other_size))
    ratio = layout.ratio(size, other_size)
    exact = [t.double().requires_grad_() for t in (x, own, other)]
    expected = reference.dual_gate(*exact)
    out = launch(kernel.forward, x, own, other, ratio)
    assert out.is_contiguous(memory_format=memory_format)
    assert_forward(out, expected.detach())

    grad = torch.randn(x.shape).to(dtype).to(memory_format=memory_format)
    grads = launch(kernel.backward, grad, x, own, other, ratio)
    assert grads[0].is_contiguous(memory_format=memory_format)
    for actual, wanted in zip(grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert_backward(actual, wanted)


def test_other_strides_are_copied():
    x, own, other = torch.randn(1, 3, 9, 9)[..., :8, :6], torch.randn(1, 1, 8, 6), torch.randn(1, 1, 4, 3)
    out = kernel.forward(x, own, other, layout.Ratio(2, 2, False))
    assert_forward(out, reference.dual_gate(x.double(), own.double(), other.double()))
    grad_x, _, _ = kernel.backward(torch.ones(()).expand(x.shape), x, own, other, layout.Ratio(2, 2, False))
    assert_forward(grad_x, reference.dual_gate(torch.ones_like(x).double(), own.double(), other.double()))


def test_large_attention_logits_are_neither_nan_nor_lost(launch):
    x, own = torch.randn(1, 2, 4, 4), torch.full((1, 1, 4, 4), 80.0)
    out = launch(kernel.forward, x, own, -torch.full((1, 1, 2, 2), 80.0), layout.Ratio(2, 2, False))
    torch.testing.assert_close(out, 2 * x)
