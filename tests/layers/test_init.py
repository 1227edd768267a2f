import torch
from torch import nn

from ddrsapc.layers import init_classifier, init_weights


def test_he_fan_out_and_zero_biases():
    conv = nn.Conv2d(64, 128, 3)
    init_weights(conv)
    assert abs(conv.weight.std().item() / (2 / (128 * 9)) ** 0.5 - 1) < 0.02
    assert not conv.bias.any()


def test_classifier_keeps_the_scale_of_its_features():
    conv = nn.Conv2d(256, 4, 1)
    init_classifier(conv)
    assert 0.8 < conv(torch.randn(8, 256, 16, 16)).std().item() < 1.2
    assert not conv.bias.any()
