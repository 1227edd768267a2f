"""Weights in a network that differs from their own in classes or channels, or does not fit at all."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub.saving import weights_bytes
from tests.hub.checkouts import entry_of, manifest_of
from tests.training.small import small_network


def test_other_classes_get_a_new_head_and_the_log_says_so(path, caplog):
    with caplog.at_level(logging.WARNING):
        model = ddrsapc.create_model("unet", weights=path, num_classes=2)
    assert "head initialised anew for 2 classes instead of 4: train before use" in caplog.text
    assert str(path) in caplog.text
    own = small_network().state_dict()
    for key, tensor in model.state_dict().items():
        if key.startswith("head."):
            assert tensor.shape[0] == 2
        else:
            assert torch.equal(tensor, own[key])
    assert model.head.weight.std() > 0.1  # initialised, not left as it was in memory
    assert torch.equal(model.head.bias, torch.zeros(2))


def test_the_new_head_follows_the_seed(path):
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(ddrsapc.create_model("unet", weights=path, num_classes=2).head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_auxiliary_head_is_renewed_too(tmp_path, caplog):
    path = tmp_path / "aux.safetensors"
    path.write_bytes(weights_bytes(small_network(aux_head=True)))
    assert ddrsapc.create_model("unet", weights=path).aux_head is not None  # the file's own argument
    model = ddrsapc.create_model("unet", weights=path, num_classes=2)
    assert "head, aux_head.classifier initialised anew" in caplog.text
    assert model.aux_head.classifier.weight.shape[0] == 2
    with pytest.raises(hub.WeightsMismatchError, match=r"\d+ unexpected \[aux_head"):
        ddrsapc.create_model("unet", weights=path, aux_head=False)


@pytest.mark.parametrize("own", [1, 2, 3, 4])
@pytest.mark.parametrize("asked", [1, 2, 3, 4, 6])
def test_other_input_channels(tmp_path, caplog, own, asked):
    """A grey image in all channels gives what it gave, if N < M or M divides N; M / N scales what is repeated."""
    network = small_network(in_chans=own).double().eval()
    path = tmp_path / "channels.safetensors"
    path.write_bytes(weights_bytes(network))
    model = ddrsapc.create_model("unet", weights=path, in_chans=asked).double().eval()
    assert model.in_chans == asked
    assert (f"encoders.0.0.0 adapted to {asked} input channels instead of {own}" in caplog.text) == (own != asked)
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    if asked <= own or asked % own == 0:
        expected = network(x.expand(-1, own, -1, -1))
        assert torch.allclose(model(x.expand(-1, asked, -1, -1)), expected, atol=1e-4)
    elif own < asked:
        weight = network.encoders[0][0][0].weight
        repeated = weight[:, [i % own for i in range(asked)]] * own / asked
        assert torch.allclose(model.encoders[0][0][0].weight, repeated, atol=1e-6)


def test_adapted_only_where_asked(tmp_path, small_weights, checkout):
    """A file whose classes are not those that it is said to have is an error, not adapted in silence."""
    entry = entry_of(small_weights, num_classes=3, classes=["a", "b", "c"])
    (checkout / "weights_manifest.json").write_bytes(manifest_of(unet__small=entry))
    (checkout / "weights" / "unet.small.safetensors").write_bytes(small_weights)
    for asked in ({}, {"num_classes": 3}, {"num_classes": 4}):
        with pytest.raises(hub.WeightsMismatchError, match="said to have num_classes=3, but has 4"):
            ddrsapc.create_model("unet.small", **asked)


def test_strict_otherwise(tmp_path, path):
    tensors = load_file(path)
    changes = {
        r"1 missing \[encoders.1.0.0.weight\]": {k: v for k, v in tensors.items() if k != "encoders.1.0.0.weight"},
        r"1 unexpected \[extra\]": {**tensors, "extra": torch.ones(2)},
        r"1 of another shape \[encoders.1.0.0.weight \(1,\) instead of": {
            **tensors,
            "encoders.1.0.0.weight": torch.ones(1),
        },
        r"1 of another type \[encoders.1.0.1.num_batches_tracked torch.float32 instead of torch.int64\]": {
            **tensors,
            "encoders.1.0.1.num_batches_tracked": torch.tensor(0.0),
        },
        r"missing \[head.weight\]": {k: v for k, v in tensors.items() if k != "head.weight"},
    }
    for message, changed in changes.items():
        other = tmp_path / "other.safetensors"
        save_file(changed, other)
        with pytest.raises(hub.WeightsMismatchError, match=message) as caught:
            ddrsapc.create_model("unet", weights=other, width=4)
        assert "other.safetensors" in str(caught.value)
        model = small_network()
        model.head.bias.data += 1
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(hub.WeightsMismatchError, match=message):
            hub.load_weights(model, other)
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_weights_of_another_network_name_their_own(path):
    with pytest.raises(hub.WeightsMismatchError, match=r"does not fit unetpp: .*It is of unet \{.*'width': 4"):
        ddrsapc.create_model("unetpp", weights=path)
    with pytest.raises(hub.WeightsMismatchError, match="of another shape"):
        ddrsapc.create_model("unet", weights=path, width=8)


def test_keywords_are_checked_for_every_source(tmp_path, path):
    hub.save_pretrained(small_network(), tmp_path / "saved")
    for name, more in ((f"local-dir:{tmp_path / 'saved'}", {}), ("unet", {"weights": path})):
        with pytest.raises(TypeError, match="unet takes no keyword 'skips'"):
            ddrsapc.create_model(name, skips=False, **more)
        with pytest.raises(ValueError, match="num_classes must be a positive integer"):
            ddrsapc.create_model(name, num_classes=0, **more)


def test_load_weights_renews_a_trained_head_of_other_classes(path):
    model = ddrsapc.create_model("unet", width=4, num_classes=2)
    model.head.bias.data += 5
    parameter = model.head.bias
    hub.load_weights(model, path)
    assert model.head.bias is parameter  # optimizers know it
    assert torch.equal(model.head.bias, torch.zeros(2))


def test_half_precision_weights_load_into_float32(tmp_path):
    network = small_network()
    hub.save_pretrained(small_network().half(), tmp_path / "half")
    model = ddrsapc.create_model(f"local-dir:{tmp_path / 'half'}")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == network.state_dict()[key].dtype
        assert torch.allclose(tensor, network.state_dict()[key], atol=1e-3)
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.75 * len(weights_bytes(network))


def test_what_a_narrower_dtype_cannot_hold_is_refused(tmp_path):
    """Finite in the file, infinite in the network: refused before the network is changed."""
    tensors = {key: t.double() if t.is_floating_point() else t for key, t in small_network().state_dict().items()}
    tensors["head.bias"][0] = 1e300
    save_file(tensors, tmp_path / "double.safetensors")
    with pytest.raises(hub.WeightsMismatchError, match=r"head.bias holds 1e\+300, which torch.float32 cannot"):
        ddrsapc.create_model("unet", weights=tmp_path / "double.safetensors", width=4)
    single = small_network()
    single.head.bias.data[1] = -1e6
    (tmp_path / "single.safetensors").write_bytes(weights_bytes(single))
    half = small_network().half()
    with pytest.raises(hub.WeightsMismatchError, match=r"holds 1e\+06, which torch.float16 cannot"):
        hub.load_weights(half, tmp_path / "single.safetensors")
    assert torch.equal(half.head.bias, small_network().half().head.bias)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("head.weight", (2, 9, 1, 1)), ("head.weight", (2, 4, 3, 3)), ("head.bias", (3,)), ("head.weight", (2, 4))],
)
def test_a_head_that_is_replaced_must_fit_all_the_same(path, tmp_path, key, shape):
    tensors = load_file(path) | {"head.weight": torch.ones(2, 4, 1, 1), "head.bias": torch.ones(2)}
    save_file(tensors | {key: torch.ones(shape)}, tmp_path / "other.safetensors")
    with pytest.raises(hub.WeightsMismatchError, match=f"of another shape .*{key}"):
        ddrsapc.create_model("unet", weights=tmp_path / "other.safetensors", width=4, num_classes=4)


def test_names_from_a_file_are_shown_in_one_line_of_bounded_length(path, tmp_path):
    save_file(load_file(path) | {"evil\n\x1b[31m" + "A" * 100_000: torch.ones(1)}, tmp_path / "evil.safetensors")
    with pytest.raises(hub.WeightsMismatchError, match="1 unexpected") as caught:
        ddrsapc.create_model("unet", weights=tmp_path / "evil.safetensors", width=4)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
