"""What `create_model` and `load_weights` do with weights on this machine."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.models import InputConfig
from tests.hub.checkouts import entry_of, equal, manifest_of
from tests.training.small import small_network

CONFIG = InputConfig((-200.0, 800.0), 0.4, 0.3, (512, 512), (0.5, 0.5))  # as in the manifest's entry


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


# load_weights


def test_load_weights_keeps_device_dtype_and_mode(path, listed, tmp_path):
    hub.save_pretrained(small_network(), tmp_path / "saved")
    for source in (path, str(path), "unet.small", "unet", f"local-dir:{tmp_path / 'saved'}"):
        model = ddrsapc.create_model("unet", width=4).half().eval()
        hub.load_weights(model, source)
        assert not model.training
        assert model.head.weight.dtype == torch.float16
        assert torch.equal(model.head.weight, small_network().half().head.weight)


def test_load_weights_takes_networks_only(path):
    with pytest.raises(TypeError, match="expected a network of ddrsapc, got Linear; unwrap it first"):
        hub.load_weights(torch.nn.Linear(1, 1), path)


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


def test_networks_that_hold_no_values(path):
    with torch.device("meta"):
        empty = small_network()
        with pytest.raises(ValueError, match="on the meta device, which holds no values"):
            ddrsapc.create_model("unet", weights=path)
    with pytest.raises(ValueError, match=r"move it with to_empty\(device=...\)"):
        hub.load_weights(empty, path)


def test_endless_configurations_are_not_read(tmp_path):
    hub.save_pretrained(small_network(), tmp_path)
    os.truncate(tmp_path / "config.json", 2**40)
    with pytest.raises(
        hub.UnsafeWeightsError, match="config.json: 1099511627776 bytes are refused, 1048576 are allowed"
    ):
        ddrsapc.create_model(f"local-dir:{tmp_path}")


def test_an_unknown_user_is_not_found():
    with pytest.raises(hub.WeightsNotFoundError, match="there is no such file"):
        ddrsapc.create_model("unet", weights="~nobody-of-this-name/best.safetensors")
