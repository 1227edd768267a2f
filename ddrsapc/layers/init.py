"""Weight initialisation shared by all networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.trunc_normal_,
}


class SkipRandomInit(TorchFunctionMode):
    """Context in which networks are built without drawing random numbers, for weights that are loaded at once.

    The values of such parameters are arbitrary until then; on the meta device it saves most of the time.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def init_weights(module: nn.Module) -> None:
    """Initialise one module in place; use as `model.apply(init_weights)`.

    Convolutions: He normal by fan-out, as in DDRNet (arXiv 2101.06085); linear layers: truncated
    normal of standard deviation 0.02, as in ViT; biases zero. Norms keep PyTorch's one and zero.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def init_classifier(conv: nn.Conv2d) -> None:
    """Initialise a final convolution in place: logits of the features' own scale, no class preferred.

    He's fan-out would give four classes ten times as much, and a tiny start slows training visibly.
    """
    nn.init.normal_(conv.weight, std=conv.in_channels**-0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
