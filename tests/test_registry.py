import pytest
import torch

import ddrsapc
from ddrsapc import registry


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRYPOINTS", dict(registry._ENTRYPOINTS))


def test_registered_function_is_returned_and_found(clean_registry):
    @ddrsapc.register_model
    def my_network(*, num_classes=4, in_chans=1, depth=2):
        return torch.nn.Conv2d(in_chans, num_classes, depth)

    assert ddrsapc.is_model("my_network")
    assert ddrsapc.is_model("my_network.some_tag")
    assert ddrsapc.model_entrypoint("my_network") is my_network
    assert "my_network" in ddrsapc.list_models()
    assert ddrsapc.create_model("my_network", depth=3).kernel_size == (3, 3)


def test_a_duplicate_raises(clean_registry):
    def unet(*, num_classes=4, in_chans=1):
        return torch.nn.Identity()

    with pytest.raises(ValueError, match="'unet' is registered already"):
        ddrsapc.register_model(unet)


def test_loose_signatures_are_refused(clean_registry):
    def with_kwargs(*, num_classes=4, in_chans=1, **kwargs):
        return torch.nn.Identity()

    def positional(num_classes=4, in_chans=1):
        return torch.nn.Identity()

    def without_channels(*, num_classes=4):
        return torch.nn.Identity()

    for function in (with_kwargs, positional):
        with pytest.raises(TypeError, match="keyword-only"):
            ddrsapc.register_model(function)
    with pytest.raises(ValueError, match="function with a name"):
        ddrsapc.register_model(lambda *, num_classes=4, in_chans=1: torch.nn.Conv2d(in_chans, num_classes, 1))
    with pytest.raises(TypeError, match="in_chans"):
        ddrsapc.register_model(without_channels)
    assert not ddrsapc.is_model("with_kwargs")


def test_unknown_names():
    for name in ("resnet50", "unet.", "", None, 3):
        assert not ddrsapc.is_model(name)
    with pytest.raises(TypeError, match="named by a string"):
        ddrsapc.model_entrypoint(None)
    with pytest.raises(ValueError, match="unknown model 'ddr_sap_u'.*did you mean 'ddr_sapc_u'"):
        ddrsapc.model_entrypoint("ddr_sap_u")
    with pytest.raises(ValueError, match="choose from ddr_sapc, .*unetpp"):
        ddrsapc.model_entrypoint("????")
