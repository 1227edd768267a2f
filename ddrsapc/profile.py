"""Size and cost of networks, counted without computing: everything runs on the meta device."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

__all__ = ["LayerProfile", "count_parameters", "format_layers", "layers", "macs", "table1_macs"]


@dataclass(frozen=True)
class LayerProfile:
    """One layer of a network."""

    name: str
    kind: str
    """Class name."""
    output_shape: tuple[int, ...]
    parameters: int
    """Parameters of the layer itself, without its children's."""
    macs: int
    """Multiply-accumulates."""
    table1_macs: int
    """The same as Table I of the DDR-SAPC-U paper counts them, see `table1_macs`."""


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trainable or not; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, input_shape: Sequence[int] | None = None) -> int:
    """Multiply-accumulates of one forward pass in evaluation: convolutions, linear layers, attention products.

    Args:
        model: the network; it is not changed.
        input_shape: (N, C, H, W); None: (1, model.in_chans, 512, 512).
    """
    return sum(layer.macs for layer in layers(model, input_shape))


def table1_macs(model: nn.Module, input_shape: Sequence[int] | None = None) -> int:
    """What Table I of the DDR-SAPC-U paper calls GFLOPs (times 1e9).

    Multiply-accumulates of convolutions and linear layers, plus one per output element where a
    convolution has a bias; a transposed convolution counts as output elements x (in_channels x
    kernel area + bias), which is more than it costs. Attention products are not counted.

    Args:
        model: the network; it is not changed.
        input_shape: (N, C, H, W); None: (1, model.in_chans, 512, 512).
    """
    return sum(layer.table1_macs for layer in layers(model, input_shape))


def layers(model: nn.Module, input_shape: Sequence[int] | None = None) -> list[LayerProfile]:
    """One entry per layer that has parameters or multiply-accumulates of its own, in the order of execution.

    Args:
        model: the network; it is not changed.
        input_shape: (N, C, H, W); None: (1, model.in_chans, 512, 512).
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  (slow to import)

    model = _on_meta(model).eval()
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, _: object, output: object) -> None:
        first = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(first, Tensor):
            shapes[module] = tuple(first.shape)
            calls[module] += 1

    for module in names:
        module._forward_hooks.clear()  # of the copy: the user's may want numbers
        module._forward_pre_hooks.clear()
        module.register_forward_hook(record)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(_meta_input(model, input_shape))
    root = type(model).__name__
    total = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}

    def cumulative(module: nn.Module) -> int:
        name = names[module]
        key = f"{root}.{name}" if name else root
        # a container that is not called itself, as a ModuleList, has no count of its own
        return total[key] if key in total else sum(map(cumulative, module.children()))

    rows = []
    for module, shape in shapes.items():
        own = cumulative(module) - sum(map(cumulative, module.children()))
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if parameters or own:
            table1 = calls[module] * _table1(module, shape)
            rows.append(LayerProfile(names[module], type(module).__name__, shape, parameters, own, table1))
    return rows


def format_layers(rows: Sequence[LayerProfile]) -> str:
    """The rows of `layers` as an aligned text table with a line of totals."""
    table = [("layer", "kind", "output", "parameters", "MACs (M)", "Table I (M)")]
    for row in rows:
        shape = " x ".join(map(str, row.output_shape))
        counts = f"{row.parameters:,}", f"{row.macs / 1e6:,.2f}", f"{row.table1_macs / 1e6:,.2f}"
        table.append((row.name or "(root)", row.kind, shape, *counts))
    sums = (sum(row.parameters for row in rows), sum(row.macs for row in rows), sum(row.table1_macs for row in rows))
    table.append(("total", "", "", f"{sums[0]:,}", f"{sums[1] / 1e6:,.2f}", f"{sums[2] / 1e6:,.2f}"))
    widths = [max(len(line[column]) for line in table) for column in range(6)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _table1(module: nn.Module, output_shape: tuple[int, ...]) -> int:
    outputs = torch.Size(output_shape).numel()
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        kernel_area = module.kernel_size[0] * module.kernel_size[1]
        return outputs * (module.in_channels // module.groups * kernel_area + (module.bias is not None))
    if isinstance(module, nn.Linear):
        return outputs * module.in_features
    return 0


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the network without its numbers."""
    memo: dict[int, object] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _meta_input(model: nn.Module, input_shape: Sequence[int] | None) -> Tensor:
    if input_shape is None:
        in_chans = getattr(model, "in_chans", None)
        if in_chans is None:
            raise ValueError(f"{type(model).__name__} has no in_chans: give input_shape=(N, C, H, W)")
        input_shape = (1, in_chans, 512, 512)
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    return torch.empty(tuple(input_shape), dtype=dtype, device="meta")
