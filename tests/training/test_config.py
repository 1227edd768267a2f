from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest

from ddrsapc.training import TrainConfig


def test_the_default_is_the_papers_recipe():
    config = TrainConfig()
    assert (config.optimizer, config.momentum, config.weight_decay, config.lr) == ("sgd", 0.9, 5e-4, 0.01)
    assert (config.batch_size, config.epochs, config.aux_weight) == (4, 50, 0.4)
    assert (config.amp, config.ema_decay, config.clip_norm, config.accumulate) == ("none", None, None, 1)
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0


def test_every_field_is_explained():
    assert all(field.metadata["help"] for field in fields(TrainConfig))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("accumulate", 0),
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("amp", "fp16"),
        ("lr", 0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1),
        ("clip_norm", 0),
        ("ema_decay", 1),
        ("aux_weight", float("inf")),
        ("warmup_steps", -1),
        ("checkpoint_steps", 0),
        ("checkpoint_steps", 1.5),
        ("keep", 0),
        ("backbone_lr_scale", -0.1),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("other", [{"bn_batches": 1}, {"sync_bn": True}])
def test_frozen_batch_norm_is_not_estimated(other):
    with pytest.raises(ValueError, match="freeze_bn must be off with bn_batches or sync_bn"):
        TrainConfig(freeze_bn=True, **other)


def test_differences_leave_out_what_does_not_change_the_result():
    config = TrainConfig()
    assert config.differences(asdict(config)) == []
    assert config.differences(asdict(replace(config, workers=3, keep=5, checkpoint_steps=7))) == []
    other = asdict(replace(config, lr=0.1, seed=1))
    assert config.differences(other) == ["lr was 0.1, is 0.01", "seed was 1, is 0"]
    del other["momentum"]  # of an older version
    assert "momentum was None, is 0.9" in config.differences({**other, "gone": 1})
