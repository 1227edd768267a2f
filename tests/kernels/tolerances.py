"""How close a kernel comes to its reference in float64."""

import torch

LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def assert_forward(actual, reference):
    assert_within(actual, reference, 1e-5)


def assert_backward(actual, reference):
    assert_within(actual, reference, 1e-4)


def assert_within(actual, reference, float32):
    """bfloat16: one unit in the last place of the reference."""
    assert actual.shape == reference.shape
    assert actual.isfinite().all()
    error = (actual.double() - reference.to(actual.dtype).double()).abs()
    rtol, atol = {
        torch.float64: (1e-10, 1e-12),
        torch.float32: (float32, float32),
        torch.float16: (4e-3, 4e-3),
        torch.bfloat16: (2.0**-7, 1e-5),
    }[actual.dtype]
    worst = (error - rtol * reference.abs()).max().item()
    assert worst <= atol, f"{worst} > {atol}"
