"""The networks once more, as the papers state them: plain functions on the weights, independent of the modules."""

import pytest
import torch
import torch.nn.functional as F

import ddrsapc
from ddrsapc.layers import BatchNorm2d


class Weights(dict):
    """A state dict with the operations of the specification's notation."""

    def conv(self, key, x, stride=1):
        weight = self[f"{key}.weight"]
        return F.conv2d(x, weight, self.get(f"{key}.bias"), stride, weight.shape[-1] // 2)

    def bn(self, key, x):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self[f"{key}.{name}"] for name in names))

    def c(self, key, x, stride=1):
        """C(i,o,k,s)."""
        return self.bn(f"{key}.1", self.conv(f"{key}.0", x, stride))

    def shortcut(self, key, x, stride):
        return self.c(f"{key}.downsample", x, stride) if f"{key}.downsample.0.weight" in self else x

    def basic_block(self, key, x):
        out = self.bn(f"{key}.bn1", self.conv(f"{key}.conv1", x)).relu()
        out = self.bn(f"{key}.bn2", self.conv(f"{key}.conv2", out))
        return (out + self.shortcut(key, x, 1)).relu()

    def bottleneck(self, key, x, stride=1):
        out = self.bn(f"{key}.bn1", self.conv(f"{key}.conv1", x)).relu()
        out = self.bn(f"{key}.bn2", self.conv(f"{key}.conv2", out, stride)).relu()
        return self.bn(f"{key}.bn3", self.conv(f"{key}.conv3", out)) + self.shortcut(key, x, stride)

    def pbb(self, key, x, stride=1):
        """Parallel Basic Block without its final ReLU."""
        out = self.shortcut(key, x, stride)
        for i, factor in enumerate((1, 2, 4)):
            branch = F.avg_pool2d(x, factor)
            branch = self.bn(f"{key}.branches.{i}.1", self.conv(f"{key}.branches.{i}.0", branch, stride)).relu()
            branch = self.bn(f"{key}.branches.{i}.4", self.conv(f"{key}.branches.{i}.3", branch))
            out = out + up(branch, out)
        return out

    def layer(self, key, x, stride=1):
        return self.pbb(f"{key}.1", self.pbb(f"{key}.0", x, stride).relu())

    def dam(self, key, x_high, x_low, ratio):
        r_high, r_low = x_high.relu(), x_low.relu()
        maps = []
        for side, r in (("high", r_high), ("low", r_low)):
            hidden = self.c(f"{key}.attention_{side}", r).relu()
            maps.append(self.conv(f"{key}.attention_{side}.3", hidden).sigmoid())
        gate_high = maps[0] + (1 - up(maps[1], x_high))
        gate_low = maps[1] + (1 - up(maps[0], x_low))
        to_high = self.c(f"{key}.low_to_high", gate_low * r_low).relu()
        to_high = self.bn(f"{key}.low_to_high.4", self.conv(f"{key}.low_to_high.3", to_high))
        to_low = self.c(f"{key}.high_to_low", gate_high * r_high, 2).relu()
        to_low = self.bn(f"{key}.high_to_low.4", self.conv(f"{key}.high_to_low.3", to_low, ratio // 2))
        return x_high + up(to_high, x_high), x_low + to_low

    def dappm(self, key, x):
        pooled = [x, *(F.avg_pool2d(x, 2 * s + 1, s, s) for s in (2, 4, 8)), x.mean((2, 3), keepdim=True)]
        ys = []
        for i, p in enumerate(pooled):
            y = up(self.bn_relu_conv(f"{key}.scales.{i}", p, first=1), x)
            ys.append(self.bn_relu_conv(f"{key}.processes.{i - 1}", y + ys[-1]) if ys else y)
        return self.bn_relu_conv(f"{key}.compression", torch.cat(ys, 1)) + self.bn_relu_conv(f"{key}.shortcut", x)

    def bn_relu_conv(self, key, x, first=0):
        return self.conv(f"{key}.{first + 2}", self.bn(f"{key}.{first}", x).relu())

    def double_conv(self, key, x):
        return self.c(f"{key}.1", self.c(f"{key}.0", x).relu()).relu()


def up(x, y):
    return F.interpolate(x, y.shape[-2:], mode="bilinear", align_corners=False)


def dual_resolution(w, x, stem_stride):
    stem1 = w.c("encoder.stem1", x, stem_stride).relu()
    layer1 = w.layer("encoder.layer1", w.c("encoder.stem2", stem1, 2).relu()).relu()
    x = w.layer("encoder.layer2", layer1, 2).relu()
    x_high, x_low = w.dam("encoder.fusion3", w.layer("encoder.layer3_", x), w.layer("encoder.layer3", x, 2), 2)
    fusion3 = x_high
    x_high, x_low = w.layer("encoder.layer4_", x_high.relu()), w.layer("encoder.layer4", x_low.relu(), 2)
    x_high, x_low = w.dam("encoder.fusion4", x_high, x_low, 4)
    x_high = w.bottleneck("encoder.layer5_", x_high.relu())
    x_low = w.bottleneck("encoder.layer5", x_low.relu(), 2)
    return stem1, layer1, fusion3, x_high + up(w.dappm("encoder.spp", x_low), x_high)


def head(w, key, x):
    x = w.conv(f"{key}.conv", w.bn(f"{key}.bn1", x).relu())
    return w.conv(f"{key}.classifier", w.bn(f"{key}.bn2", x).relu())


def ddr_sapc(w, x):
    return up(head(w, "head", dual_resolution(w, x, 2)[-1]), x)


def ddr_sapc_u(w, x):
    skip1, skip2, _, x = dual_resolution(w, x, 1)
    x = F.conv_transpose2d(x, w["decoder.up1.weight"], w["decoder.up1.bias"], 2)
    x = w.basic_block("decoder.block1.0", torch.cat((x, skip2), 1))
    x = F.conv_transpose2d(x, w["decoder.up2.weight"], w["decoder.up2.bias"], 2)
    x = w.basic_block("decoder.block2.0", torch.cat((x, skip1), 1))
    return w.conv("head", x)


def unet(w, x):
    levels = []
    for i in range(5):
        x = w.double_conv(f"encoders.{i}", F.max_pool2d(x, 2) if levels else x)
        levels.append(x)
    for i in range(4):
        x = F.conv_transpose2d(x, w[f"ups.{i}.weight"], w[f"ups.{i}.bias"], 2)
        x = w.double_conv(f"decoders.{i}", torch.cat((x, levels[3 - i]), 1))
    return w.conv("head", x)


def unetpp(w, x):
    nodes = {}
    for i in range(5):
        nodes[i, 0] = x = w.double_conv(f"encoders.{i}", F.max_pool2d(x, 2) if i else x)
    for j in range(1, 5):
        for i in range(5 - j):
            below = F.interpolate(nodes[i + 1, j - 1], scale_factor=2, mode="bilinear", align_corners=True)
            left = [nodes[i, k] for k in range(j)]
            nodes[i, j] = w.double_conv(f"nodes.x{i}_{j}", torch.cat((*left, below), 1))
    return w.conv("head", nodes[0, 4])


@pytest.mark.parametrize("specification", [ddr_sapc, ddr_sapc_u, unet, unetpp], ids=lambda function: function.__name__)
def test_equals_the_specification(specification):
    model = ddrsapc.create_model(specification.__name__, width=8, aux_head=specification in (ddr_sapc, ddr_sapc_u))
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.weight, 0.4, 0.9)
            torch.nn.init.normal_(module.bias, std=0.2)
    model = model.double().eval()
    weights = Weights(model.state_dict())
    x = torch.randn(2, 1, 128, 256, dtype=torch.float64)
    actual = model(x)
    assert actual.std() > 1e-2
    torch.testing.assert_close(actual, specification(weights, x))
    if model.aux_head is not None:
        fusion3 = dual_resolution(weights, x, 1 if specification is ddr_sapc_u else 2)[2]
        torch.testing.assert_close(model.aux_head(model.forward_features(x)[2]), head(weights, "aux_head", fusion3))
