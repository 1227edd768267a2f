"""The operators around the kernels, registered for the CPU here: gradients, compilation, dispatch in layers."""

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from ddrsapc import kernels
from ddrsapc.kernels import dispatch, ops, reference
from ddrsapc.layers import DualAttentionModule, ParallelBasicBlock
from ddrsapc.losses import OhemCrossEntropyLoss

FORWARD = ("upsample_add_act", "dual_gate", "ohem_cross_entropy", "upsample_argmax")
BACKWARD = ("_upsample_add_act_backward", "_dual_gate_backward", "_ohem_cross_entropy_backward")
for name in FORWARD + BACKWARD:
    operator = getattr(ops, name)
    operator.register_kernel("cpu")(operator._init_fn)
for name in ("upsample_add_act", "dual_gate"):
    ops._promote_under_autocast(name, "cpu")


@pytest.fixture
def calls(monkeypatch):
    """Names of the operators that run on what would be CUDA tensors."""
    monkeypatch.setattr(dispatch, "DEVICE", "cpu")
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "ddrsapc":
                seen.append(func._schema.name.removeprefix("ddrsapc::"))
            return func(*args, **(kwargs or {}))

    with Recorder():
        yield seen


def maps(*sizes, dtype=torch.float64, channels=2):
    return [torch.randn(1, channels, *size, dtype=dtype, requires_grad=True) for size in sizes]


def logits_and_target(size=(3, 4)):
    return torch.randn(1, 3, 3, 4, requires_grad=True), torch.randint(0, 3, (1, *size))


def samples():
    x, up, same = maps((4, 6), (2, 3), (4, 6))
    own, other = (m[:, :1].detach().requires_grad_() for m in maps((4, 6), (2, 3)))
    logits, target = logits_and_target()
    for relu in (True, False):
        yield ops.upsample_add_act, (x, [up, same], relu)
    yield ops.dual_gate, (x, own, other)
    yield ops.dual_gate, (up, other, own)
    for weight in (None, torch.tensor([1.0, 2, 3])):
        yield ops.ohem_cross_entropy, (logits, target, weight, 0.7, 0.1, 255)
    yield ops.upsample_argmax, (logits.detach(), [6, 8])


@pytest.mark.parametrize(("operator", "args"), list(samples()))
def test_schema_shapes_and_autograd_are_registered_as_pytorch_wants(operator, args):
    torch.library.opcheck(operator, args)


@pytest.mark.parametrize("relu", [True, False])
def test_gradient_of_upsample_add_act(relu):
    inputs = maps((2, 4), (1, 2), (2, 4), (1, 4))
    assert torch.autograd.gradcheck(
        lambda x, *terms: ops.upsample_add_act(x, list(terms), relu), inputs, fast_mode=True
    )


@pytest.mark.parametrize(("size", "other"), [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((3, 1), (1, 1))])
def test_gradient_of_dual_gate(size, other):
    (x,), (own, other) = maps(size), maps(size, other, channels=1)
    assert torch.autograd.gradcheck(ops.dual_gate, (x, own, other), fast_mode=True)


def test_a_loss_that_nothing_depends_on_has_no_gradient():
    logits, target = logits_and_target()
    loss, losses, choice = ops.ohem_cross_entropy(logits, target, None, 0.7, 0.1, 255)
    assert (loss.requires_grad, losses.requires_grad, choice.requires_grad) == (True, False, False)


def step(module, *inputs):
    """The outputs, and gradients of their sums of squares in inputs and parameters."""
    module.zero_grad()
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = module(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(out.square().sum() for out in outputs).backward()
    return [*(out.detach() for out in outputs), *(x.grad for x in (*leaves, *module.parameters()))]


LAYERS = [
    (DualAttentionModule(2, 4, 2), [(2, 8, 8), (4, 4, 4)], {"dual_gate": 2, "upsample_add_act": 1}),
    (ParallelBasicBlock(2, 3), [(2, 8, 8)], {"upsample_add_act": 1}),
]


@pytest.mark.parametrize(("layer", "shapes", "expected"), LAYERS)
def test_layers_compute_the_same_with_kernels(layer, shapes, expected, calls, monkeypatch):
    inputs = [torch.randn(2, *shape) for shape in shapes]
    with_kernels = step(layer, *inputs)
    for name, count in expected.items():
        assert calls.count(name) == calls.count(f"{name}_backward") == count
    calls.clear()
    monkeypatch.setenv("DDRSAPC_KERNELS", "torch")
    torch.testing.assert_close(with_kernels, step(layer, *inputs), rtol=1e-4, atol=1e-4)
    assert not calls


@pytest.mark.parametrize("size", [(3, 4), (12, 8)])
def test_the_loss_is_the_same_with_kernels(size, calls, monkeypatch):
    logits, target = logits_and_target(size)
    settings = {"threshold": 0.7, "min_kept": 0.1, "ignore_index": 255, "weight": None}
    loss = kernels.ohem_cross_entropy(logits, target, **settings)
    (grad,) = torch.autograd.grad(loss, logits)
    assert calls == ["ohem_cross_entropy", "ohem_cross_entropy_backward"]
    expected = reference.ohem_cross_entropy(logits, target, **settings)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])
    torch.testing.assert_close(kernels.upsample_argmax(logits, size), reference.upsample_argmax(logits, size))
    assert calls[2:] == ["upsample_argmax"]


def test_what_no_kernel_covers_takes_aten(calls):
    x, up, odd, mixed = maps((6, 4), (3, 2), (4, 3), (3, 2), dtype=torch.float32)
    gate = [m[:, :1] for m in (x, odd)]
    logits, target = logits_and_target((4, 5))
    kernels.upsample_add_act(x, [odd])
    kernels.upsample_add_act(x, [x])
    kernels.upsample_add_act(x, [up, mixed.double()])
    kernels.dual_gate(x, *gate)
    kernels.ohem_cross_entropy(logits, target)
    kernels.ohem_cross_entropy(logits.double(), target[:, :3, :4].contiguous())
    kernels.ohem_cross_entropy(torch.randn(1, 65, 3, 4), target[:, :3, :4].contiguous())
    kernels.ohem_cross_entropy(logits, target[:, :3, :4], weight=torch.ones(3, requires_grad=True))
    kernels.upsample_argmax(logits, (4, 5))
    for function in (
        lambda: kernels.ohem_cross_entropy(logits, target[:, :3, :4].expand(3, 3, 4)),  # another batch
        lambda: kernels.ohem_cross_entropy(logits, target[0]),
        lambda: kernels.upsample_argmax(logits, (0, 4)),
        lambda: kernels.upsample_add_act(x[0], [up[0]]),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            function()
    assert not calls


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(dynamic, monkeypatch):
    monkeypatch.setattr(dispatch, "DEVICE", "cpu")
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    layer, criterion = DualAttentionModule(2, 4, 2), OhemCrossEntropyLoss()

    def function(high, low, target):
        high, low = layer(high, low)
        return criterion(high, target), kernels.upsample_argmax(low, (12, 12))

    args = torch.randn(2, 2, 8, 8), torch.randn(2, 4, 4, 4), torch.randint(0, 2, (2, 8, 8))
    expected, labels = function(*args)
    torch._dynamo.reset()
    loss, found = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(*args)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(found, labels)
    (names,) = graphs
    for name, count in (("dual_gate", 2), ("upsample_add_act", 1), ("ohem_cross_entropy", 1), ("upsample_argmax", 1)):
        assert sum(f"ddrsapc.{name}.default" in target for target in names) == count, names


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_exports_hold_aten_only(monkeypatch):
    monkeypatch.setattr(dispatch, "DEVICE", "cpu")
    layer, x = ParallelBasicBlock(2, 3).eval(), torch.randn(2, 2, 8, 8)
    program = torch.export.export(layer, (x,))
    assert not any("ddrsapc" in str(node.target) for node in program.graph.nodes)
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert "upsample_bilinear2d" in str(traced.inlined_graph)
    assert "ddrsapc::" not in str(traced.inlined_graph)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_transforms_take_aten(calls):
    x, up = maps((4, 4), (2, 2))
    x, up = x.detach(), up.detach()

    def total(x):
        return kernels.upsample_add_act(x, [up]).sum()

    assert torch.func.jvp(total, (x,), (torch.ones_like(x),))[1].item() == x.numel()
    assert torch.equal(torch.func.grad(total)(x), torch.ones_like(x))
    with torch.autograd.forward_ad.dual_level():
        out = total(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        assert torch.autograd.forward_ad.unpack_dual(out).tangent.item() == x.numel()
    assert not calls
    total(x)
    assert calls == ["upsample_add_act"]


def autocast_step(function):
    """Outputs of float32 maps under autocast, and the gradients of their sum."""
    torch.manual_seed(0)
    leaves = [torch.randn(2, *shape, requires_grad=True) for shape in ((2, 8, 8), (4, 4, 4))]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = function(*leaves)
    return [*outputs, *torch.autograd.grad(sum(out.sum() for out in outputs), leaves)]


def test_under_autocast_maps_of_several_dtypes_become_the_widest(calls, monkeypatch):
    layer = DualAttentionModule(2, 4, 2)  # its convolutions answer in bfloat16
    found = autocast_step(layer)
    assert calls.count("dual_gate") == calls.count("dual_gate_backward") == 2
    assert calls.count("upsample_add_act") == calls.count("upsample_add_act_backward") == 1
    monkeypatch.setenv("DDRSAPC_KERNELS", "torch")
    for actual, expected in zip(found, autocast_step(layer), strict=True):
        assert actual.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)


def test_under_autocast_it_compiles_as_one_graph_with_its_gradients(monkeypatch):
    monkeypatch.setattr(dispatch, "DEVICE", "cpu")
    layer, seen = DualAttentionModule(2, 4, 2), []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    found = autocast_step(torch.compile(layer, backend=backend, fullgraph=True))
    assert sum("ddrsapc.dual_gate" in target for target in seen) == 2
    assert sum("ddrsapc.upsample_add_act" in target for target in seen) == 1
    torch.testing.assert_close(found, autocast_step(layer), rtol=1e-2, atol=1e-2)


def test_under_autocast_one_dtype_stays(calls):
    x, up = maps((4, 6), (2, 3))
    logits, target = logits_and_target()
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.upsample_add_act(x.bfloat16(), [up.bfloat16()]).dtype == torch.bfloat16
        assert kernels.upsample_add_act(x.bfloat16(), [up.half()]).dtype == torch.float32
        assert kernels.dual_gate(up.bfloat16(), *(m[:, :1].half() for m in (up, x))).dtype == torch.float32
        assert kernels.ohem_cross_entropy(logits.bfloat16(), target).dtype == torch.float32
    assert calls == ["upsample_add_act", "upsample_add_act", "dual_gate", "ohem_cross_entropy"]
