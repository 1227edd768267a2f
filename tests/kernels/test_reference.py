import pytest
import torch

from ddrsapc.kernels import dual_gate, ohem_cross_entropy, upsample_add_act, upsample_argmax
from ddrsapc.losses import OhemCrossEntropyLoss
from tests.kernels import oracle

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SIZES = [
    ((8, 12), [(4, 6)]),
    ((8, 4), [(4, 2), (2, 1), (8, 4)]),
    ((9, 7), [(5, 4), (3, 2)]),
    ((6, 9), [(2, 3), (1, 1)]),
]


def maps(size, sizes, channels=3, dtype=torch.float64):
    return [torch.randn(2, channels, *s, dtype=dtype) for s in (size, *sizes)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("size", "sizes"), SIZES)
def test_upsample_add_act(size, sizes, relu, layout):
    x, *terms = (t.float().to(memory_format=layout) for t in maps(size, sizes))
    out = upsample_add_act(x, terms, relu=relu)
    torch.testing.assert_close(out.double(), oracle.upsample_add_act(x, terms, relu=relu), rtol=1e-5, atol=1e-5)
    assert out.is_contiguous(memory_format=layout)
    assert (out.min() == 0) if relu else (out.min() < 0)


@pytest.mark.parametrize("relu", [True, False])
def test_upsample_add_act_gradient(relu):
    x, *terms = (t.requires_grad_() for t in maps((4, 6), [(2, 3), (1, 2), (4, 6)], channels=2))
    assert torch.autograd.gradcheck(lambda x, *terms: upsample_add_act(x, terms, relu=relu), (x, *terms))


def test_upsample_add_act_leaves_its_input_alone():
    x = torch.randn(1, 2, 4, 4)
    before = x.clone()
    assert torch.equal(upsample_add_act(x, [], relu=True), before.relu())
    upsample_add_act(x, [torch.randn(1, 2, 2, 2)], relu=True)
    assert torch.equal(x, before)
    x[0, 0, 0, 0] = torch.nan
    assert upsample_add_act(x, [x], relu=True).isnan().sum() == 1


@pytest.mark.parametrize(("size", "other"), [((8, 12), (4, 6)), ((4, 6), (8, 12)), ((9, 7), (5, 4)), ((2, 3), (8, 12))])
def test_dual_gate(size, other):
    x, own, other = torch.randn(2, 3, *size), torch.randn(2, 1, *size), torch.randn(2, 1, *other)
    torch.testing.assert_close(dual_gate(x, own, other).double(), oracle.dual_gate(x, own, other), rtol=1e-5, atol=1e-5)


def test_dual_gate_gradient():
    x, own, other = (
        torch.randn(1, c, h, h, dtype=torch.float64, requires_grad=True) for c, h in ((3, 4), (1, 4), (1, 2))
    )
    assert torch.autograd.gradcheck(dual_gate, (x, own, other))


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (13, 17)])
def test_upsample_argmax(size):
    logits = torch.randn(2, 5, 4, 6)
    labels = upsample_argmax(logits, size)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), oracle.resize(logits, size).argmax(1))


def test_upsample_argmax_of_equal_logits_and_nan():
    assert not upsample_argmax(torch.zeros(1, 3, 2, 2), (4, 4)).any()
    logits = torch.tensor([1.0, torch.nan, 3.0, torch.nan])[None, :, None, None]
    assert upsample_argmax(logits, (1, 1)).item() == 1
    logits = torch.zeros(1, 256, 1, 1)
    logits[0, 255] = 1
    assert upsample_argmax(logits, (1, 1)).item() == 255
    with pytest.raises(ValueError, match="labels are bytes, the logits have 257 classes"):
        upsample_argmax(torch.zeros(1, 257, 1, 1), (1, 1))


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 2.0])])
def test_ohem_upsamples_logits_of_lower_resolution(weight):
    logits, target = torch.randn(2, 3, 4, 6, dtype=torch.float64), torch.randint(0, 3, (2, 16, 24))
    target[0, :3] = 255
    loss = ohem_cross_entropy(logits, target, weight=weight)
    full = oracle.resize(logits, (16, 24))
    torch.testing.assert_close(loss, OhemCrossEntropyLoss(weight=weight)(full, target))
    logits.requires_grad_()
    small = target[:1, ::4, ::6].contiguous()
    assert torch.autograd.gradcheck(lambda x: ohem_cross_entropy(x[:1, :, :2, :2], small, threshold=1.0), logits)


def test_sums_map_over_any_term():
    x, first, terms = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4), torch.randn(5, 2, 3, 4, 4)
    mapped = torch.func.vmap(lambda term: upsample_add_act(x, [first, term], relu=True))(terms)
    torch.testing.assert_close(mapped, torch.stack([upsample_add_act(x, [first, t], relu=True) for t in terms]))


def test_sums_leave_their_terms_alone():
    x, same, half = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
    before = [m.clone() for m in (x, same, half)]
    for terms in ([], [x], [same, half], [half, same, x]):
        upsample_add_act(x, terms, relu=True)
    assert all(map(torch.equal, (x, same, half), before))
