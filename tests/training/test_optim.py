import pytest
import torch

from ddrsapc.training import TrainConfig, build_optimizer, build_scheduler
from ddrsapc.training.optim import lr_factor


def test_optimizers_follow_the_recipe(network):
    sgd = build_optimizer(network, TrainConfig(backbone_lr_scale=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    groups = {group["name"]: group for group in sgd.param_groups}
    assert groups["head"]["lr"] == 0.01
    assert groups["backbone"]["lr"] == pytest.approx(0.001)
    assert (groups["head"]["weight_decay"], groups["head_no_decay"]["weight_decay"]) == (5e-4, 0)
    assert groups["head"]["momentum"] == 0.9
    adamw = build_optimizer(network, TrainConfig(optimizer="adamw", lr=1e-3, momentum=0.95))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.95, 0.999)


def test_schedules_by_hand():
    poly, cosine = TrainConfig(warmup_steps=4), TrainConfig(schedule="cosine", warmup_steps=4)
    for config in (poly, cosine):
        assert [lr_factor(step, config, 104) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert lr_factor(104, config, 104) == 0
    assert lr_factor(54, poly, 104) == pytest.approx(0.5**0.9)
    assert lr_factor(54, cosine, 104) == pytest.approx(0.5)
    assert lr_factor(29, cosine, 104) == pytest.approx(0.8535534)


def test_the_scheduler_sets_every_group(network):
    config = TrainConfig(backbone_lr_scale=0.1)
    optimizer = build_optimizer(network, config)
    scheduler = build_scheduler(optimizer, config, 10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["head"] == pytest.approx(0.01 * 0.5**0.9)
    assert rates["backbone"] == pytest.approx(0.001 * 0.5**0.9)
    with pytest.raises(ValueError, match=r"warmup_steps \(10\) must be fewer than the run's 10 steps"):
        build_scheduler(optimizer, TrainConfig(warmup_steps=10), 10)
