import pytest
import torch

from ddrsapc.kernels import layout, reference
from ddrsapc.kernels.triton import upsample_add_act as kernel
from tests.kernels.tolerances import DTYPES, LAYOUTS, assert_backward, assert_forward

# (channels, (H, W), factors): several tiles, odd sizes, uneven factors, more channels than a tile has, one-pixel maps
CASES = [
    (3, (14, 22), [(2, 2)]),
    (5, (8, 12), [(2, 2), (4, 4), (1, 1)]),
    (130, (4, 6), [(2, 2)]),
    (4, (9, 15), [(3, 3)]),
    (2, (8, 3), [(8, 1)]),
    (1, (6, 4), [(6, 4), (2, 2)]),
]


def problem(case, dtype, memory_format, batch=2):
    channels, (height, width), factors = case
    sizes = [(height, width), *((height // y, width // x) for y, x in factors)]
    maps = [torch.randn(batch, channels, *size).to(dtype).to(memory_format=memory_format) for size in sizes]
    assert [layout.factors(sizes[0], size) for size in sizes[1:]] == factors
    return maps[0], maps[1:], factors


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "relu"), [(CASES[0], False), (CASES[1], True)])
def test_dtypes_and_layouts(case, relu, dtype, memory_format, launch):
    check(case, relu, dtype, memory_format, launch)


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("case", CASES[2:])
def test_sizes(case, memory_format, launch):
    check(case, True, torch.float32, memory_format, launch)


def check(case, relu, dtype, memory_format, launch):
    x, terms, factors = problem(case, dtype, memory_format)
    exact = [t.double().requires_grad_() for t in (x, *terms)]
    expected = reference.upsample_add_act(exact[0], exact[1:], relu=relu)
    out = launch(kernel.forward, x, terms, factors, relu=relu)
    assert out.is_contiguous(memory_format=memory_format)
    assert_forward(out, expected.detach())

    grad = torch.randn(x.shape).to(dtype).to(memory_format=memory_format)
    upsampled = [i for i, pair in enumerate(factors) if pair != (1, 1)]
    grads = launch(kernel.backward, grad, out if relu else None, [factors[i] for i in upsampled])
    expected_x, *expected_terms = torch.autograd.grad(expected, exact, grad.double())
    if relu:
        assert_backward(grads.pop(0), expected_x)
    assert len(grads) == len(upsampled)
    for actual, i in zip(grads, upsampled, strict=True):
        assert actual.is_contiguous(memory_format=memory_format)
        assert_backward(actual, expected_terms[i])


def test_other_strides_are_copied():
    """A cropped map, one of the other layout, and a gradient that is one number at every pixel."""
    x, terms, factors = problem((3, (6, 8), [(2, 2), (1, 1)]), torch.float32, torch.channels_last, batch=1)
    cropped = torch.randn(1, 3, 9, 9).to(memory_format=torch.channels_last)[..., :6, :8]
    out = kernel.forward(cropped, [t.contiguous() for t in terms], factors, relu=False)
    assert_forward(out, reference.upsample_add_act(cropped.double(), [t.double() for t in terms], relu=False))
    one = torch.ones(()).expand(x.shape)
    (grad,) = kernel.backward(one, None, factors[:1])
    torch.testing.assert_close(grad.sum(), one.sum())


def test_nan_shows_and_spreads_no_further_than_in_aten(launch):
    x, terms, factors = problem((2, (6, 6), [(2, 2)]), torch.float32, torch.contiguous_format)
    x[0, 0, 0, 0], terms[0][1, 1, 1, 1] = torch.nan, torch.nan
    out = launch(kernel.forward, x, terms, factors, relu=True)
    assert torch.equal(out.isnan(), reference.upsample_add_act(x, terms, relu=True).isnan())
    grad_x, grad_term = launch(kernel.backward, torch.ones_like(x), out, factors)
    assert torch.equal(grad_x, (out.isnan() | (out > 0)).float())  # as ReLU's gradient is in ATen
    assert grad_term.isfinite().all()
