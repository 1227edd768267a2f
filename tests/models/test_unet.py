import pytest
import torch

import ddrsapc


@pytest.mark.parametrize("name", ["unet", "unetpp"])
def test_levels_double_their_channels_from_32_to_512(name):
    with torch.device("meta"):
        model = ddrsapc.create_model(name)
    assert [(info.channels, info.reduction) for info in model.feature_info] == [
        (32, 1), (64, 2), (128, 4), (256, 8), (512, 16)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["unet", "unetpp"])
def test_every_level_reaches_the_logits(name):
    model = ddrsapc.create_model(name, width=4).eval()
    features = model.forward_features(torch.randn(1, 1, 64, 64))
    before = model.forward_head(features)
    for level in range(5):
        silenced = tuple(torch.zeros_like(f) if i == level else f for i, f in enumerate(features))
        assert not torch.equal(model.forward_head(silenced), before), level


def test_unetpp_has_the_papers_ten_nested_nodes():
    model = ddrsapc.create_model("unetpp", width=4)
    assert sorted(model.nodes) == ["x0_1", "x0_2", "x0_3", "x0_4", "x1_1", "x1_2", "x1_3", "x2_1", "x2_2", "x3_1"]
    assert model.nodes["x0_3"][0][0].in_channels == 3 * 4 + 8
