from pathlib import Path

import pytest

from ddrsapc.hub.sources import FileName, HubName, LocalName, RegisteredName, parse_model_name, parse_source


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("unet", RegisteredName("unet")),
        ("ddr_sapc_u.cac_phantom", RegisteredName("ddr_sapc_u", "cac_phantom")),
        ("ddr_sapc_u.v1.2", RegisteredName("ddr_sapc_u", "v1.2")),
        ("hf-hub:org/name", HubName("org/name")),
        ("hf-hub:org/name@v1.0", HubName("org/name", "v1.0")),
        ("local-dir:weights/mine", LocalName(Path("weights/mine"))),
        ("local-dir:C:\\models", LocalName(Path("C:\\models"))),
    ],
)
def test_names_are_parsed(name, parsed):
    assert parse_model_name(name) == parsed
    assert parse_source(name) == parsed


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        (Path("unet"), FileName(Path("unet"))),
        ("best.safetensors", FileName(Path("best.safetensors"))),
        ("unet.small.safetensors", FileName(Path("unet.small.safetensors"))),
        ("runs/7/best", FileName(Path("runs/7/best"))),
        ("~/best.safetensors", FileName(Path.home() / "best.safetensors")),
    ],
)
def test_paths_are_told_from_names(source, parsed):
    assert parse_source(source) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:name",
        "hf-hub:",
        "hf-hub:/name",
        "hf-hub:org/",
        "hf-hub:a/b/c",
        "hf-hub:org/name@",
        "local-dir:",
        "unet.",
        "s3:x",
    ],
)
def test_malformed_names_say_what_is_expected(name):
    for parse in (parse_model_name, parse_source):
        with pytest.raises(ValueError, match="expected"):
            parse(name)


@pytest.mark.parametrize("name", [None, 3, ["unet"]])
def test_a_name_is_a_string(name):
    for parse in (parse_model_name, parse_source):
        with pytest.raises(TypeError, match="named by a string"):
            parse(name)
