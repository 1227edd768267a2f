import copy

import pytest
import torch
from torch import nn

from ddrsapc.layers import BatchNorm2d, frozen_statistics


@pytest.mark.parametrize(
    "convert",
    [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.float16), lambda m: m.to("cpu", torch.bfloat16)],
)
def test_stays_float32_and_exact(convert):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), BatchNorm2d(2))
    model[1].running_var.fill_(1e6 + 1)  # overflows float16
    convert(model)
    assert model[0].weight.dtype in (torch.float16, torch.bfloat16)
    assert {t.dtype for t in model[1].state_dict().values()} == {torch.float32, torch.int64}
    assert model[1].running_var.tolist() == [1e6 + 1] * 2


def test_other_conversions_work():
    norm = BatchNorm2d(2)
    assert norm.double().weight.dtype == torch.float64
    assert norm.to("meta").weight.device.type == "meta"
    assert norm.half().weight.device.type == "meta"
    assert norm.to_empty(device="cpu").weight.device.type == "cpu"


def test_frozen_statistics():
    norm = BatchNorm2d(3, momentum=None)
    norm(torch.randn(4, 3, 2, 2))
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(4, 3, 2, 2) * 5
    expected = copy.deepcopy(norm)(x)
    with frozen_statistics(norm):
        out = norm(x)
    torch.testing.assert_close(out, expected)
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())
    assert norm.momentum is None


def test_frozen_statistics_are_restored_after_an_error():
    norm = BatchNorm2d(3)
    with pytest.raises(RuntimeError), frozen_statistics(norm):
        raise RuntimeError
    assert norm.momentum == 0.1
