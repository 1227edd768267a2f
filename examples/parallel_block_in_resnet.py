"""Parallel Basic Blocks in a ResNet.

`ParallelBasicBlock(in, out, stride, downsample)` has the signature and the `expansion` of a ResNet's
BasicBlock, so it goes wherever one goes: into a network while it is built, or into a finished one
(torchvision's or timm's resnet18 and resnet34) in place of its blocks.

    python examples/parallel_block_in_resnet.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddrsapc.layers import BasicBlock, ParallelBasicBlock, ResidualBlock
from ddrsapc.profile import count_parameters, macs


class ResNet(nn.Module):
    """A ResNet-18 for CT slices: (N, 1, H, W) -> (N, num_classes)."""

    def __init__(self, block: ResidualBlock, *, num_classes: int = 2, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layer1 = nn.Sequential(block(width, width), block(width, width))
        self.layer2 = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width))
        self.layer3 = nn.Sequential(block(2 * width, 4 * width, 2), block(4 * width, 4 * width))
        self.layer4 = nn.Sequential(block(4 * width, 8 * width, 2), block(8 * width, 8 * width))
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch of slices."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))  # (N, 8 * width, H / 32, W / 32)
        x = self.fc(x.mean((2, 3)))  # (N, num_classes)
        return x


def use_parallel_blocks(model: nn.Module, basic_block: type[nn.Module]) -> int:
    """Replace every `basic_block` of a finished network in place; returns how many there were.

    The first branch takes over the old block's convolutions and norms, the shortcut stays the old one.
    The two new branches start silent (their last norm scales by zero), so that the network computes
    what it did before and learns from there.
    """
    blocks = [(name, module) for name, module in model.named_modules() if isinstance(module, basic_block)]
    for name, old in blocks:
        conv1, conv2 = old.get_submodule("conv1"), old.get_submodule("conv2")
        assert isinstance(conv1, nn.Conv2d)
        assert isinstance(conv2, nn.Conv2d)
        downsample = getattr(old, "downsample", None)
        new = ParallelBasicBlock(conv1.in_channels, conv2.out_channels, conv1.stride[0], downsample)
        first, *others = (new.branches[i] for i in range(3))
        assert isinstance(first, nn.Sequential)
        for index, part in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2")):
            first[index].load_state_dict(old.get_submodule(part).state_dict())
        for branch in others:
            nn.init.zeros_(branch.get_parameter("4.weight"))
        model.set_submodule(name, new.to(conv1.weight).train(old.training))
    return len(blocks)


def main() -> None:
    """Build both ways and compare."""
    basic, parallel = ResNet(BasicBlock), ResNet(ParallelBasicBlock)
    for name, model in (("BasicBlock", basic), ("ParallelBasicBlock", parallel)):
        cost = macs(model, (1, 1, 224, 224)) / 1e9
        print(f"ResNet-18 with {name}: {count_parameters(model) / 1e6:.2f} M parameters, {cost:.2f} GMACs")

    x = torch.randn(2, 1, 224, 224)
    basic.eval()
    with torch.inference_mode():
        before = basic(x)
        replaced = use_parallel_blocks(basic, BasicBlock)
        difference = (basic(x) - before).abs().max().item()
    print(f"{replaced} blocks replaced in the finished network; its output changed by at most {difference:.1e}")


if __name__ == "__main__":
    main()
