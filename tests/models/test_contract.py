"""What every registered network promises, at a small width; what takes long is in test_structures."""

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ddrsapc
from ddrsapc.layers import Stage
from ddrsapc.models import SegmentationOutput
from tests.models.networks import build, randomised

SIZES = [(32, 32), (33, 47), (37, 101), (64, 64), (130, 32)]

pytestmark = pytest.mark.parametrize("name", ddrsapc.list_models())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected.float()).norm() / expected.float().norm()).item()


def test_entrypoint_is_documented_and_defaults_to_ct(name):
    entrypoint = ddrsapc.model_entrypoint(name)
    parameters = inspect.signature(entrypoint).parameters
    assert inspect.getdoc(entrypoint)
    assert parameters["num_classes"].default == 4
    assert parameters["in_chans"].default == 1
    with torch.device("meta"):
        model = ddrsapc.create_model(name)
    assert (model.num_classes, model.in_chans, model.width) == (4, 1, parameters["width"].default)


@pytest.mark.parametrize("size", SIZES)
def test_logits_have_the_size_of_the_input(name, size):
    model = randomised(name)
    for batch in (1, 2):
        logits = model(torch.randn(batch, 1, *size))
        assert type(logits) is Tensor
        assert logits.shape == (batch, 4, *size)
        assert logits.isfinite().all()


def test_odd_sizes_are_the_cropped_result_of_the_replicate_padded_input(name):
    model = randomised(name)
    x = torch.randn(1, 1, 37, 101)
    pad_h, pad_w = -37 % model.stride, -101 % model.stride
    expected = model(F.pad(x, (0, pad_w, 0, pad_h), mode="replicate"))[..., :37, :101]
    torch.testing.assert_close(model(x), expected)


def test_classes_and_channels(name):
    model = build(name, num_classes=7, in_chans=3).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7, 64, 64)
    assert model.get_submodule(model.first_conv).in_channels == 3
    assert model.get_submodule(model.classifier).out_channels == 7


def test_auxiliary_head_answers_in_training_only(name):
    model = build(name, aux_head=True)
    x = torch.randn(2, 1, 33, 47)
    output = model(x)
    assert isinstance(output, SegmentationOutput)
    assert output.logits.shape == output.aux.shape == (2, 4, 33, 47)
    assert not torch.equal(output.logits, output.aux)
    model.eval()
    assert type(model(x)) is Tensor
    without = build(name).eval()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("aux_head.")})
    torch.testing.assert_close(model(x), without(x), rtol=0, atol=0)


def test_features_are_as_described(name):
    model = randomised(name)
    x = torch.randn(2, 1, 3 * model.stride + 1, 4 * model.stride)
    features = model.forward_features(x)
    assert type(features) is tuple
    assert len(features) == len(model.feature_info)
    for feature, info in zip(features, model.feature_info, strict=True):
        side = 4 * model.stride // info.reduction
        assert feature.shape == (2, info.channels, side, side), info.name
    logits = model.forward_head(features)
    torch.testing.assert_close(logits[..., : x.shape[2], : x.shape[3]], model(x), rtol=0, atol=0)
    native = model.forward_head(features, native=True)
    reduction = 8 if name in ("ddr_sapc", "ddrnet_23", "ddrnet_23_slim") else 1
    assert native.shape == (2, 4, 4 * model.stride // reduction, 4 * model.stride // reduction)
    resized = F.interpolate(native, size=logits.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, resized)


def test_every_parameter_has_a_gradient(name):
    model = build(name, aux_head=True)
    output = model(torch.randn(2, 1, 64, 64))
    target = torch.randint(0, 4, (2, 64, 64))
    (F.cross_entropy(output.logits, target) + F.cross_entropy(output.aux, target)).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]
    # a bias before a batch norm has a gradient of zero
    assert not [key for key, p in model.named_parameters() if p.ndim > 1 and not p.grad.abs().max() > 0]


@pytest.mark.parametrize("aux_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reset_classifier_keeps_everything_else(name, aux_head, dtype):
    model = build(name, aux_head=aux_head).to(dtype).to(memory_format=torch.channels_last).eval()
    before = copy.deepcopy(model.state_dict())
    model.reset_classifier(6)
    after = model.state_dict()
    classifiers = tuple(f"{key}." for key in (model.classifier, "aux_head.classifier"))
    assert before.keys() == after.keys()
    assert model.num_classes == 6
    for key, tensor in after.items():
        assert tensor.dtype == before[key].dtype
        if key.startswith(classifiers):
            assert tensor.shape[0] == 6
            if tensor.ndim == 4:
                expected = before[key].stride()
                assert tensor.stride() == expected, "memory layout"
        else:
            assert torch.equal(tensor, before[key])
    x = torch.randn(1, 1, 64, 64, dtype=dtype)
    assert model(x).shape == (1, 6, 64, 64)
    assert not any(module.training for module in model.modules())


def test_reset_classifier_stays_on_its_device(name):
    with torch.device("meta"):
        model = build(name)
    model.reset_classifier(3)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_gradient_checkpointing_changes_nothing_but_memory(name):
    plain = build(name)
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    assert any(m.grad_checkpointing for m in checkpointed.modules() if isinstance(m, Stage))
    x = torch.randn(2, 1, 128, 128)
    saved = []
    for model in (plain, checkpointed):
        torch.manual_seed(1)  # for dropout
        kept: list[int] = []

        def pack(tensor, kept=kept):
            if not isinstance(tensor, nn.Parameter):
                kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(x).square().mean()
        saved.append(sum(kept))
        loss.backward()
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, key=key: f"{key}: {m}")
    for (key, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(a, b), key
    assert saved[1] < 0.7 * saved[0]
    checkpointed.set_grad_checkpointing(False)
    assert not any(m.grad_checkpointing for m in checkpointed.modules() if isinstance(m, Stage))


def test_parameter_groups(name):
    model = build(name, aux_head=True)
    frozen = next(model.parameters()).requires_grad_(False)
    groups = model.param_groups(0.1, weight_decay=0.01, backbone_lr_scale=0.5)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()} - {id(frozen)}
    by_id = {id(p): group for group in groups for p in group["params"]}
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm))
        for p in m.parameters()
    }
    for key, p in model.named_parameters():
        if p is frozen:
            continue
        exempt = key.endswith(("bias", "position_embedding")) or id(p) in norms
        assert by_id[id(p)]["weight_decay"] == (0.0 if exempt else 0.01), key
        is_head = key.startswith((*model.head_modules, "aux_head"))
        assert by_id[id(p)]["lr"] == (0.1 if is_head else 0.05), key
    assert {g["name"] for g in groups} == {"head", "head_no_decay", "backbone", "backbone_no_decay"}
    assert {id(p) for p in model.get_submodule(model.classifier).parameters()} <= {
        id(p) for g in groups if g["name"].startswith("head") for p in g["params"]
    }
    torch.optim.SGD(groups).zero_grad()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    model = randomised(name)
    x = torch.randn(2, 1, 33, 64)
    expected = model(x)
    model.to(dtype)
    for key, tensor in model.state_dict().items():
        if "running_" in key:
            assert tensor.dtype == torch.float32, key
    assert model.get_submodule(model.first_conv).weight.dtype == dtype
    logits = model(x.to(dtype))
    assert logits.dtype == dtype
    assert relative_error(logits, expected) < (0.03 if dtype == torch.float16 else 0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(name, dtype):
    model = build(name).to(dtype)
    loss = model(torch.randn(2, 1, 64, 64, dtype=dtype)).float().square().mean()
    loss.backward()
    for key, p in model.named_parameters():
        assert p.grad.dtype == p.dtype, key
        assert p.grad.isfinite().all(), key
    assert model.get_submodule(model.classifier).weight.grad.abs().max() > 0


def test_autocast(name):
    model = randomised(name)
    x = torch.randn(2, 1, 33, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert relative_error(logits, model(x)) < 0.1
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).float().square().mean().backward()
    for key, p in model.named_parameters():
        assert p.grad.dtype == torch.float32, key
        assert p.grad.isfinite().all(), key


def test_channels_last(name):
    model = randomised(name)
    x = torch.randn(2, 1, 64, 96)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    features = model.forward_features(x.to(memory_format=torch.channels_last))
    assert features[0].is_contiguous(memory_format=torch.channels_last)
    assert relative_error(model(x.to(memory_format=torch.channels_last)), expected) < 1e-4


def test_optimized_for_inference(name):
    model = randomised(name, aux_head=True).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimized = ddrsapc.optimize_for_inference(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    model.eval()
    assert type(optimized) is type(model)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (model, optimized)]
    assert norms[1] < 0.25 * norms[0]
    for size in ((64, 96), (37, 101)):
        x = torch.randn(2, 1, *size)
        logits, expected = optimized(x), model(x)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
        assert not logits.requires_grad
    assert optimized.forward_features(x)[0].is_contiguous(memory_format=torch.channels_last)


def test_deepcopy_and_state_dict(name):
    model = randomised(name)
    x = torch.randn(1, 1, 64, 64)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    fresh = build(name).eval()
    assert not torch.equal(fresh(x), model(x))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))


def test_meta_device_construction(name):
    with torch.device("meta"):
        empty = build(name)
    assert {t.device.type for t in empty.state_dict().values()} == {"meta"}
    model = randomised(name)
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(model.state_dict())
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(empty(x), model(x))


def test_same_seed_same_weights(name):
    torch.manual_seed(3)
    first = build(name).state_dict()
    torch.manual_seed(3)
    second = build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_batch_of_one(name):
    model = build(name)
    x = torch.randn(1, 1, 64, 64)
    if name.startswith("ddr"):
        with pytest.raises(ValueError, match="training batch of 1.*drop_last"):
            model(x)
    else:
        model(x).mean().backward()
    assert model.eval()(x).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), r"\(N, 1, H, W\)"),
        ((64,), r"\(N, 1, H, W\)"),
        ((1, 64, 64), r"\(N, 1, H, W\)"),
        ((1, 1, 1, 64, 64), r"\(N, 1, H, W\)"),
        ((1, 3, 64, 64), "expected 1 input channel"),
        ((0, 1, 64, 64), "empty batch"),
        ((1, 1, 31, 64), "at least 32 x 32"),
        ((1, 1, 64, 0), "at least 32 x 32"),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build(name).eval()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int16, torch.float64, torch.float16])
def test_wrong_dtypes_are_named(name, dtype):
    with pytest.raises(TypeError, match=rf"expected torch.float32 input.*{dtype}"):
        build(name).eval()(torch.zeros(1, 1, 64, 64, dtype=dtype))


def test_other_types_are_named(name):
    model = build(name).eval()
    for x in (None, [[1.0]], "image"):
        with pytest.raises(TypeError, match="expected a tensor"):
            model(x)
    features = model.forward_features(torch.randn(1, 1, 64, 64))
    for wrong in (features[0], features[:-1], list(features)):
        with pytest.raises(ValueError, match="maps that forward_features returns"):
            model.forward_head(wrong)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=r"got torch.float64"):
        model(torch.zeros(1, 1, 64, 64, dtype=torch.float64))


def test_numpys_integers_are_integers(name):
    model = ddrsapc.create_model(name, num_classes=np.int64(3), width=np.int32(8))
    assert type(model.num_classes) is int
    assert model.num_classes == 3


@pytest.mark.parametrize("argument", ["num_classes", "in_chans", "width"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "4"])
def test_wrong_numbers_are_named(name, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer"):
        ddrsapc.model_entrypoint(name)(**{argument: value})
