import pytest
import torch

from ddrsapc.kernels import reference
from ddrsapc.kernels.triton import upsample_argmax as kernel
from tests.kernels.tolerances import LAYOUTS

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = [(4, (6, 11), (1, 1)), (4, (5, 7), (2, 2)), (3, (2, 3), (8, 4)), (1, (4, 4), (3, 1)), (33, (3, 5), (2, 2))]


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_labels(case, dtype, memory_format, launch):
    classes, size, factors = case
    logits = torch.randn(3, classes, *size).to(dtype).to(memory_format=memory_format)
    full = [size[0] * factors[0], size[1] * factors[1]]
    labels = launch(kernel.forward, logits, factors)
    assert labels.dtype == torch.uint8
    expected = reference.upsample_argmax(logits.float(), full)  # in half precision logits would be rounded to ties
    assert torch.equal(labels, expected)
    assert len(labels.unique()) > classes // 2


def test_several_tiles(launch):
    logits = torch.randn(2, 4, 37, 29)
    assert torch.equal(launch(kernel.forward, logits, (1, 1)), reference.upsample_argmax(logits, logits.shape[2:]))


def test_the_first_of_equal_logits_counts_and_nan_as_the_largest(launch):
    logits = torch.tensor([[1.0, 1, 1], [0, 2, 2], [3, torch.nan, torch.nan], [torch.inf, 5, torch.nan]])
    logits = torch.cat((logits, torch.full((1, 3), -torch.inf))).mT[None, :, :, None]  # (1, 3, 5, 1)
    labels = launch(kernel.forward, logits, (1, 1))
    assert labels.flatten().tolist() == [0, 1, 1, 2, 0]
    assert torch.equal(labels, reference.upsample_argmax(logits, (5, 1)))
