"""Networks of a small width."""

from torch import nn

import ddrsapc
from ddrsapc.layers.norm import BatchNorm2d
from ddrsapc.models import SegmentationModel

WIDTH = 8


def build(name: str, **kwargs) -> SegmentationModel:
    model = ddrsapc.create_model(name, width=WIDTH, **kwargs)
    assert isinstance(model, SegmentationModel)
    return model


def randomised(name: str, **kwargs) -> SegmentationModel:
    """An evaluation network whose batch norms have seen data, as a trained one's have."""
    model = build(name, **kwargs)
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    nn.init.normal_(model.get_submodule(model.classifier).weight, std=0.3)
    return model.eval()
