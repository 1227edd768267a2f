"""A copy of a network that only predicts, faster."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ddrsapc.models.base import MIN_SIZE, SegmentationModel, SegmentationOutput

__all__ = ["optimize_for_inference"]

_GPU = "cuda"
_MAX_GRAPHS = 16
_WARM_UP = 3  # runs before a capture, as PyTorch's documentation has it


def optimize_for_inference(model: SegmentationModel) -> SegmentationModel:
    """A copy of a network for prediction: the same answers, in less time.

    In float32 on a CPU logits agree within 1e-4 of the largest; half precision and TF32 round more.

    Each batch norm that alone reads a convolution's output becomes part of the convolution, and the weights become
    channels-last, as then do all feature maps. On a GPU, where the network has to be before, cuDNN applies the ReLUs
    that follow a convolution in a sequence, if for random numbers it answers as PyTorch does, and the forward pass is
    recorded as a CUDA graph when a shape of input comes for the second time, and replayed from then on; up to 16 shapes
    share one pool of memory. A pass with gradients, under autocast or within another capture runs as ever, and so, with
    a warning, does one that cannot be recorded. A replay calls no hooks. For half precision convert the network before:
    `optimize_for_inference(model.half())`.

    The copy is in evaluation mode, takes no gradients for its weights and has no auxiliary head. Its weights are not to
    be replaced, and as it has other keys than the network it cannot be saved as one. One thread and one stream may use
    it at a time.

    Args:
        model: a network of `create_model` with its weights, in either mode; it stays as it is.

    Returns:
        A network of the same class and input_config, for `ddrsapc.inference.predict` and wherever the other was used.

    Raises:
        TypeError: if it is not one of ddrsapc's networks, or one that is wrapped.
        ValueError: if it is on the meta device, which holds no weights.
    """
    if not isinstance(model, SegmentationModel):
        raise TypeError(
            f"expected a network of ddrsapc, got {type(model).__name__}; optimize before torch.compile or wrapping"
        )
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("the network is on the meta device, which holds no weights; load them before")
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network.aux_head = None  # answers in training only
    _fold_batch_norms(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if next(network.parameters()).device.type == _GPU:
        _fuse_relus(network)
        network.forward = _GraphedForward(network)  # type: ignore[method-assign]
    return network


def _fold_batch_norms(network: SegmentationModel) -> None:
    """Make batch norms part of the convolutions before them, in place; those after something else stay."""
    folded = set()
    with torch.no_grad():
        for conv, norm in _foldable(network):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
                transpose=isinstance(conv, nn.ConvTranspose2d),
            )
            folded.add(norm)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in folded:
                setattr(parent, name, nn.Identity())


def _foldable(network: SegmentationModel) -> Iterator[tuple[nn.Conv2d | nn.ConvTranspose2d, _BatchNorm]]:
    """Convolutions and the batch norms that alone read their output, as a forward pass shows them.

    Names and order of modules would not do: a norm may stand before its convolution, and an output have two readers.
    """
    calls = _Calls()
    parameter = next(network.parameters())
    x = torch.zeros(1, network.in_chans, 2 * MIN_SIZE, 2 * MIN_SIZE, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad(), calls:
        features = network.forward_features(x)
        network.forward_head(features)
    uses = Counter(map(id, features))  # which are outputs of the network as well
    for _, inputs, _ in calls.made:
        uses.update(map(id, _tensors(inputs)))

    modules = list(network.modules())
    # no subclasses, which may use their weights in other ways
    convs = {
        id(m.weight): m
        for m in modules
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and type(m).__module__ == "torch.nn.modules.conv"
    }
    norms = {id(m.running_mean): m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None}
    sources = {
        id(output): convs.get(id(args[1]))
        for function, (args, _), output in calls.made
        if function in {F.conv2d, F.conv_transpose2d} and len(args) > 1
    }
    for function, (args, _), _ in calls.made:
        if function is F.batch_norm and len(args) > 1:
            conv, norm = sources.get(id(args[0])), norms.get(id(args[1]))
            if conv is None or norm is None:
                continue
            if uses[id(args[0])] == uses[id(conv.weight)] == uses[id(norm.running_mean)] == 1:
                yield conv, norm


def _fuse_relus(network: SegmentationModel) -> None:
    """Let convolutions in sequences end in the ReLU after them, in place."""
    for sequence in network.modules():
        if isinstance(sequence, nn.Sequential):
            steps = [(name, step) for name, step in sequence.named_children() if not isinstance(step, nn.Identity)]
            for (_, conv), (name, relu) in pairwise(steps):
                if type(conv) is nn.Conv2d and type(relu) is nn.ReLU and _fuses(conv):
                    conv.__class__ = _ConvReLU  # the same module, with another forward pass
                    setattr(sequence, name, nn.Identity())


def _fuses(conv: nn.Conv2d) -> bool:
    """Whether cuDNN takes this convolution, and answers as PyTorch does."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    x = torch.randn(2, conv.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.to(conv.weight, memory_format=torch.channels_last)
    with torch.no_grad():
        expected = F.relu(conv(x)).double()
        try:
            error = (_conv_relu(conv, x).double() - expected).norm()
        except RuntimeError:
            return False
    return bool(error <= 0.01 * expected.norm())  # half precision and TF32 round


def _conv_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *settings)  # type: ignore[arg-type]


class _ConvReLU(nn.Conv2d):
    """A convolution that ends in ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        # cuDNN's has no gradient, no autocast, and no shapes for compilation
        plain = torch.is_autocast_enabled(_GPU) or torch.compiler.is_compiling() or x.device.type != _GPU
        if not (plain or (torch.is_grad_enabled() and x.requires_grad)):
            try:
                return _conv_relu(self, x)
            except RuntimeError:  # refuses this size
                pass
        return F.relu(super().forward(x))


class _Calls(TorchFunctionMode):
    """Within the context, notes each PyTorch function that makes a tensor: function, inputs, output."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Callable[..., Any], tuple[tuple[Any, ...], Mapping[str, Any]], Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if output is None or _tensors(output):  # others ask for a shape or the like
            self.made.append((func, (args, kwargs or {}), output))  # keeps them alive, and so their ids apart
        return output


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class _GraphedForward:
    """The forward pass of a network on a GPU, replayed from a CUDA graph where one can be."""

    def __init__(self, network: SegmentationModel) -> None:
        self.network = network
        self._weights: tuple[int, ...] = ()
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Callable[[Tensor], Tensor] | None] = {}  # None: cannot be recorded
        self._pool: Any = None

    def __call__(self, x: Tensor) -> Tensor | SegmentationOutput:
        """Logits (N, num_classes, H, W) of (N, in_chans, H, W)."""
        if not self._may_replay(x):
            return self._plain(x)
        self._forget_other_weights()
        key = (x.shape, x.dtype, x.device)
        if key not in self._seen:
            self._seen.add(key)
            return self._plain(x)
        if key not in self._graphs and len(self._graphs) < _MAX_GRAPHS:
            self._graphs[key] = self._captured(x)
        replay = self._graphs.get(key)
        return self._plain(x) if replay is None else replay(x)

    def __getstate__(self) -> dict[str, Any]:
        """Without the graphs: a copy records its own."""
        return vars(self) | vars(_GraphedForward(self.network))

    def _plain(self, x: Tensor) -> Tensor | SegmentationOutput:
        return type(self.network).forward(self.network, x)

    def _may_replay(self, x: Tensor) -> bool:
        if not isinstance(x, Tensor) or not x.is_cuda or torch.compiler.is_compiling() or self.network.training:
            return False
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing():
            return False
        return not torch.is_grad_enabled() or not (
            x.requires_grad or any(parameter.requires_grad for parameter in self.network.parameters())
        )

    def _forget_other_weights(self) -> None:
        """Drop all graphs after `.to`, `.half` or `reset_classifier`, as they read the weights where they were."""
        names = (self.network.first_conv, self.network.classifier)
        weights = tuple(self.network.get_submodule(name).get_parameter("weight").data_ptr() for name in names)
        if weights != self._weights:
            self._weights = weights
            self._seen.clear()
            self._graphs.clear()
            self._pool = None

    def _captured(self, x: Tensor) -> Callable[[Tensor], Tensor] | None:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            return _capture(self.network, self._plain, x, self._pool)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            warnings.warn(f"no CUDA graph for input {tuple(x.shape)}, it runs without: {reason}", stacklevel=3)
            return None


def _capture(network: nn.Module, forward: Callable[[Tensor], Any], x: Tensor, pool: Any) -> Callable[[Tensor], Tensor]:
    """A CUDA graph of a forward pass over inputs like `x`, as a function that replays it."""
    current = torch.cuda.stream(torch.cuda.current_stream(x.device))  # restored where a capture fails
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(x.device), current:
        held = x.detach().clone()  # no inference tensor, which only inference mode could write to
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their algorithms before the capture
            for _ in range(_WARM_UP):
                forward(held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = forward(held)
    weights = [tensor.detach() for tensor in chain(network.parameters(), network.buffers())]

    def replay(x: Tensor, _: object = weights) -> Tensor:  # held, so that others cannot come to lie at their addresses
        held.copy_(x)
        graph.replay()
        return logits.clone()  # the next replay writes there again

    return replay
