"""The kernels compiled for GPUs that are not there: what the interpreter lets pass, registers, width of loads."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from ddrsapc.kernels.layout import MAX_CLASSES, MAX_FACTOR, Ratio  # noqa: E402
from ddrsapc.kernels.triton import (  # noqa: E402
    dual_gate,
    ohem_cross_entropy,
    ohem_kernels,
    upsample_add_act,
    upsample_argmax,
)
from tests.kernels.offline import compiled_for  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
CAPABILITIES = [80, 90, 100, 120]
NHWC, NCHW = torch.channels_last, torch.contiguous_format
PRIMARY = (torch.bfloat16, NHWC)
OTHERS = [(torch.float16, NHWC), (torch.bfloat16, NCHW), (torch.float32, NCHW), (torch.float64, NCHW)]


def maps(dtype, layout, *shapes):
    return [torch.empty(4, *shape, dtype=dtype, device="meta", memory_format=layout) for shape in shapes]


def of_upsample_add_act(dtype, layout):
    x, half, quarter = maps(dtype, layout, (64, 128, 128), (64, 64, 64), (64, 32, 32))
    upsample_add_act.forward(x, [half, quarter, x], [(2, 2), (4, 4), (1, 1)], relu=True)
    upsample_add_act.backward(x, x, [(2, 2), (4, 4)])
    upsample_add_act.forward(x, [half], [(2, 2)], relu=False)
    upsample_add_act.backward(x, None, [(2, 2)])


def of_dual_gate(dtype, layout):
    high, low = maps(dtype, layout, (64, 128, 128), (128, 64, 64))
    a_high, a_low = maps(dtype, NCHW, (1, 128, 128), (1, 64, 64))
    for x, own, other, down in ((high, a_high, a_low, False), (low, a_low, a_high, True)):
        dual_gate.forward(x, own, other, Ratio(2, 2, down))
        dual_gate.backward(x, x, own, other, Ratio(2, 2, down))


def of_ohem_cross_entropy(dtype, layout):
    target = torch.empty(4, 512, 512, dtype=torch.long, device="meta")
    settings = {"threshold": 0.7, "min_kept": 0.05, "ignore_index": 255}
    for factor in (1, 8):
        (logits,) = maps(dtype, layout, (4, 512 // factor, 512 // factor))
        for weight in (None, torch.empty(4, device="meta")):
            saved = ohem_cross_entropy.forward(logits, target, weight, (factor, factor), **settings)
            ohem_cross_entropy.backward(saved[0], logits, target, weight, *saved[1:], (factor, factor))


def of_upsample_argmax(dtype, layout):
    for factor in (1, 8):
        upsample_argmax.forward(*maps(dtype, layout, (4, 512 // factor, 512 // factor)), (factor, factor))


# that a thread may use, in channels_last and in NCHW: what they used in November 2026, and up to 8 more
REGISTERS = {
    ("upsample_add_act", "forward_kernel"): (56, 136),
    ("upsample_add_act", "backward_kernel"): (72, 100),
    ("dual_gate", "forward_kernel"): (36, 48),
    ("dual_gate", "backward_kernel"): (40, 64),
    ("dual_gate", "gather_kernel"): (56, 72),
    ("ohem_kernels", "loss_kernel"): (80, 136),
    ("ohem_kernels", "digit_kernel"): (64, 64),
    ("ohem_kernels", "sum_kernel"): (48, 40),
    ("ohem_kernels", "finish_kernel"): (48, 45),
    ("ohem_kernels", "backward_kernel"): (56, 68),
    ("upsample_argmax", "forward_kernel"): (68, 119),
}
# bytes of the narrowest and of the widest load from memory, of bfloat16 in channels_last without factors of 8
LOADS = {
    ("upsample_add_act", "forward_kernel"): (16, 16),
    ("upsample_add_act", "backward_kernel"): (8, 8),
    ("dual_gate", "forward_kernel"): (2, 16),  # attention maps have one channel
    ("dual_gate", "backward_kernel"): (2, 16),
    ("ohem_kernels", "loss_kernel"): (8, 16),  # the logits of four classes, labels of two pixels
    ("ohem_kernels", "backward_kernel"): (4, 16),  # the numbers that the whole grid reads
    ("upsample_argmax", "forward_kernel"): (8, 8),
}
KERNELS = {  # what launches a kernel's specialisations, and dtypes that take it
    "upsample_add_act": (of_upsample_add_act, True),
    "dual_gate": (of_dual_gate, True),
    "ohem_cross_entropy": (of_ohem_cross_entropy, False),
    "upsample_argmax": (of_upsample_argmax, False),
}
CASES = [
    (name, *case)
    for name, (_, takes_float64) in KERNELS.items()
    for case in [(*PRIMARY, capability) for capability in CAPABILITIES] + [(*other, 90) for other in OTHERS]
    if takes_float64 or case[0] != torch.float64
]


def specialisations(name, dtype, layout, capability):
    """The different ones that the launchers start."""
    with compiled_for(capability) as found:
        KERNELS[name][0](dtype, layout)
    return found


def resources(binary, path):
    """(registers, bytes of stack, bytes of local memory) per thread."""
    path.write_bytes(binary)
    dump = subprocess.run([CUOBJDUMP, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", dump)
    return tuple(map(int, found.groups()))


def widths(ptx):
    """Bytes of the loads from memory."""
    found = re.findall(r"ld\.global(?:\.\w+?)*?(?:\.v(\d))?\.b(\d+)", ptx)
    return sorted(int(vector or 1) * int(bits) // 8 for vector, bits in found)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "layout", "capability"), CASES)
def test_compiles_without_spills_to_few_registers_and_wide_loads(
    name, dtype, layout, capability, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel in specialisations(name, dtype, layout, capability):
        registers, stack, local = resources(kernel.asm["cubin"], tmp_path / "kernel.cubin")
        assert (stack, local) == (0, 0), kernel
        assert registers <= REGISTERS[kernel.module, kernel.name][layout == NCHW], kernel
        expected = LOADS.get((kernel.module, kernel.name))
        if (dtype, layout) == PRIMARY and expected and kernel.constants.get("FACTOR_Y", 1) < 8:
            found = widths(kernel.asm["ptx"])
            assert (found[0], found[-1]) == expected, kernel


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "layout"), [PRIMARY, (torch.float32, NCHW)])
def test_the_most_classes_by_the_largest_factor_do_not_spill(dtype, layout, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = torch.empty(4, 512, 512, dtype=torch.long, device="meta")
    (logits,) = maps(dtype, layout, (MAX_CLASSES, 512 // MAX_FACTOR, 512 // MAX_FACTOR))
    factors = (MAX_FACTOR, MAX_FACTOR)
    with compiled_for(90) as found:
        saved = ohem_cross_entropy.forward(
            logits, target, None, factors, threshold=0.7, min_kept=0.05, ignore_index=255
        )
        ohem_cross_entropy.backward(saved[0], logits, target, None, *saved[1:], factors)
        upsample_argmax.forward(logits, factors)
    assert {"loss_kernel", "backward_kernel", "forward_kernel"} <= {kernel.name for kernel in found}
    for kernel in found:
        assert resources(kernel.asm["cubin"], tmp_path / "kernel.cubin")[1:] == (0, 0), kernel


@pytest.mark.slow
def test_all_kernels_are_compiled():
    names = {(kernel.module, kernel.name) for name in KERNELS for kernel in specialisations(name, *PRIMARY, 90)}
    modules = (dual_gate, ohem_kernels, upsample_add_act, upsample_argmax)
    assert names == {
        (module.__name__.rpartition(".")[2], name)
        for module in modules
        for name in module.__all__
        if name.endswith("_kernel")
    }


def test_the_fraction_to_keep_is_not_rounded_to_float32():
    kernels = (ohem_kernels.digit_kernel, ohem_kernels.sum_kernel, ohem_kernels.finish_kernel)
    types = {p.annotation_type for kernel in kernels for p in kernel.params if p.name == "min_kept"}
    assert types == {"fp64"}
