"""What takes long, checked for one network of each structure: the others differ from it in nothing but channels."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, export

import ddrsapc
from ddrsapc.layers import Stage
from ddrsapc.metrics import ConfusionMatrix
from tests.models.networks import build, randomised

STRUCTURES = ("ddr_sapc", "ddr_sapc_u", "ddrnet_23_slim", "transunet", "unet", "unetpp")
STAGES = ("ddr_sapc_u", "transunet")  # with all kinds of layers that stages have

each_structure = pytest.mark.parametrize("name", STRUCTURES)


def structure_of(name):
    """Modules and features without their numbers of channels."""
    with torch.device("meta"):
        model = build(name, aux_head=True)
    modules = [
        (key, type(module), getattr(module, "kernel_size", None), getattr(module, "stride", None))
        for key, module in model.named_modules()
    ]
    return type(model), modules, [(info.name, info.reduction) for info in model.feature_info]


def stage_layers(name):
    """The kinds of layers in a network's stages."""
    with torch.device("meta"):
        model = build(name)
    return {type(layer) for stage in model.modules() if isinstance(stage, Stage) for layer in stage}


def test_every_network_has_one_of_these_structures():
    structures = [structure_of(name) for name in STRUCTURES]
    for name in set(ddrsapc.list_models()) - set(STRUCTURES):
        assert structure_of(name) in structures, f"add {name}"
    layers = set().union(*map(stage_layers, STAGES))
    for name in STRUCTURES:
        assert stage_layers(name) <= layers, name


@each_structure
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    model = randomised(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(2, 1, 64, 96)
    torch.testing.assert_close(compiled(x), model(x))


@each_structure
def test_compiles_as_one_graph_in_training_at_an_odd_size(name):
    torch.compiler.reset()
    model = build(name, aux_head=True)
    torch.compile(model, backend="eager", fullgraph=True)(torch.randn(2, 1, 37, 65)).logits.mean().backward()
    assert next(model.parameters()).grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_gradient_checkpointing_compiles_and_gives_the_same_gradients(name):
    """As the plain network, not compiled: in float64, where only an error makes a difference."""
    torch.compiler.reset()
    plain = build(name).double()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # compiled and eager draw differently
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    x = torch.randn(4, 1, 128, 128, dtype=torch.float64)
    for model in (plain, torch.compile(checkpointed, backend="aot_eager", fullgraph=True)):
        model(x).square().mean().backward()
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, key=key: f"{key}: {m}")
    for (key, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name.startswith("ddr")])
def test_exports_with_dynamic_batch_and_size(name):
    """From 257 pixels on, where DAPPM pools to more than one; the other networks need no such bound."""
    model = randomised(name)
    s = model.stride
    low, high = -(-257 // s), 1024 // s
    shapes = {0: Dim("n", min=1, max=64), 2: s * Dim("h", min=low, max=high), 3: s * Dim("w", min=low, max=high)}
    program = export(model, (torch.randn(2, 1, 384, 512),), dynamic_shapes=(shapes,)).module()
    for shape in ((1, 1, 512, 384), (3, 1, 384, 384)):
        x = torch.randn(shape)
        torch.testing.assert_close(program(x), model(x))


@each_structure
def test_exports_down_to_the_smallest_size(name):
    model = randomised(name)
    s = model.stride
    low, high = max(1, 32 // s), max(32, 1024 // s)
    shapes = {0: Dim("n", min=1, max=64), 2: s * Dim("h", min=low, max=high), 3: s * Dim("w", min=low, max=high)}
    settings = nullcontext()
    if name.startswith("ddr"):  # below 257 pixels, where the guards would otherwise specialise
        if not hasattr(torch.fx.experimental._config, "backed_size_oblivious"):
            pytest.skip("needs a newer torch than the oldest supported one")
        settings = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with settings:
        program = export(model, (torch.randn(2, 1, 384, 512),), dynamic_shapes=(shapes,)).module()
    for shape in ((1, 1, low * s, 2 * s * low), (3, 1, 128, 256), (1, 1, 512, 384)):
        x = torch.randn(shape)
        torch.testing.assert_close(program(x), model(x))


def discs(count, side):
    """Labels (count, side, side) of one disc per class, at other places in each."""
    labels = torch.zeros(count, side, side, dtype=torch.long)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for label, (y, x) in enumerate([(0.25, 0.25), (0.31, 0.72), (0.72, 0.47)], start=1):
        for image, (row, column) in zip(labels, [(y, x), (x, y), (1 - y, x), (y, 1 - x)], strict=True):
            image[(rows - row * side) ** 2 + (columns - column * side) ** 2 < (0.16 * side) ** 2] = label
    return labels


@each_structure
def test_overfits_one_batch(name):
    """The whole chain learns: loss falls by 10x, mean IoU in evaluation above 0.9."""
    torch.manual_seed(0)
    model = build(name)
    # logits at 1/8 draw a disc's edge less sharply
    side, steps = (192, 100) if name in ("ddr_sapc", "ddrnet_23", "ddrnet_23_slim") else (64, 90)
    target = discs(4, side)
    x = target[:, None] * 0.5 + 0.1 * torch.randn(4, 1, side, side)
    optimizer = torch.optim.AdamW(model.param_groups(0.01, weight_decay=0.0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    first = F.cross_entropy(model(x), target).item()
    for _ in range(steps):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss.item() < first / 10
    confusion = ConfusionMatrix(4)
    confusion.update(model.eval()(x).argmax(1), target)
    assert confusion.scores().mean_iou > 0.9
