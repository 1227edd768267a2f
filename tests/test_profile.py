import copy

import pytest
import torch
from torch import nn

import ddrsapc
from ddrsapc.profile import count_parameters, format_layers, layers, macs, table1_macs

# parameters; Table I's count and the true convolution MACs, both as printed (G)
TABLE = {
    "unet": (7_762_564, "54.62", "48.16"),
    "unetpp": (9_162_852, "137.95", "137.82"),
    "ddr_sapc_u": (13_420_808, "60.15", "53.67"),
    "ddr_sapc_u_s": (3_364_424, "15.09", "13.46"),
    "ddr_sapc": (13_206_120, "6.51", "6.51"),
    "ddrnet_23_slim": (5_694_436, "4.50", "4.49"),
    "ddrnet_23": (20_145_860, "17.80", "17.80"),
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_to_the_last_digit(name):
    with torch.device("meta"):
        model = ddrsapc.create_model(name)
    parameters, table1, true = TABLE[name]
    assert count_parameters(model) == parameters
    assert f"{table1_macs(model) / 1e9:.2f}" == table1
    assert f"{macs(model) / 1e9:.2f}" == true


def test_transunet_is_size_matched_within_one_percent():
    with torch.device("meta"):
        model = ddrsapc.create_model("transunet")
    assert count_parameters(model) == pytest.approx(20.07e6, rel=0.01)
    assert table1_macs(model) == pytest.approx(62.19e9, rel=0.01)
    assert "size-matched" in __import__("sys").modules[type(model).__module__].__doc__.lower()


def test_the_table_covers_every_network():
    assert {*TABLE, "transunet"} == set(ddrsapc.list_models())


def test_counting_rules_by_hand():
    shape = (1, 3, 8, 8)
    conv = nn.Conv2d(3, 5, 3, padding=1)
    assert macs(conv, shape) == 8 * 8 * 5 * 3 * 9
    assert table1_macs(conv, shape) == 8 * 8 * 5 * (3 * 9 + 1)
    up = nn.ConvTranspose2d(3, 5, 2, 2, bias=False)
    assert macs(up, shape) == 8 * 8 * 3 * 5 * 4
    assert table1_macs(up, shape) == 16 * 16 * 5 * 3 * 4
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
    assert macs(grouped, (1, 4, 8, 8)) == table1_macs(grouped, (1, 4, 8, 8)) == 8 * 8 * 8 * 2 * 9
    linear = nn.Linear(3, 5)
    assert macs(linear, (2, 7, 3)) == table1_macs(linear, (2, 7, 3)) == 2 * 7 * 3 * 5


def test_attention_products_count_as_macs_but_not_in_table1():
    with torch.device("meta"):
        model = ddrsapc.create_model("transunet", width=8)
    rows = {row.name: row for row in layers(model, (1, 1, 64, 64))}
    attention = rows["transformer.blocks.0.attention"]
    tokens, channels = 16, 48
    assert attention.macs == 2 * tokens * tokens * channels
    assert attention.table1_macs == 0


@pytest.mark.parametrize("name", ["ddr_sapc_u", "transunet"])
def test_layers_add_up(name):
    with torch.device("meta"):
        model = ddrsapc.create_model(name, width=8)
    rows = layers(model, (1, 1, 128, 64))
    assert sum(row.macs for row in rows) == macs(model, (1, 1, 128, 64))
    # TransUNet's position embedding belongs to a module with macs of its own rows
    assert sum(row.parameters for row in rows) == count_parameters(model)
    assert rows[0].output_shape[-2:] in {(128, 64), (64, 32)}
    text = format_layers(rows)
    assert len(text.splitlines()) == len(rows) + 2
    assert f"{count_parameters(model):,}" in text.splitlines()[-1]


def test_the_model_is_neither_computed_nor_changed():
    model = ddrsapc.create_model("ddr_sapc_u", width=4)
    model.encoder.stem1.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    macs(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert hooks == sum(len(m._forward_hooks) for m in model.modules())


def test_macs_scale_with_the_input():
    model = ddrsapc.create_model("unet", width=4)
    assert macs(model, (1, 1, 128, 128)) * 4 == macs(model, (1, 1, 256, 256))
    assert macs(model, (2, 1, 64, 64)) == 2 * macs(model, (1, 1, 64, 64))


def test_a_layer_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)

        def forward(self, x):
            return self.conv(self.conv(x)), x

    assert macs(Twice(), (1, 2, 8, 8)) == table1_macs(Twice(), (1, 2, 8, 8)) == 2 * 64 * 4 * 9


def test_hooks_of_the_user_do_not_run():
    conv = nn.Conv2d(1, 1, 1)
    conv.register_forward_hook(lambda _, __, out: out.sum().item())
    assert macs(conv, (1, 1, 8, 8)) == 64


def test_other_modules_need_a_shape():
    with pytest.raises(ValueError, match="has no in_chans: give input_shape"):
        macs(nn.Conv2d(1, 1, 1))
