"""What `create_model` and `load_weights` do with weights on this machine."""

import json
import logging
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.models import InputConfig
from tests.hub.checkouts import entry_of, manifest_of
from tests.training.small import small_network

CONFIG = InputConfig((-200.0, 800.0), 0.4, 0.3, (512, 512), (0.5, 0.5))  # as in the manifest's entry


def equal(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def path(tmp_path, small_weights):
    path = tmp_path / "best.safetensors"
    path.write_bytes(small_weights)
    return path


@pytest.fixture
def listed(checkout, small_weights):
    """The checkout with one entry, and its file in weights/."""
    (checkout / "weights_manifest.json").write_bytes(manifest_of(unet__small=entry_of(small_weights)))
    (checkout / "weights" / "unet.small.safetensors").write_bytes(small_weights)
    return checkout


# sources


def test_the_manifests_weights_in_a_checkout(listed):
    for model in (
        ddrsapc.create_model("unet", pretrained=True),
        ddrsapc.create_model("unet", True),
        ddrsapc.create_model("unet.small"),
        ddrsapc.create_model("unet.small", pretrained=True),
    ):
        assert equal(model, small_network())
        assert model.training
        assert (model.architecture, model.input_config) == ("unet", CONFIG)
    assert ddrsapc.list_models(pretrained=True) == ["unet.small"]
    assert not equal(ddrsapc.create_model("unet"), small_network())
    with pytest.raises(ValueError, match=r"unet has no weights tagged 'smal': did you mean 'small'\?"):
        ddrsapc.create_model("unet.smal")
    with pytest.raises(hub.WeightsNotFoundError, match=r"no pretrained weights for unetpp; list_models\(pretrained"):
        ddrsapc.create_model("unetpp", pretrained=True)


def test_the_default_of_several(listed, small_weights):
    other = small_network(num_classes=2)
    data = weights_bytes(other)
    entry = entry_of(data, default=False, filename="two.safetensors", num_classes=2, classes=["none", "calcium"])
    (listed / "weights" / "two.safetensors").write_bytes(data)
    manifest = manifest_of(unet__two=entry, unet__small=entry_of(small_weights))
    (listed / "weights_manifest.json").write_bytes(manifest)
    assert ddrsapc.create_model("unet", pretrained=True).num_classes == 4
    two = ddrsapc.create_model("unet.two")  # None means the weights' own
    assert two.num_classes == 2
    assert equal(two, other)


def test_lookup_order(listed, small_weights, tmp_path, monkeypatch):
    """A path, then $DDRSAPC_WEIGHTS_DIR, then weights/; what is there but damaged is an error, never passed over."""
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    monkeypatch.setenv("DDRSAPC_WEIGHTS_DIR", str(chosen))
    assert equal(ddrsapc.create_model("unet.small"), small_network())  # the folder does not have it: the next one
    (chosen / "unet.small.safetensors").write_bytes(small_weights[:-1])
    with pytest.raises(hub.WeightsIntegrityError, match="chosen/unet.small.safetensors"):
        ddrsapc.create_model("unet.small")
    given = tmp_path / "given.safetensors"
    given.write_bytes(small_weights)
    assert equal(ddrsapc.create_model("unet.small", weights=given), small_network())
    given.write_bytes(small_weights[:-1] + b"?")
    with pytest.raises(hub.WeightsIntegrityError, match="given.safetensors"):
        ddrsapc.create_model("unet.small", weights=given)
    (chosen / "unet.small.safetensors").write_bytes(small_weights)
    (listed / "weights" / "unet.small.safetensors").write_bytes(b"not looked at")
    assert equal(ddrsapc.create_model("unet.small"), small_network())
    (chosen / "unet.small.safetensors").unlink()
    (chosen / "unet.small.safetensors").symlink_to("nowhere")
    with pytest.raises(hub.WeightsNotFoundError, match="chosen/unet.small.safetensors"):
        ddrsapc.create_model("unet.small")
    monkeypatch.setenv("DDRSAPC_WEIGHTS_DIR", str(tmp_path / "absent"))
    with pytest.raises(hub.WeightsNotFoundError, match="DDRSAPC_WEIGHTS_DIR is .*no folder; correct or unset it"):
        ddrsapc.create_model("unet.small")


def test_what_is_not_published_names_the_ways_that_work(listed, small_weights, tmp_path, monkeypatch):
    (listed / "weights" / "unet.small.safetensors").unlink()
    with pytest.raises(hub.WeightsNotPublishedError) as caught:
        ddrsapc.create_model("unet", pretrained=True)
    for way in ("unet.small", "not published", "source checkout", "$DDRSAPC_WEIGHTS_DIR", "weights=PATH"):
        assert way in str(caught.value)
    monkeypatch.setenv("DDRSAPC_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "unet.small.safetensors").write_bytes(small_weights)
    assert equal(ddrsapc.create_model("unet", pretrained=True), small_network())


def test_a_file_that_says_what_it_is(path):
    for weights in (path, str(path)):
        model = ddrsapc.create_model("unet", weights=weights)
        assert model.width == 4  # the file's own
        assert equal(model, small_network())


def test_a_file_that_says_nothing(tmp_path, small_weights):
    """Written by another program: classes and channels are read off the tensors."""
    network = small_network(num_classes=7, in_chans=2)
    path = tmp_path / "bare.safetensors"
    save_file(network.state_dict(), path)
    model = ddrsapc.create_model("unet", weights=path, width=4)
    assert (model.num_classes, model.in_chans) == (7, 2)
    assert equal(model, network)
    with pytest.raises(hub.WeightsMismatchError, match="of another shape.*a network it does not name"):
        ddrsapc.create_model("unet", weights=path)


def test_a_folder(tmp_path):
    network = small_network(in_chans=2)
    network.input_config = CONFIG
    hub.save_pretrained(network, tmp_path / "saved")
    model = ddrsapc.create_model(f"local-dir:{tmp_path / 'saved'}")
    assert equal(model, network)
    assert model.input_config == CONFIG
    assert ddrsapc.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).in_chans == 2
    (tmp_path / "saved" / "config.json").unlink()
    with pytest.raises(
        hub.WeightsNotFoundError, match="saved has no config.json; expected a folder written by save_pre"
    ):
        ddrsapc.create_model(f"local-dir:{tmp_path / 'saved'}")
    with pytest.raises(hub.WeightsNotFoundError, match="absent has no config.json"):
        ddrsapc.create_model(f"local-dir:{tmp_path / 'absent'}")


def test_a_training_runs_folder_is_told_from_a_saved_network(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"epochs": 3}, "network": "unet"}))
    (tmp_path / "model.safetensors").write_bytes(weights_bytes(small_network()))
    with pytest.raises(hub.UnsafeWeightsError, match="config.json: expected the name of an architecture"):
        ddrsapc.create_model(f"local-dir:{tmp_path}")


def test_sources_exclude_each_other(path):
    for name in ("hf-hub:org/name", "local-dir:somewhere"):
        with pytest.raises(ValueError, match="two sources of weights"):
            ddrsapc.create_model(name, weights=path)
    for option in ({"sha256": "0" * 64}, {"revision": "main"}):
        with pytest.raises(ValueError, match="'unet' loads no weights to have a"):
            ddrsapc.create_model("unet", **option)


def test_a_given_hash(path, small_weights, listed):
    sha256 = hub.verify_weights(path).sha256
    assert equal(ddrsapc.create_model("unet", weights=path, sha256=sha256), small_network())
    assert equal(ddrsapc.create_model("unet.small", sha256=sha256), small_network())
    with pytest.raises(hub.WeightsIntegrityError, match=f"expected sha256 {'0' * 64}, found {sha256}"):
        ddrsapc.create_model("unet", weights=path, sha256="0" * 64)
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        ddrsapc.create_model("unet", weights=path, sha256=sha256[:10])


# fit


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


# load_weights


def test_load_weights_keeps_device_dtype_and_mode(path, listed, tmp_path):
    hub.save_pretrained(small_network(), tmp_path / "saved")
    for source in (path, str(path), "unet.small", "unet", f"local-dir:{tmp_path / 'saved'}"):
        model = ddrsapc.create_model("unet", width=4).half().eval()
        hub.load_weights(model, source)
        assert not model.training
        assert model.head.weight.dtype == torch.float16
        assert torch.equal(model.head.weight, small_network().half().head.weight)


def test_load_weights_renews_a_trained_head_of_other_classes(path):
    model = ddrsapc.create_model("unet", width=4, num_classes=2)
    model.head.bias.data += 5
    parameter = model.head.bias
    hub.load_weights(model, path)
    assert model.head.bias is parameter  # optimizers know it
    assert torch.equal(model.head.bias, torch.zeros(2))


def test_load_weights_takes_networks_only(path):
    with pytest.raises(TypeError, match="expected a network of ddrsapc, got Linear; unwrap it first"):
        hub.load_weights(torch.nn.Linear(1, 1), path)


def test_half_precision_weights_load_into_float32(tmp_path):
    network = small_network()
    hub.save_pretrained(small_network().half(), tmp_path / "half")
    model = ddrsapc.create_model(f"local-dir:{tmp_path / 'half'}")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == network.state_dict()[key].dtype
        assert torch.allclose(tensor, network.state_dict()[key], atol=1e-3)
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.75 * len(weights_bytes(network))


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"architecture": "unet"}, hub.UnsafeWeightsError, "does not say well"),
        ({"architecture": '"unet"'}, hub.UnsafeWeightsError, "does not say well"),
        ({"architecture": '"os.system"', "model_args": "{}", "input": "{}"}, hub.WeightsMismatchError, "not one of"),
        ({"architecture": '"unet"', "model_args": "[" * 9999, "input": "{}"}, hub.UnsafeWeightsError, "does not say"),
        (
            {"architecture": '"unet"', "model_args": '{"width": 1000000000}', "input": "{}"},
            hub.UnsafeWeightsError,
            "expected an integer up to 1024 as width",
        ),
    ],
)
def test_hostile_notes_in_a_header(tmp_path, small_weights, path, metadata, error, message):
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(error, match=re.escape(message)):
        ddrsapc.create_model("unet", weights=path)
