import pytest
import torch
import torch.nn.functional as F

from ddrsapc.layers import BasicBlock, Bottleneck, ParallelBasicBlock, Stage, residual_stage


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck, ParallelBasicBlock])
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 4), 2)])
@pytest.mark.parametrize("size", [(1, 1), (7, 4), (8, 8)])
def test_shapes(block, channels, stride, size):
    out = block(*channels, stride).eval()(torch.randn(1, channels[0], *size))
    assert out.shape == (1, channels[1] * block.expansion, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck, ParallelBasicBlock])
def test_shortcut_is_a_projection_only_where_the_shape_changes(block):
    expansion = block.expansion
    assert block(4 * expansion, 4).downsample is None
    assert block(4 * expansion, 4, 2).downsample is not None
    assert block(3, 4).downsample is not None


def test_basic_block_equals_its_definition():
    block = BasicBlock(3, 5, 2)
    x = torch.randn(2, 3, 8, 8)
    branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), F.relu(branch + block.downsample(x)))


def test_bottleneck_leaves_its_relu_to_the_consumer():
    x = torch.randn(2, 4, 8, 8)
    assert Bottleneck(4, 4)(x).min() < 0
    assert Bottleneck(4, 4, act=True)(x).min() >= 0


@pytest.mark.parametrize("block", [BasicBlock, ParallelBasicBlock])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_stage_strides_once_and_ends_in_a_pre_activation(block, depth):
    stage = residual_stage(block, 4, 8, 2, depth=depth)
    assert isinstance(stage, Stage)
    assert [b.act for b in stage] == [True] * (depth - 1) + [False]
    out = stage(torch.randn(2, 4, 16, 16))
    assert out.shape == (2, 8, 8, 8)
    assert out.min() < 0
