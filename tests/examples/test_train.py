"""The command that most users begin with."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from ddrsapc.training import TrainConfig, load_trained
from tests.training.small import squares

SHORT = ["--epochs", "2", "--device", "cpu"]
SMALL = ["--model", "unet", "--width", "4", *SHORT]


@pytest.fixture(scope="module")
def train(root):
    spec = importlib.util.spec_from_file_location("train_example", root / "examples" / "train.py")
    module = sys.modules["train_example"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_example"]


@pytest.fixture
def folder(tmp_path):
    """Ten patients with a slice each."""
    for kind, tensor in zip(("images", "labels"), squares(10).tensors, strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(tensor.numpy()):
            np.save(tmp_path / "data" / kind / f"p{i}.npy", array)
    return tmp_path / "data"


def test_trains_resumes_and_fine_tunes(train, folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main([str(folder), "-o", str(run), *SMALL]) == 0
    out = capsys.readouterr().out
    assert "10 patients, 10 files, 10 slices; 0 problem(s)" in out
    assert "train: 6 patients, pixels by class [" in out
    assert "test: 2 patients" in out
    assert f"best weights: {run / 'best.safetensors'}" in out
    assert load_trained(run / "best.safetensors").architecture == "unet"
    assert train.main([str(folder), "-o", str(run), *SMALL]) == 2
    assert "holds a run of 2 steps already" in capsys.readouterr().err
    assert train.main([str(folder), "-o", str(run), *SMALL, "--resume"]) == 0
    tuned = tmp_path / "tuned"
    init = ["--init", str(run / "best.safetensors"), "--num-classes", "5", "--backbone-lr-scale", "0"]
    assert train.main([str(folder), "-o", str(tuned), *SHORT, *init]) == 0
    assert "a new head: 5 classes" in capsys.readouterr().err
    before, after = (load_trained(path / "last.safetensors") for path in (run, tuned))
    assert after.num_classes == 5
    name = "encoders.0.0.0.weight"
    assert torch.equal(before.get_parameter(name), after.get_parameter(name))  # the backbone's rate is 0


def test_every_field_of_the_recipe_is_an_option(train, folder, tmp_path):
    recipe = [
        "--accumulate", "2", "--optimizer", "adamw", "--lr", "0.001", "--momentum", "0.8", "--weight-decay", "0.1",
        "--schedule", "cosine", "--warmup-steps", "1", "--clip-norm", "1", "--aux-weight", "0.3", "--ema-decay", "0.9",
        "--bn-batches", "1", "--no-sync-bn", "--no-drop-last", "--seed", "7", "--amp", "bfloat16", "--channels-last",
        "--deterministic", "--workers", "0", "--checkpoint-steps", "1", "--keep", "1", "--batch-size", "2",
        "--backbone-lr-scale", "0.5",
    ]  # fmt: skip
    options = [*SMALL, *recipe, "--aux-head", "--augment", "--crop", "32", "--loss", "ohem+dice"]
    assert train.main([str(folder), "-o", str(tmp_path / "run"), *options]) == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["config"] == {
        "accumulate": 2, "amp": "bfloat16", "aux_weight": 0.3, "backbone_lr_scale": 0.5, "batch_size": 2,
        "bn_batches": 1, "channels_last": True, "checkpoint_steps": 1, "clip_norm": 1.0, "compile": False,
        "deterministic": True, "drop_last": False, "ema_decay": 0.9, "epochs": 2, "keep": 1, "lr": 0.001,
        "momentum": 0.8, "optimizer": "adamw", "schedule": "cosine", "seed": 7, "sync_bn": False, "warmup_steps": 1,
        "weight_decay": 0.1, "workers": 0,
    }  # fmt: skip
    assert about["config"].keys() == {field.name for field in fields(TrainConfig)}
    assert "crop=32" in about["augmentation"]
    assert "DiceLoss" in about["criterion"]
    assert "aux_head" in about["network"]


def test_the_default_is_the_papers_recipe(train):
    arguments = train.parse(["data", "-o", "run"])
    assert {field.name: getattr(arguments, field.name) for field in fields(TrainConfig)} == {
        field.name: field.default for field in fields(TrainConfig)
    }
    assert (arguments.augment, arguments.loss, arguments.init) == (False, "ohem", None)
    model = train.build(train.parse(["data", "-o", "run", "--width", "8"]))
    assert (model.architecture, model.num_classes) == ("ddr_sapc_u", 4)


def test_pngs_and_patients_by_pattern(train, tmp_path, capsys):
    hu, labels = squares(6).tensors
    for kind, arrays in (("images", (hu / 4 + 100).clamp(0, 255)), ("labels", labels)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(arrays.to(torch.uint8).numpy()):
            Image.fromarray(array).save(tmp_path / "data" / kind / f"s{i}-p{i // 2}.png")
    command = [str(tmp_path / "data"), "-o", str(tmp_path / "run"), *SMALL, "--batch-size", "2", "--patient", "p(.)$"]
    assert train.main(command) == 2
    assert "give the HU window they span" in capsys.readouterr().err
    assert train.main([*command, "--png-window", "-400", "620"]) == 0
    out = capsys.readouterr().out
    assert "3 patients, 6 files" in out
    assert out.count(": 1 patients, pixels by class") == 3


def test_wrong_input_is_one_error_and_writes_nothing(train, folder, tmp_path, capsys):
    cases = [
        ([str(tmp_path / "missing")], "is no folder"),
        ([str(folder), "--model", "resnet"], "unknown model 'resnet'"),
        ([str(folder), "--lr", "-1"], "lr must be positive"),
        ([str(folder), "--init", str(folder / "images" / "p0.npy")], "holds no trained network"),
        ([str(folder), "--init", str(tmp_path / "no.safetensors")], "does not exist"),
        ([str(folder), "--batch-size", "64"], "make no batch of 64"),
        ([str(folder), "--num-classes", "2"], r"has labels 2, 3 outside the 2 classes"),
        ([str(folder), "--patient", "("], "is no regular expression"),
        ([str(folder), "--fractions", "1", "1", "1"], "sum to 1"),
        ([str(folder), "--fractions", "1", "0", "0"], "the validation split is empty"),
        ([str(folder), "--warmup-steps", "99"], "warmup_steps (99) must be fewer"),
    ]
    for arguments, message in cases:
        network = SHORT if "--init" in arguments else SMALL
        assert train.main([*arguments, "-o", str(tmp_path / "run"), *network, *arguments[1:]]) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert "Traceback" not in err
        assert not (tmp_path / "run").exists(), arguments
    with pytest.raises(SystemExit):
        train.main([str(folder), "-o", str(tmp_path / "run"), "--crop", "32"])
    assert "--crop is a part of --augment" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([str(folder), "-o", str(tmp_path / "run"), "--init", "best.safetensors", "--model", "unet"])
    assert "--init brings its network" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(train, folder, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stop)
    assert train.main([str(folder), "-o", str(tmp_path / "run"), *SMALL]) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err


def test_help_teaches_and_the_script_is_short(root):
    script = root / "examples" / "train.py"
    out = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True).stdout
    for field in fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in out
    for word in ("torchrun", "--resume", "--init", "images/p01/0001.npy", "255 where a pixel does not count"):
        assert word in out
    assert len(script.read_text().splitlines()) < 150
