import copy

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim, export

from ddrsapc.layers import BasicBlock, ParallelBasicBlock
from ddrsapc.profile import macs


def by_the_text(block: ParallelBasicBlock, x: torch.Tensor) -> torch.Tensor:
    """The paper's sentence, written out for sizes that 4 divides."""
    first = block.branches[0](x)
    second = F.interpolate(block.branches[1](F.avg_pool2d(x, 2)), scale_factor=2, mode="bilinear")
    third = F.interpolate(block.branches[2](F.avg_pool2d(x, 4)), scale_factor=4, mode="bilinear")
    shortcut = x if block.downsample is None else block.downsample(x)
    return F.relu(first + second + third + shortcut)


@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 12), 1), ((8, 8), 2), ((8, 16), 2)])
def test_equals_the_paper_where_the_sizes_divide(channels, stride):
    block = ParallelBasicBlock(*channels, stride)
    x = torch.randn(2, channels[0], 16, 24)
    torch.testing.assert_close(block(x), by_the_text(block, x))


def test_reduces_to_basic_block_when_the_parallel_branches_are_silent():
    parallel, basic = ParallelBasicBlock(6, 6).eval(), BasicBlock(6, 6).eval()
    for branch in parallel.branches[1:]:
        torch.nn.init.zeros_(branch[4].weight)
    for index, name in enumerate(("conv1", "bn1", None, "conv2", "bn2")):
        if name:
            getattr(basic, name).load_state_dict(parallel.branches[0][index].state_dict())
    x = torch.randn(2, 6, 9, 7)
    torch.testing.assert_close(parallel(x), basic(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 4), (9, 33), (16, 16)])
def test_any_size_gives_basic_blocks_shape_and_gradients(size, stride):
    block = ParallelBasicBlock(3, 5, stride).eval()
    x = torch.randn(2, 3, *size, requires_grad=True)
    out = block(x)
    assert out.shape == BasicBlock(3, 5, stride).eval()(x).shape == (2, 5, -(-size[0] // stride), -(-size[1] // stride))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_odd_maps_are_pooled_on_the_replicated_edge():
    block = ParallelBasicBlock(2, 2).eval()
    seen = {}
    for factor, branch in zip(block.factors, block.branches, strict=True):
        branch.register_forward_pre_hook(lambda _, args, factor=factor: seen.update({factor: args[0]}))
    x = torch.arange(5.0).expand(1, 2, 5, 5)
    block(x)
    assert seen[2].shape == (1, 2, 3, 3)
    assert seen[2][0, 0, 0].tolist() == [0.5, 2.5, 4.0]
    assert seen[4].shape == (1, 2, 2, 2)
    assert seen[4][0, 0, 0].tolist() == [1.5, 4.0]


def test_cost_is_21_16ths_of_a_basic_block():
    shape = (1, 16, 64, 64)
    assert macs(ParallelBasicBlock(16, 16), shape) * 16 == macs(BasicBlock(16, 16), shape) * 21


def test_without_act_the_consumer_applies_relu():
    block = ParallelBasicBlock(4, 4, act=False)
    activated = copy.deepcopy(block)
    activated.act = True
    x = torch.randn(2, 4, 8, 8)
    raw = block(x)
    assert raw.min() < 0
    torch.testing.assert_close(F.relu(raw), activated(x))


def test_custom_shortcut_is_used():
    downsample = torch.nn.Conv2d(4, 8, 1, 2)
    block = ParallelBasicBlock(4, 8, 2, downsample)
    assert block.downsample is downsample
    assert block(torch.randn(2, 4, 8, 8)).shape == (2, 8, 4, 4)


def test_exports_with_dynamic_sizes():
    block = ParallelBasicBlock(3, 4, 2).eval()
    shapes = {2: 8 * Dim("h", min=2, max=64), 3: 8 * Dim("w", min=2, max=64)}
    program = export(block, (torch.randn(1, 3, 24, 32),), dynamic_shapes=(shapes,)).module()
    x = torch.randn(1, 3, 64, 40)
    torch.testing.assert_close(program(x), block(x))


def test_a_shortcut_of_another_shape_is_named():
    block = ParallelBasicBlock(4, 8, 2, torch.nn.Conv2d(4, 8, 1))
    with pytest.raises(ValueError, match=r"the shortcut gives \(2, 8, 16, 16\), the branches \(2, 8, 8, 8\)"):
        block(torch.randn(2, 4, 16, 16))
