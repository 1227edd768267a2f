"""Convolution + batch norm (+ ReLU): the `C(i, o, k, s)` of every network here."""

from __future__ import annotations

from torch import nn

from ddrsapc.layers.norm import BatchNorm2d


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, bias: bool = False
) -> nn.Sequential:
    """Convolution with padding `kernel_size // 2`, then batch norm.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
    return nn.Sequential(conv, BatchNorm2d(out_channels))


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, bias: bool = False
) -> nn.Sequential:
    """`conv_bn` followed by ReLU."""
    return conv_bn(in_channels, out_channels, kernel_size, stride, bias=bias).append(nn.ReLU(inplace=True))
