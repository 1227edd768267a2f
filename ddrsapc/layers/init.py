"""Weight initialisation shared by all networks."""

from __future__ import annotations

from torch import nn


def init_weights(module: nn.Module) -> None:
    """Initialise one module in place; use as `model.apply(init_weights)`.

    Convolutions: He normal by fan-out, as in DDRNet (arXiv 2101.06085); linear layers: truncated
    normal of standard deviation 0.02, as in ViT; biases zero. Norms keep PyTorch's one and zero.
    """
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # there is nothing to initialise, and random numbers for it would take seconds
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
    if conv.weight.is_meta:
        return
    nn.init.normal_(conv.weight, std=conv.in_channels**-0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
