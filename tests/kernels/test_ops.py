"""What CUDA tensors take, shown by fake ones where there is no GPU."""

import contextlib
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import ddrsapc
from ddrsapc import kernels
from ddrsapc.kernels import dispatch
from ddrsapc.layers import BilateralFusion, DualAttentionModule, ParallelBasicBlock

NHWC, NCHW = torch.channels_last, torch.contiguous_format
SIZES = [(32, 32), (16, 16), (8, 8)]


class Operators(TorchDispatchMode):
    """Counts this package's operators."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ddrsapc":
            self.counts[func._schema.name.removeprefix("ddrsapc::")] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _with_triton(monkeypatch):
    monkeypatch.delenv("DDRSAPC_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "_problem", lambda: None)


@contextlib.contextmanager
def counted():
    """Within the context, the operators that run on fake CUDA tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Operators() as seen:
        yield seen.counts


def maps(*channels, dtype=torch.bfloat16, layout=NHWC, device="cuda"):
    return [
        torch.empty(2, c, *size, dtype=dtype, device=device, memory_format=layout if c > 1 else NCHW)
        for c, size in zip(channels, SIZES, strict=False)
    ]


def results(device, dtype, layout):
    x, half, quarter = maps(8, 8, 8, dtype=dtype, layout=layout, device=device)
    own, other = maps(1, 1, dtype=dtype, device=device)
    target = torch.empty(2, 32, 32, dtype=torch.long, device=device)
    yield kernels.upsample_add_act(x, [half, quarter, x], relu=True)
    yield kernels.dual_gate(x, own, other)
    yield kernels.dual_gate(half, other, own)
    yield kernels.ohem_cross_entropy(half, target, weight=torch.empty(8, device=device))
    yield kernels.upsample_argmax(half, (32, 32))


@pytest.mark.parametrize("layout", [NHWC, NCHW])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_tensors_take_the_operators_which_answer_as_aten_does(dtype, layout):
    with counted() as operators:
        found = list(results("cuda", dtype, layout))
        assert operators == {"upsample_add_act": 1, "dual_gate": 2, "ohem_cross_entropy": 1, "upsample_argmax": 1}
    for actual, expected in zip(found, results("meta", dtype, layout), strict=True):
        assert actual.device.type == "cuda"
        assert (actual.shape, actual.dtype, actual.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.fixture
def autocast():
    """On for CUDA, which `torch.autocast` refuses without a GPU."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


def test_under_autocast_the_widest_dtype_is_taken(autocast):
    with counted() as operators:
        x, half = maps(8, 8, dtype=torch.float32)
        own, other = maps(1, 1)
        assert kernels.upsample_add_act(x.bfloat16(), [half]).dtype == torch.float32
        assert kernels.dual_gate(x.bfloat16(), own.float(), other.float()).dtype == torch.float32
        assert kernels.upsample_add_act(x.bfloat16(), [half.bfloat16()]).dtype == torch.bfloat16
        assert operators == {"upsample_add_act": 2, "dual_gate": 1}


def test_the_environment_turns_them_off(monkeypatch):
    monkeypatch.setenv("DDRSAPC_KERNELS", "torch")
    with counted() as operators:
        x, half = maps(8, 8)
        kernels.upsample_add_act(x, [half])
        kernels.upsample_argmax(half, (32, 32))
        assert not operators


@pytest.mark.parametrize("name", ["ddr_sapc_u", "ddr_sapc", "ddrnet_23_slim"])
def test_networks_take_them(name):
    network = ddrsapc.create_model(name, num_classes=4, width=8).eval()
    kinds = Counter(type(module) for module in network.modules())
    gates, fusions = 2 * kinds[DualAttentionModule], kinds[DualAttentionModule] + kinds[BilateralFusion]
    assert fusions == 2
    with counted() as operators:
        network.to_empty(device="cuda").forward_features(torch.empty(1, 1, 64, 64, device="cuda"))
        assert operators["dual_gate"] == gates
        # and one adds the pyramid's map to the high branch
        assert operators["upsample_add_act"] == kinds[ParallelBasicBlock] + fusions + 1
