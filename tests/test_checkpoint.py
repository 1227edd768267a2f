"""Public DDRNet checkpoints: outputs of the public implementations on weights made by a formula."""

import numpy as np
import pytest
import torch

import ddrsapc
from ddrsapc.checkpoint import from_public_ddrnet, load_public_ddrnet
from tests.public_ddrnet import hashed

VARIANTS = ["ddrnet_23_slim", "ddrnet_23"]
LAYOUTS = ["reference", "mmseg"]


@pytest.fixture(scope="module")
def golden(root):
    with np.load(root / "tests/golden/ddrnet_golden.npz") as arrays:
        return dict(arrays)


def golden_input(height, width):
    x = 2 * hashed("input", 3 * height * width) - 1
    return torch.from_numpy(x.reshape(1, 3, height, width).astype(np.float32))


def build(variant, **kwargs):
    return ddrsapc.create_model(variant, num_classes=19, in_chans=3, **kwargs).eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_outputs_as_the_public_implementation(variant, layout, public, golden):
    model = build(variant, aux_head=True)
    assert load_public_ddrnet(model, public(variant, layout)) == []
    for height, width in ((64, 64), (128, 192)):
        with torch.inference_mode():
            features = model.forward_features(golden_input(height, width))
            outputs = {"logits": model.forward_head(features, native=True), "aux": model.aux_head(features[2])}
        for output, actual in outputs.items():
            expected = torch.from_numpy(golden[f"{variant}/{layout}/{height}x{width}/{output}"])
            assert expected.abs().max() > 0.1
            assert (actual - expected).abs().max() < 1e-5, output


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_segmentation_checkpoints_load_strictly(variant, layout, public):
    state = from_public_ddrnet(public(variant, layout))
    assert not any(key.startswith("aux_head.") for key in state)
    build(variant).load_state_dict(state, strict=True)
    build(variant, aux_head=True).load_state_dict(
        from_public_ddrnet(public(variant, layout), aux_head=True), strict=True
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_imagenet_checkpoints_cover_the_backbone(variant, public):
    model = build(variant)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    left = load_public_ddrnet(model, public(variant, "imagenet"))
    assert left
    assert all(key.startswith(("encoder.spp.", "head.")) for key in left)
    for key, value in model.state_dict().items():
        untouched = key.startswith(("encoder.spp.", "head."))
        assert torch.equal(value, fresh[key]) == (untouched or key.endswith("num_batches_tracked")), key
    assert {key for key in fresh if key.startswith(("encoder.spp.", "head."))} >= set(left)


def test_an_imagenet_checkpoint_must_cover_the_whole_backbone(public):
    model = build("ddrnet_23_slim")
    state = public("ddrnet_23_slim", "imagenet")
    del state["layer3_.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"1 missing \[encoder.layer3_.0.conv1.weight\]"):
        load_public_ddrnet(model, state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"model.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module.model.{k}": v for k, v in s.items()}, "epoch": 484},
        lambda s: {**s, "loss.criterion.weight": torch.ones(19)},
    ],
    ids=["state_dict", "module", "model", "both", "loss"],
)
def test_wrappers_and_prefixes(layout, wrap, public):
    state = public("ddrnet_23_slim", layout)
    expected = from_public_ddrnet(state)
    actual = from_public_ddrnet(wrap(state))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_mmseg_backbone_without_prefix(public):
    state = {
        k.removeprefix("backbone."): v
        for k, v in public("ddrnet_23_slim", "mmseg").items()
        if k.startswith("backbone.")
    }
    spp = {k: v for k, v in state.items() if not k.startswith("spp.")}
    model = build("ddrnet_23_slim")
    left = load_public_ddrnet(model, {"state_dict": {**spp, "head.fc.weight": torch.ones(1000, 512)}})
    assert all(key.startswith(("encoder.spp.", "head.")) for key in left)


def test_old_checkpoints_without_batch_counters(public):
    state = {k: v for k, v in public("ddrnet_23_slim", "reference").items() if "num_batches" not in k}
    assert load_public_ddrnet(build("ddrnet_23_slim"), state) == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "not a state dict: no tensors"),
        ({"epoch": 3}, r"no tensors under the keys \['epoch'\]"),
        ([1, 2], "expected a state dict, got list"),
        ({"fc.weight": torch.ones(2)}, r"unknown keys \['fc.weight'\]"),
        ({"linear.weight": torch.ones(2)}, "no known key"),
    ],
)
def test_other_files_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        from_public_ddrnet(state)


def test_ddrnet_39_is_refused(public):
    state = public("ddrnet_23_slim", "reference")
    state["layer3_1.0.conv1.weight"] = torch.ones(128, 128, 3, 3)
    with pytest.raises(ValueError, match="layer3_1.0.conv1.weight"):
        from_public_ddrnet(state)


@pytest.mark.parametrize(
    ("variant", "kwargs", "message"),
    [
        ("ddrnet_23", {}, "of another shape"),
        (
            "ddrnet_23_slim",
            {"num_classes": 4},
            r"2 of another shape \[head.classifier.weight \(19, 64, 1, 1\) instead of",
        ),
        ("ddrnet_23_slim", {"in_chans": 1}, r"1 of another shape \[encoder.stem1.0.weight"),
    ],
)
def test_a_misfit_names_the_keys_and_changes_nothing(variant, kwargs, message, public):
    model = ddrsapc.create_model(variant, **{"num_classes": 19, "in_chans": 3, **kwargs})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_public_ddrnet(model, public("ddrnet_23_slim", "reference"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_network_is_refused(public):
    with pytest.raises(TypeError, match="expected ddrnet_23 or ddrnet_23_slim, got a UNet"):
        load_public_ddrnet(ddrsapc.create_model("unet", width=4), public("ddrnet_23_slim", "reference"))


def test_a_missing_auxiliary_head_is_named(public):
    state = {k: v for k, v in public("ddrnet_23_slim", "reference").items() if not k.startswith("seghead_extra")}
    with pytest.raises(ValueError, match="missing .*aux_head"):
        load_public_ddrnet(build("ddrnet_23_slim", aux_head=True), state)
