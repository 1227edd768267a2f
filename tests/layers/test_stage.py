import torch
from torch import nn

from ddrsapc.layers import Stage


def test_runs_twice_only_when_checkpointing_a_training_step():
    runs = []
    stage = Stage(nn.Conv2d(1, 1, 1), nn.ReLU())
    stage[0].register_forward_hook(lambda *_: runs.append(1))
    x = torch.randn(1, 1, 4, 4)
    for grad_checkpointing, training, grad, expected in (
        (False, True, True, 1),
        (True, True, True, 2),
        (True, False, True, 1),
        (True, True, False, 1),
    ):
        runs.clear()
        stage.grad_checkpointing = grad_checkpointing
        stage.train(training)
        with torch.set_grad_enabled(grad):
            out = stage(x)
            if grad:
                out.sum().backward()
        assert len(runs) == expected


def test_state_dict_is_a_sequentials():
    assert Stage(nn.Conv2d(1, 1, 1)).state_dict().keys() == nn.Sequential(nn.Conv2d(1, 1, 1)).state_dict().keys()
