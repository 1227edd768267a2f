import pytest
import torch

import ddrsapc
from ddrsapc.layers import BasicBlock, BilateralFusion, DualAttentionModule, ParallelBasicBlock
from ddrsapc.profile import count_parameters


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("name", ["ddr_sapc", "ddr_sapc_u"])
def test_ablations_swap_exactly_what_they_name(name):
    decoder_blocks = 2 if name == "ddr_sapc_u" else 0
    with torch.device("meta"):
        full, no_pbb, no_dam = (ddrsapc.create_model(name, **kw) for kw in ({}, {"pbb": False}, {"dam": False}))
    assert (count(full, ParallelBasicBlock), count(full, BasicBlock)) == (12, decoder_blocks)
    assert (count(full, DualAttentionModule), count(full, BilateralFusion)) == (2, 0)
    assert (count(no_pbb, ParallelBasicBlock), count(no_pbb, BasicBlock)) == (0, 12 + decoder_blocks)
    assert count(no_pbb, DualAttentionModule) == 2
    assert (count(no_dam, DualAttentionModule), count(no_dam, BilateralFusion)) == (0, 2)
    assert count(no_dam, ParallelBasicBlock) == 12


@pytest.mark.parametrize("size", [64, 100, 128, 192])
def test_without_pbb_and_dam_ddr_sapc_is_ddrnet_23_slim(size):
    plain = ddrsapc.create_model("ddr_sapc", pbb=False, dam=False).eval()
    ddrnet = ddrsapc.create_model("ddrnet_23_slim").eval()
    ddrnet.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, size, size)
    assert torch.equal(plain(x), ddrnet(x))


@pytest.mark.parametrize("kwargs", [{"pbb": False}, {"dam": False}, {"skips": False}, {"width": 6, "aux_head": True}])
def test_ablations_train(kwargs):
    model = ddrsapc.create_model("ddr_sapc_u", **{"width": 8, **kwargs})
    output = model(torch.randn(2, 1, 33, 70))
    logits = output.logits if "aux_head" in kwargs else output
    assert logits.shape == (2, 4, 33, 70)
    (sum(output).sum() if "aux_head" in kwargs else logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_skips_reach_the_decoder_only_with_skips():
    for skips in (True, False):
        model = ddrsapc.create_model("ddr_sapc_u", width=8, skips=skips).eval()
        features = list(model.forward_features(torch.randn(1, 1, 64, 64)))
        before = model.forward_head(tuple(features))
        features[0] = torch.zeros_like(features[0])
        features[1] = torch.zeros_like(features[1])
        assert torch.equal(model.forward_head(tuple(features)), before) is not skips


def test_small_is_half_the_width():
    with torch.device("meta"):
        small = ddrsapc.create_model("ddr_sapc_u_s")
        half = ddrsapc.create_model("ddr_sapc_u", width=16)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in half.state_dict().items()}
    assert small.encoder.stem1[0].out_channels == 16
    assert small.decoder.block1[0].conv2.out_channels == 32
    assert small.head.in_channels == 24
    assert small.encoder.spp.scales[0][-1].out_channels == small.encoder.spp.compression[-1].out_channels == 64


def test_auxiliary_head_is_off_in_the_counts():
    with torch.device("meta"):
        without = ddrsapc.create_model("ddr_sapc_u")
        with_aux = ddrsapc.create_model("ddr_sapc_u", aux_head=True)
    aux = count_parameters(with_aux) - count_parameters(without)
    assert aux == count_parameters(with_aux.aux_head) > 0
    assert with_aux.aux_head.bn1.num_features == 64


def test_resolutions_of_the_specification():
    """Stem 1 and 1/2, branches 1/4, 1/8 and 1/16, layer5 1/32."""
    model = ddrsapc.create_model("ddr_sapc_u", width=8).eval()
    sizes = {}
    for name in ("stem1", "stem2", "layer2", "layer3", "layer4", "layer4_", "layer5", "layer5_", "spp"):
        model.encoder.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: sizes.update({name: 256 // out.shape[-1]})
        )
    model(torch.randn(1, 1, 256, 256))
    high, low = {"layer2": 4, "layer4_": 4, "layer5_": 4}, {"layer3": 8, "layer4": 16, "layer5": 32, "spp": 32}
    assert sizes == {"stem1": 1, "stem2": 2, **high, **low}


def shortened():
    """ddr_sapc_u with all kinds of layers, and no more blocks in a row than change a map's shape."""
    model = ddrsapc.create_model("ddr_sapc_u", width=4).eval()
    kinds = {type(module) for module in model.modules()}
    encoder = model.encoder
    for stage in (encoder.layer1, encoder.layer3_, encoder.layer4_):
        del stage[:]
    for stage in (encoder.layer2, encoder.layer3, encoder.layer4):
        del stage[1:]
    assert {type(module) for module in model.modules()} == kinds
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # Inductor's own use
def test_compiles_with_inductor():
    """A kernel takes a second to compile, and blocks that come again have the same ones at other sizes."""
    torch.compiler.reset()
    model = shortened()
    x = torch.randn(1, 1, 64, 64)
    expected = model(x)
    error = torch.compile(model, fullgraph=True)(x) - expected
    assert error.norm() < 1e-3 * expected.norm()
