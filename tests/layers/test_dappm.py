import pytest
import torch
import torch.nn.functional as F

from ddrsapc.layers import DAPPM


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (7, 9), (16, 16)])
def test_any_size(size):
    x = torch.randn(2, 6, *size, requires_grad=True)
    out = DAPPM(6, 3, 5).eval()(x)
    assert out.shape == (2, 5, *size)
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_equals_the_paper():
    module = DAPPM(6, 3, 5).eval()
    x = torch.randn(1, 6, 13, 20)
    pooled = [x, *(F.avg_pool2d(x, k, s, s) for k, s in ((5, 2), (9, 4), (17, 8))), x.mean((2, 3), keepdim=True)]
    ys = []
    for i, p in enumerate(pooled):
        y = F.interpolate(module.scales[i][1:](p), (13, 20), mode="bilinear")
        ys.append(y if i == 0 else module.processes[i - 1](y + ys[-1]))
    torch.testing.assert_close(module(x), module.compression(torch.cat(ys, 1)) + module.shortcut(x))


def test_training_batch_of_one():
    module = DAPPM(4, 2, 4)
    x = torch.randn(1, 4, 32, 32)
    with pytest.raises(ValueError, match="batch of 1 cannot pass DAPPM"):
        module(x)
    module.eval()(x)
    module.train()
    module.scales[-1][1].eval()  # a frozen norm can take it
    module(x)
    module.scales[-1][1].track_running_stats = False  # unless it normalises by the batch all the same
    module.scales[-1][1].running_mean = module.scales[-1][1].running_var = None
    with pytest.raises(ValueError, match="batch of 1 cannot pass DAPPM"):
        module(x)
    module.train()
    module.scales[-1][1] = torch.nn.GroupNorm(2, 4)
    module(x)
