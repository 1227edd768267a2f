import inspect
import typing

import pytest

import ddrsapc
from ddrsapc.models import DDRSAPCU

ALL = ["ddr_sapc", "ddr_sapc_u", "ddr_sapc_u_s", "ddrnet_23", "ddrnet_23_slim", "transunet", "unet", "unetpp"]


def test_the_paper_in_one_line():
    model = ddrsapc.create_model("ddr_sapc_u", num_classes=4)
    assert isinstance(model, DDRSAPCU)
    assert model.num_classes == 4
    assert model.in_chans == 1
    assert model.training


def test_none_means_the_default():
    model = ddrsapc.create_model("unet", num_classes=None, in_chans=None, width=4)
    assert (model.num_classes, model.in_chans) == (4, 1)


def test_model_arguments_reach_the_network():
    model = ddrsapc.create_model("ddr_sapc_u", width=8, aux_head=True, skips=False)
    assert model.width == 8
    assert model.aux_head is not None
    assert not model.decoder.skips


def test_malformed_names_say_what_is_expected():
    with pytest.raises(ValueError, match="expected hf-hub:org/name"):
        ddrsapc.create_model("hf-hub:name")
    with pytest.raises(TypeError, match="named by a string"):
        ddrsapc.create_model(None)


def test_unknown_name_keyword_and_tag_name_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'ddrsapc_u'.*'ddr_sapc_u'"):
        ddrsapc.create_model("ddrsapc_u")
    with pytest.raises(TypeError, match="ddr_sapc_u takes no keyword 'aux_haed'.*'aux_head'"):
        ddrsapc.create_model("ddr_sapc_u", aux_haed=True)
    with pytest.raises(TypeError, match="takes no keyword 'wieghts'.*'weights'"):
        ddrsapc.create_model("unet", wieghts="a.safetensors")
    with pytest.raises(TypeError, match="takes no keyword 'pretraind'.*'pretrained'"):
        ddrsapc.create_model("unet", pretraind=True)
    with pytest.raises(
        TypeError, match="takes no keyword 'pbb'.*choose from pretrained, num_classes, in_chans, weights"
    ):
        ddrsapc.create_model("unet", pbb=False)
    with pytest.raises(ValueError, match="unet has no weights tagged 'nonsense'"):
        ddrsapc.create_model("unet.nonsense")


def test_list_models():
    assert ddrsapc.list_models() == ALL
    assert ddrsapc.list_models("ddr_sapc*") == ["ddr_sapc", "ddr_sapc_u", "ddr_sapc_u_s"]
    assert ddrsapc.list_models(["unet*", "*_23"]) == ["ddrnet_23", "unet", "unetpp"]
    assert ddrsapc.list_models("*u*", exclude="unet*") == ["ddr_sapc_u", "ddr_sapc_u_s", "transunet"]
    assert ddrsapc.list_models(exclude=["ddr*", "unet"]) == ["transunet", "unetpp"]
    assert ddrsapc.list_models("unet") == ["unet"]
    assert ddrsapc.list_models("nothing*") == []
    for wrong in ([1], None, 3):
        with pytest.raises(TypeError, match="filter must be"):
            ddrsapc.list_models(wrong)
    with pytest.raises(TypeError, match="exclude must be"):
        ddrsapc.list_models(exclude=None)


def test_list_pretrained_models(monkeypatch):
    monkeypatch.setattr("ddrsapc.factory.list_pretrained", lambda: ["ddr_sapc_u.cac_phantom", "unet.cac_phantom"])
    assert ddrsapc.list_models(pretrained=True) == ["ddr_sapc_u.cac_phantom", "unet.cac_phantom"]
    assert ddrsapc.list_models("ddr*", pretrained=True) == ["ddr_sapc_u.cac_phantom"]
    assert ddrsapc.list_models("unet", pretrained=True) == ["unet.cac_phantom"]
    assert ddrsapc.list_models(pretrained=True, exclude="unet") == ["ddr_sapc_u.cac_phantom"]


def test_public_functions_are_typed_and_documented():
    for name in ("create_model", "list_models", "is_model", "model_entrypoint", "register_model"):
        function = getattr(ddrsapc, name)
        assert inspect.getdoc(function)
        assert "return" in typing.get_type_hints(function)
