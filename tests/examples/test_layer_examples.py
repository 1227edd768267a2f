"""The drop-in examples run, and do what they say."""

import torch

from ddrsapc.layers import BasicBlock, ParallelBasicBlock


def test_parallel_blocks_in_a_resnet_in_place_of_basic_blocks(example):
    module = example("parallel_block_in_resnet")
    for block in (BasicBlock, ParallelBasicBlock):
        model = module.ResNet(block, width=8, num_classes=3)
        model(torch.randn(2, 1, 65, 47)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    assert sum(isinstance(m, ParallelBasicBlock) for m in model.modules()) == 8


def test_a_finished_resnet_keeps_its_output_and_learns_on(example):
    module = example("parallel_block_in_resnet")
    model = module.ResNet(BasicBlock, width=8).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    x = torch.randn(2, 1, 65, 47)
    before = model(x)
    assert module.use_parallel_blocks(model, BasicBlock) == 8
    assert not any(isinstance(m, BasicBlock) for m in model.modules())
    torch.testing.assert_close(model(x), before)
    model(x).sum().backward()
    silent = model.get_parameter("layer1.0.branches.2.4.weight")
    assert silent.grad.abs().sum() > 0


def test_a_finished_resnet_keeps_its_precision(example):
    module = example("parallel_block_in_resnet")
    model = module.ResNet(BasicBlock, width=8).double().eval()
    module.use_parallel_blocks(model, BasicBlock)
    assert model(torch.randn(1, 1, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_dual_attention_between_the_branches_of_another_network(example):
    module = example("dual_attention_between_branches")
    model = module.TwoPathNet(num_classes=3)
    x = torch.randn(2, 1, 75, 101)
    assert model(x).shape == (2, 3, 75, 101)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_both_run_as_scripts(example, capsys):
    example("parallel_block_in_resnet").main()
    assert "8 blocks replaced in the finished network; its output changed by at most 0.0e+00" in capsys.readouterr().out
    example("dual_attention_between_branches").main()
    out = capsys.readouterr().out
    first, *_, last = (float(line.split()[-1]) for line in out.splitlines() if line.startswith("step"))
    assert last < first / 10
