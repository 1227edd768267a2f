"""The networks. Importing this package registers them."""

from ddrsapc.models.base import FeatureInfo, SegmentationModel, SegmentationOutput
from ddrsapc.models.ddr_sapc import DDRSAPC, DDRSAPCU, ddr_sapc, ddr_sapc_u, ddr_sapc_u_s
from ddrsapc.models.ddrnet import DDRNet, ddrnet_23, ddrnet_23_slim
from ddrsapc.models.input_config import InputConfig
from ddrsapc.models.transunet import TransUNet, transunet
from ddrsapc.models.unet import UNet, unet
from ddrsapc.models.unetpp import UNetPlusPlus, unetpp

__all__ = [
    "DDRSAPC",
    "DDRSAPCU",
    "DDRNet",
    "FeatureInfo",
    "InputConfig",
    "SegmentationModel",
    "SegmentationOutput",
    "TransUNet",
    "UNet",
    "UNetPlusPlus",
    "ddr_sapc",
    "ddr_sapc_u",
    "ddr_sapc_u_s",
    "ddrnet_23",
    "ddrnet_23_slim",
    "transunet",
    "unet",
    "unetpp",
]
