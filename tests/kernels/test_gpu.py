"""The kernels on a GPU, where there is one: equal to the definition in float64, the same twice, recordable."""

import pytest
import torch
import torch.nn.functional as F

from ddrsapc import kernels
from ddrsapc.kernels import reference
from tests.kernels.tolerances import LAYOUTS, assert_backward, assert_forward

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or kernels.kernel_info().cuda != "triton", reason="no GPU with Triton"
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def maps(dtype, layout, *shapes):
    return [torch.randn(2, *shape, device="cuda").to(dtype).to(memory_format=layout) for shape in shapes]


def cases(dtype, layout):
    """(name, floating-point inputs, function of these and of the module whose functions it calls)."""
    x, half, quarter = maps(dtype, layout, (40, 96, 120), (40, 48, 60), (40, 24, 30))
    x += 20 * x.sign()  # no sum so near to 0 that rounding turns ReLU on or off
    own, other = maps(dtype, layout, (1, 96, 120), (1, 48, 60))
    yield "add", [x, half, quarter], lambda of, x, *terms: of.upsample_add_act(x, terms, relu=True)
    yield "gate", [x, own, other], lambda of, *args: of.dual_gate(*args)
    yield "gate down", [half, other, own], lambda of, *args: of.dual_gate(*args)
    for factor in (1, 8):
        (logits,) = maps(dtype, layout, (4, 512 // factor, 512 // factor))
        target = torch.randint(0, 4, (2, 512, 512), device="cuda")
        target[:, :20] = 255
        settings = {"threshold": clear_threshold(logits, target), "min_kept": 0.05, "ignore_index": 255}
        for weight in (None, torch.tensor([0.2, 1, 2, 3], device="cuda")):
            yield (
                f"ohem {factor}",
                [logits],
                lambda of, z, target=target, weight=weight, settings=settings: of.ohem_cross_entropy(
                    z, target, weight=weight, **settings
                ),
            )


def clear_threshold(logits, target):
    """One near 0.7 that no pixel's probability is so near to that rounding keeps or drops it."""
    full = F.interpolate(logits.double(), size=target.shape[1:], mode="bilinear", align_corners=False)
    probability = full.softmax(1).gather(1, target.where(target != 255, 0)[:, None]).flatten()
    near = probability[(probability > 0.65) & (probability < 0.75)].sort().values
    gap = near.diff().argmax()
    return near[gap : gap + 2].mean().item()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_and_gradients(dtype, layout):
    for name, inputs, function in cases(dtype, layout):
        leaves = [t.detach().requires_grad_() for t in inputs]
        out = function(kernels, *leaves)
        exact = [t.double().requires_grad_() for t in inputs]
        expected = function(reference, *exact)
        # a loss's gradients are of a millionth, and in half precision subnormal
        grad = torch.randn_like(out) if out.ndim else torch.full_like(out, 2.0 * 512 * 512)
        grads = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        assert_forward(out.detach(), expected.detach())
        for actual, wanted in zip(grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
            assert_backward(actual, wanted)
        again = torch.autograd.grad(out, leaves, grad)
        assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True)), name
        assert torch.equal(function(kernels, *leaves), out), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels(layout):
    for factor in (1, 8):
        (logits,) = maps(torch.float32, layout, (4, 64, 48))
        size = [64 * factor, 48 * factor]
        different = kernels.upsample_argmax(logits, size) != reference.upsample_argmax(logits.double(), size)
        assert different.float().mean() < 1e-5


def test_a_step_can_be_recorded_as_a_cuda_graph():
    """Nothing waits for the host."""
    (logits,) = maps(torch.float32, torch.channels_last, (4, 64, 64))
    logits.requires_grad_()
    target = torch.randint(0, 4, (2, 64, 64), device="cuda")

    def step():
        return torch.autograd.grad(kernels.ohem_cross_entropy(logits, target), logits)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grad = step()
    graph.replay()
    assert torch.equal(grad, expected)
