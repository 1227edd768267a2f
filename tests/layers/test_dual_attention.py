import pytest
import torch
import torch.nn.functional as F

from ddrsapc.layers import BilateralFusion, DualAttentionModule


def by_the_text(module: DualAttentionModule, x_high: torch.Tensor, x_low: torch.Tensor):
    """The specification's equations (a) and (b), written out."""

    def up(x, y):
        return F.interpolate(x, y.shape[-2:], mode="bilinear", align_corners=False)

    r_high, r_low = x_high.relu(), x_low.relu()
    a_high = module.attention_high(r_high).sigmoid()
    a_low = module.attention_low(r_low).sigmoid()
    g_high = a_high + (1 - up(a_low, x_high))
    g_low = a_low + (1 - up(a_high, x_low))
    return (
        x_high + up(module.low_to_high(g_low * r_low), x_high),
        x_low + module.high_to_low(g_high * r_high),
    )


@pytest.mark.parametrize("ratio", [2, 4])
def test_equals_the_equations(ratio):
    module = DualAttentionModule(6, 10, ratio)
    x_high, x_low = torch.randn(2, 6, 16, 24), torch.randn(2, 10, 16 // ratio, 24 // ratio)
    for actual, expected in zip(module(x_high, x_low), by_the_text(module, x_high, x_low), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("fusion", [DualAttentionModule, BilateralFusion])
@pytest.mark.parametrize("channels", [(1, 1), (3, 1), (5, 7), (8, 2)])
@pytest.mark.parametrize(
    ("ratio", "high", "low"),
    [
        (2, (8, 8), (4, 4)),
        (2, (9, 7), (5, 4)),
        (2, (9, 7), (4, 3)),
        (4, (13, 6), (3, 1)),
        (4, (13, 6), (4, 2)),
        (4, (1, 1), (1, 1)),
    ],
)
def test_any_channels_and_sizes(fusion, channels, ratio, high, low):
    module = fusion(*channels, ratio).eval()
    x_high = torch.randn(2, channels[0], *high, requires_grad=True)
    x_low = torch.randn(2, channels[1], *low, requires_grad=True)
    y_high, y_low = module(x_high, x_low)
    assert y_high.shape == x_high.shape
    assert y_low.shape == x_low.shape
    (y_high.sum() + y_low.sum()).backward()
    assert x_high.grad.isfinite().all()
    assert x_low.grad.isfinite().all()


def test_attention_maps_are_probabilities_of_one_channel():
    module = DualAttentionModule(4, 8, 2)
    a_high, a_low = module.attention(torch.randn(2, 4, 10, 6), torch.randn(2, 8, 5, 3))
    assert a_high.shape == (2, 1, 10, 6)
    assert a_low.shape == (2, 1, 5, 3)
    for attention in (a_high, a_low):
        assert attention.min() > 0
        assert attention.max() < 1


def test_attention_is_what_forward_gates_with():
    """With a one-pixel map, equal attention on both sides gates by 1, so the exchange is the plain one."""
    module = DualAttentionModule(2, 2, 2).eval()
    for head in (module.attention_high[-1], module.attention_low[-1]):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 1.3)
    x_high, x_low = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)
    a_high, _ = module.attention(x_high, x_low)
    torch.testing.assert_close(a_high, torch.full_like(a_high, 1.3).sigmoid())
    _, y_low = module(x_high, x_low)
    torch.testing.assert_close(y_low, x_low + module.high_to_low(x_high.relu()))


def test_activated_maps_lose_nothing():
    module = DualAttentionModule(4, 4, 2).eval()
    x_high, x_low = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
    from_raw, from_activated = module(x_high, x_low), module(x_high.relu(), x_low.relu())
    for raw, activated, x in zip(from_raw, from_activated, (x_high, x_low), strict=True):
        torch.testing.assert_close(raw - x, activated - x.relu(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", [DualAttentionModule, BilateralFusion])
@pytest.mark.parametrize("ratio", [0, 1, 3, 8, 2.5])
def test_other_ratios_are_refused(fusion, ratio):
    with pytest.raises(ValueError, match="ratio must be 2 or 4"):
        fusion(4, 4, ratio)
