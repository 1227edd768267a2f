"""Segmentation head of DDRNet (arXiv 2101.06085, figure 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.layers.norm import BatchNorm2d


class SegmentationHead(nn.Module):
    """BN-ReLU-3x3, BN-ReLU-1x1: a pre-activation (N, in_channels, H, W) -> logits (N, num_classes, H, W)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the input's resolution."""
        x = self.conv(F.relu(self.bn1(x)))  # (N, channels, H, W)
        logits: Tensor = self.classifier(F.relu(self.bn2(x)))
        return logits
