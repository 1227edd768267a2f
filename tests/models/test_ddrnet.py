import json
import math

import pytest
import torch

import ddrsapc
from ddrsapc.profile import count_parameters


def test_all_widths_scale():
    with torch.device("meta"):
        for name, width in (("ddrnet_23_slim", 32), ("ddrnet_23", 64)):
            full, half = (ddrsapc.create_model(name, width=w, num_classes=width // w) for w in (width, width // 2))
            for (key, a), b in zip(full.named_parameters(), half.named_parameters(), strict=True):
                if not key.startswith("head.classifier"):
                    assert a.shape[0] == 2 * b[1].shape[0], key


def test_dappm_and_heads_of_the_two_sizes():
    with torch.device("meta"):
        slim, full = ddrsapc.create_model("ddrnet_23_slim"), ddrsapc.create_model("ddrnet_23")
    for model, head in ((slim, 64), (full, 128)):
        assert model.encoder.spp.scales[0][-1].out_channels == 128
        assert model.head.conv.out_channels == head


@pytest.mark.parametrize("name", ["ddrnet_23_slim", "ddrnet_23"])
def test_nineteen_classes_of_three_channels_is_the_public_size(name, root):
    shapes = json.loads((root / "tests/golden/ddrnet_keys.json").read_text())[f"{name}/reference"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    public = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(buffers))
    with torch.device("meta"):
        model = ddrsapc.create_model(name, num_classes=19, in_chans=3, aux_head=True)
    assert count_parameters(model) == public
