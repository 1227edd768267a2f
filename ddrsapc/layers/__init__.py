"""Layers of the networks, each usable in other networks."""

from ddrsapc.layers.bilateral_fusion import BilateralFusion
from ddrsapc.layers.blocks import BasicBlock, Bottleneck, ResidualBlock, residual_stage
from ddrsapc.layers.conv import conv_bn, conv_bn_relu
from ddrsapc.layers.dappm import DAPPM
from ddrsapc.layers.dual_attention import DualAttentionModule
from ddrsapc.layers.head import SegmentationHead
from ddrsapc.layers.init import init_classifier, init_weights
from ddrsapc.layers.norm import BatchNorm2d, frozen_statistics
from ddrsapc.layers.parallel_block import ParallelBasicBlock
from ddrsapc.layers.resize import pad_to_multiple, resize
from ddrsapc.layers.stage import Stage

__all__ = [
    "DAPPM",
    "BasicBlock",
    "BatchNorm2d",
    "BilateralFusion",
    "Bottleneck",
    "DualAttentionModule",
    "ParallelBasicBlock",
    "ResidualBlock",
    "SegmentationHead",
    "Stage",
    "conv_bn",
    "conv_bn_relu",
    "frozen_statistics",
    "init_classifier",
    "init_weights",
    "pad_to_multiple",
    "residual_stage",
    "resize",
]
