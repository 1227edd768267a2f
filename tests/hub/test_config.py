"""`config.json`, as we and other people's tools read it."""

import json

import pytest
import torch

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub.config import ModelConfig
from ddrsapc.models import InputConfig

# the fields of timm's PretrainedCfg that we write: it takes no others, and `PretrainedCfg(**cfg)` would raise
TIMM = {"tag", "input_size", "mean", "std", "num_classes", "first_conv", "classifier", "license"}


def small(name, **more):
    return ddrsapc.create_model(name, width=4 if name != "transunet" else 8, **more)


def config_json(**changed):
    found = json.loads(ModelConfig.of(small("unet")).to_json(small("unet")))
    return json.dumps(found | changed).encode()


@pytest.mark.parametrize("name", ddrsapc.list_models())
def test_parse_reads_what_of_and_to_json_wrote(name):
    model = small(name, num_classes=3, in_chans=2, aux_head=True)
    model.input_config = InputConfig((-200.0, 800.0), 0.4, 0.3, (256, 320), (0.5, 0.7))
    config = ModelConfig.of(model)
    assert ModelConfig.parse(config.to_json(model), "here") == config
    skeleton = config.skeleton()
    assert {tensor.device.type for tensor in skeleton.state_dict().values()} == {"meta"}
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in skeleton.state_dict().items()} == shapes


def test_all_arguments_are_written_also_defaults_and_changes():
    model = ddrsapc.create_model("ddr_sapc_u_s", dam=False)
    model.reset_classifier(2)
    expected = {"num_classes": 2, "in_chans": 1, "width": 16, "pbb": True, "dam": False, "skips": True}
    assert ModelConfig.of(model).model_args == {**expected, "aux_head": False}


def test_a_network_of_ones_own_has_no_config():
    with pytest.raises(ValueError, match="does not know its name in the registry; build it with create_model"):
        ModelConfig.of(ddrsapc.models.UNet(width=4))


@pytest.mark.parametrize("name", ddrsapc.list_models())
def test_timm_style_tools_read_it(name):
    """As timm's load_model_config_from_hf and PretrainedCfg do: by these names, with these types."""
    model = small(name, in_chans=2)
    found = json.loads(ModelConfig.of(model).to_json(model, tag="v1", license="apache-2.0"))
    assert found["architecture"] == name
    assert found["model_args"]["width"] == model.width
    cfg = found["pretrained_cfg"]
    assert cfg.keys() == TIMM
    assert cfg["input_size"] == [2, 512, 512]
    assert cfg["mean"] == [0.5, 0.5]
    assert cfg["std"] == [0.25, 0.25]
    assert cfg["num_classes"] == found["num_classes"] == 4
    assert isinstance(model.get_submodule(cfg["first_conv"]), torch.nn.Conv2d)
    assert isinstance(model.get_submodule(cfg["classifier"]), torch.nn.Conv2d)
    assert "model_type" not in found
    with_aux = small(name, aux_head=True)
    classifiers = json.loads(ModelConfig.of(with_aux).to_json(with_aux))["pretrained_cfg"]["classifier"]
    assert classifiers == list(with_aux.classifiers)


@pytest.mark.parametrize("name", ddrsapc.list_models())
def test_a_users_own_mixin_subclass_reads_and_writes_it(name, tmp_path):
    """The arguments stand flat, also those that an entry point fixes."""
    from huggingface_hub import PyTorchModelHubMixin  # noqa: PLC0415

    model = small(name, num_classes=3).eval()
    mine = type("Mine", (type(model), PyTorchModelHubMixin), {})
    hub.save_pretrained(model, tmp_path / "ours")
    x = torch.randn(2, 1, 64, 64)
    theirs = mine.from_pretrained(tmp_path / "ours", strict=True)
    assert torch.equal(theirs.eval()(x), model(x))
    theirs.save_pretrained(tmp_path / "theirs")
    again = mine.from_pretrained(tmp_path / "theirs", strict=True)
    assert torch.equal(again.eval()(x), model(x))
    # their folder has our weights but no architecture: ours to load by name
    loaded = ddrsapc.create_model(name, weights=tmp_path / "theirs" / "model.safetensors", width=model.width)
    assert torch.equal(loaded.eval()(x), model(x))


HOSTILE = {
    "no JSON": (b"{", hub.UnsafeWeightsError, "not a config.json"),
    "no text": (b"\xff\xfe", hub.UnsafeWeightsError, "not a config.json"),
    "a list": (b"[]", hub.UnsafeWeightsError, "not a config.json"),
    "deep": (b'{"a":' * 100_000, hub.UnsafeWeightsError, "not a config.json"),
    "empty": (b"{}", hub.UnsafeWeightsError, "expected the name of an architecture"),
    "no name": (config_json(architecture=["unet"]), hub.UnsafeWeightsError, "expected the name of an architecture"),
    "a module": (config_json(architecture="os.system"), hub.WeightsMismatchError, "'os.system' is not one of this"),
    "with a tag": (config_json(architecture="unet.small"), hub.WeightsMismatchError, "is not one of this"),
    "a later version's": (config_json(architecture="unet_3d"), hub.WeightsMismatchError, "did you mean 'unet'"),
    "unknown argument": (config_json(model_args={"url": "x"}), hub.WeightsMismatchError, "takes no argument 'url'"),
    "code as argument": (config_json(model_args={"__class__": "x"}), hub.WeightsMismatchError, "takes no argument"),
    "an object as argument": (config_json(model_args={"width": {}}), hub.UnsafeWeightsError, "expected an integer"),
    "true as width": (config_json(model_args={"width": True}), hub.UnsafeWeightsError, "expected an integer"),
    "1 as flag": (config_json(model_args={"aux_head": 1}), hub.UnsafeWeightsError, "expected true or false"),
    "huge width": (config_json(model_args={"width": 10**9}), hub.UnsafeWeightsError, "up to 1024 as width"),
    "no width": (config_json(model_args={"width": 0}), hub.UnsafeWeightsError, "no network can be built"),
    "negative width": (config_json(model_args={"width": -(10**9)}), hub.UnsafeWeightsError, "up to 1024 as width"),
    "no input": (config_json(input=None), hub.UnsafeWeightsError, "expected the input settings"),
    "strange input": (config_json(input={"hu_window": [1, 0]}), hub.UnsafeWeightsError, "expected the input settings"),
}


@pytest.mark.parametrize(("data", "error", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_config_is_refused(data, error, message):
    with pytest.raises(error, match=message) as caught:
        ModelConfig.parse(data, "org/name/config.json")
    assert "org/name/config.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_networks_size_is_checked_before_memory_is_taken(tmp_path):
    """1024 channels wide is allowed, but the file does not have them: a terabyte is not asked for."""
    model = small("unet")
    hub.save_pretrained(model, tmp_path)
    (tmp_path / "config.json").write_bytes(config_json(model_args={"width": 1024}))
    with pytest.raises(hub.WeightsMismatchError, match="of another shape"):
        ddrsapc.create_model(f"local-dir:{tmp_path}")
