import math

import pytest
import torch

from ddrsapc.kernels import reference
from ddrsapc.kernels.triton import ohem_cross_entropy as kernel
from tests.kernels.tolerances import LAYOUTS, assert_backward, assert_forward

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.7, 1.5, 0.1])
DEFAULTS = {"threshold": 0.7, "min_kept": 0.05, "ignore_index": 255}
# of (N, C, h, w) logits and the target's factors
SIZES = [((2, 4, 6, 9), (1, 1)), ((1, 6, 5, 3), (2, 2)), ((2, 3, 2, 4), (4, 3)), ((1, 2, 3, 2), (8, 1))]
# kept: by the threshold; by the fraction; all, by either; one pixel at least; none is below 0
SETTINGS = [(0.7, 0.05), (0.02, 0.3), (1.0, 0.0), (0.5, 1.0), (0.0, 0.0), (0.0, 0.5)]


def problem(shape, factors, *, ignored=0.2, scale=2.0):
    logits = scale * torch.randn(shape)
    target = torch.randint(0, shape[1], (shape[0], shape[2] * factors[0], shape[3] * factors[1]))
    target[torch.rand(target.shape) < ignored] = 255
    return logits, target


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_dtypes_layouts_and_sizes(size, dtype, memory_format, launch):
    logits, target = problem(*size)
    check(logits.to(dtype).to(memory_format=memory_format), target, None, launch)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(setting, weighted, launch):
    logits, target = problem((1, 4, 7, 8), (1, 1))
    threshold, min_kept = setting
    check(logits, target, WEIGHT[:4] if weighted else None, launch, threshold=threshold, min_kept=min_kept)


def check(logits, target, weight, launch, **settings):
    settings = DEFAULTS | settings
    exact = logits.double().requires_grad_()
    expected = reference.ohem_cross_entropy(exact, target, weight=weight, **settings)
    factors = [target.shape[1 + i] // logits.shape[2 + i] for i in (0, 1)]
    loss, losses, choice = launch(kernel.forward, logits, target, weight, factors, **settings)
    assert loss.dtype == torch.float32
    assert_forward(loss, expected.detach())
    (wanted,) = torch.autograd.grad(3 * expected, exact)
    grad = launch(kernel.backward, torch.tensor(3.0), logits, target, weight, losses, choice, factors)
    assert (grad.dtype, grad.stride()) == (logits.dtype, logits.stride())
    assert_backward(grad, wanted)
    return loss


def test_several_tiles_whose_losses_share_their_first_bits(launch):
    """3,060 losses between 0.9 and 0.901: all passes of the selection matter."""
    probability = torch.linspace(0.4061, 0.4065, 3060, dtype=torch.float64)[torch.randperm(3060)].reshape(2, 30, 51)
    logits = torch.stack((probability.log(), (1 - probability).log()), 1).float()
    target = torch.zeros(2, 30, 51, dtype=torch.long)
    for min_kept in (0.31, 0.7):
        check(logits, target, None, launch, threshold=0.1, min_kept=min_kept)


def equal_losses(*probabilities):
    """(1, 2, 1, W) logits of these probabilities of the true class, 0."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((p.log(), (1 - p).log()))[None, :, None].float(), torch.zeros(1, 1, len(p), dtype=torch.long)


def test_equal_losses_share_the_gradient(launch):
    """None is below the cut: the reference keeps k of them, whichever come first."""
    logits, target = equal_losses(0.9, 0.9, 0.9, 0.9)
    loss, losses, choice = launch(kernel.forward, logits, target, None, (1, 1), **DEFAULTS | {"min_kept": 0.5})
    assert loss.item() == pytest.approx(-math.log(0.9), rel=1e-5)
    grad = launch(kernel.backward, torch.ones(()), logits, target, None, losses, choice, (1, 1))
    torch.testing.assert_close(grad, torch.tensor([-0.1, 0.1])[None, :, None, None].expand_as(grad) / 4)


def test_the_fallback_takes_the_largest_weighted_losses(launch):
    logits, target = equal_losses(0.9, 0.9, 0.9, 0.9, 0.9)
    logits[..., 2:] = logits[..., 2:].flip(1)
    target[..., 2:] = 1
    weight = torch.tensor([1.0, 3.0])
    # k: 2 of the three that weigh 3, and 4: these and one of the two others
    for min_kept, factor, shares in ((0.4, 3, (0, 1.0)), (0.8, (3 * 3 + 1) / 4, (0.5 / 4, 3 / 4))):
        settings = DEFAULTS | {"min_kept": min_kept}
        loss, losses, choice = launch(kernel.forward, logits, target, weight, (1, 1), **settings)
        expected = reference.ohem_cross_entropy(logits, target, weight=weight, **settings)
        torch.testing.assert_close(loss, expected)
        assert loss.item() == pytest.approx(-factor * math.log(0.9), rel=1e-4)
        grad = launch(kernel.backward, torch.ones(()), logits, target, weight, losses, choice, (1, 1))
        of_true_class = -0.1 * torch.tensor([shares[0]] * 2 + [shares[1]] * 3)
        torch.testing.assert_close(grad.gather(1, target[:, None]).flatten(), of_true_class)


@pytest.mark.parametrize("weight", [None, WEIGHT[:4]])
def test_all_ignored_is_zero_with_zero_gradient(weight, launch):
    logits, target = problem((1, 4, 3, 3), (1, 1), ignored=1.1)
    assert check(logits, target, weight, launch).item() == 0


def test_nan_and_wrong_labels_show(launch):
    logits, target = problem((1, 4, 6, 6), (1, 1), ignored=0)
    logits[0, 1, 2, 3] = torch.nan
    loss, losses, choice = launch(kernel.forward, logits, target, None, (1, 1), **DEFAULTS)
    assert loss.isnan()
    assert losses.isnan().sum() == 1
    grad = launch(kernel.backward, torch.ones(()), logits, target, None, losses, choice, (1, 1))
    assert torch.equal(grad.isnan().nonzero()[:, 2:].unique(dim=0), torch.tensor([[2, 3]]))
    logits, target = problem((1, 4, 6, 6), (1, 1), ignored=0)
    target[0, 0, 0] = 4
    assert launch(kernel.forward, logits, target, WEIGHT[:4], (1, 1), **DEFAULTS)[0].isnan()


def test_certain_and_impossible_pixels(launch):
    """Losses of 0 and of infinity."""
    logits = torch.tensor([[50.0, -50], [50, -50], [50, -50], [1, 1]]).mT[None, :, None].contiguous()
    target = torch.tensor([[[0, 0, 0, 1]]])
    check(logits, target, None, launch, threshold=0.1, min_kept=0.5)
    logits[0, 0, 0, 0] = -torch.inf
    assert launch(kernel.forward, logits, target, None, (1, 1), **DEFAULTS)[0].isinf()


def test_the_fraction_is_not_rounded(launch):
    """int(0.7 * 10) is 7, with 0.7 in float32 it is 6."""
    logits, target = problem((1, 2, 1, 10), (1, 1), ignored=0)
    check(logits, target, None, launch, threshold=0.0, min_kept=0.7)
