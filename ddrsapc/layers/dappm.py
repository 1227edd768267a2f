"""Deep Aggregation Pyramid Pooling Module of DDRNet (arXiv 2101.06085, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddrsapc.layers.norm import BatchNorm2d
from ddrsapc.layers.resize import resize


class DAPPM(nn.Module):
    """Context at five scales, each fused into the next: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        in_channels: channels of the input, a pre-activation.
        branch_channels: channels of each of the five scales.
        out_channels: channels of the output, a pre-activation.
    """

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        poolings = (
            nn.Identity(),
            nn.AvgPool2d(5, 2, 2),
            nn.AvgPool2d(9, 4, 4),
            nn.AvgPool2d(17, 8, 8),
            nn.AdaptiveAvgPool2d(1),
        )
        self.scales = nn.ModuleList(
            nn.Sequential(pooling, *_bn_relu_conv(in_channels, branch_channels, 1)) for pooling in poolings
        )
        self.processes = nn.ModuleList(_bn_relu_conv(branch_channels, branch_channels, 3) for _ in poolings[1:])
        self.compression = _bn_relu_conv(5 * branch_channels, out_channels, 1)
        self.shortcut = _bn_relu_conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the pyramid's context to a projection of the input.

        Raises:
            ValueError: in training with a batch of one, whose global average has no variance to normalise by.
        """
        self.check_batch(x.shape[0])
        size = x.shape[-2:]
        outputs = [self.scales[0](x)]  # (N, branch_channels, H, W) each
        for scale, process in zip(self.scales[1:], self.processes, strict=True):
            # upsample_add_act compares sizes, which would bind an exported program to those that it was traced with
            outputs.append(process(resize(scale(x), size) + outputs[-1]))
        out: Tensor = self.compression(torch.cat(outputs, dim=1)) + self.shortcut(x)
        return out  # (N, out_channels, H, W)

    def check_batch(self, batch: int) -> None:
        """Raise ValueError for a training batch of one, which the global-average branch cannot normalise."""
        global_average = self.scales[-1]
        assert isinstance(global_average, nn.Sequential)
        norm = global_average[1]
        by_the_batch = isinstance(norm, nn.BatchNorm2d) and (norm.training or not norm.track_running_stats)
        if by_the_batch and batch == 1:  # other norms, SyncBatchNorm among them, may manage
            raise ValueError(
                "a training batch of 1 cannot pass DAPPM: its global-average branch has one value per channel, "
                "which batch norm cannot normalise. Use a batch of 2 or more (drop_last=True in the DataLoader), "
                "or model.eval()"
            )


def _bn_relu_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv)
