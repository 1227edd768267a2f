"""`ddrsapc train` as a person runs it."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddrsapc.cli.app import cli
from ddrsapc.cli.train import train
from ddrsapc.hub import save_pretrained
from ddrsapc.training import TrainConfig, load_trained
from tests.cli.outcomes import failed
from tests.data.test_scans import add as add_scan
from tests.training.small import small_network, squares, write_curves

SHORT = ["--epochs", "1", "--device", "cpu"]
SMALL = ["--model", "unet", "--width", "4", *SHORT]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawn with every epoch; tests/training looks at them."""
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", write_curves)


@pytest.fixture
def folder(tmp_path):
    """Ten patients with a slice each."""
    for kind, tensor in zip(("images", "labels"), squares(10).tensors, strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(tensor.numpy()):
            np.save(tmp_path / "data" / kind / f"p{i}.npy", array)
    return tmp_path / "data"


def test_trains_resumes_and_fine_tunes(command, folder, tmp_path, caplog):
    run = tmp_path / "run"
    code, out, err = command("train", folder, "-o", run, *SMALL)
    assert code == 0
    assert "10 patients, 10 files, 10 slices; 0 problem(s)" in out
    assert "train: 6 patients, pixels by class [" in out
    assert "test: 2 patients" in out
    assert out.endswith(f"best weights: {run / 'best.safetensors'}\n")
    assert "epoch 1/1: loss " in err
    assert load_trained(run / "best.safetensors").architecture == "unet"
    code, _, err = command("train", folder, "-o", run, *SMALL)
    assert (code, err) == (2, f"error: {run} holds a run of 1 steps already; resume it, or give another folder\n")
    code, out, err = command("train", folder, "-o", run, *SMALL, "--resume", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["best"] == str(run / "best.safetensors")
    assert result["best_epoch"]["val_iou"] == json.loads((run / "log.jsonl").read_text())["val_iou"]
    assert "10 patients, 10 files" in err
    assert "going on from" in err
    tuned = tmp_path / "tuned"
    init = ["--init", run / "best.safetensors", "--num-classes", "5", "--backbone-lr-scale", "0"]
    assert command("train", folder, "-o", tuned, *SHORT, *init)[0] == 0
    assert "best.safetensors: head initialised anew for 5 classes instead of 4" in caplog.text  # shown on stderr
    before, after = (load_trained(path / "last.safetensors") for path in (run, tuned))
    assert after.num_classes == 5
    name = "encoders.0.0.0.weight"
    assert torch.equal(before.get_parameter(name), after.get_parameter(name))  # the backbone's rate is 0


def test_every_field_of_the_recipe_is_an_option(command, folder, tmp_path):
    recipe = [
        "--accumulate", "2", "--optimizer", "adamw", "--lr", "0.001", "--momentum", "0.8", "--weight-decay", "0.1",
        "--schedule", "cosine", "--warmup-steps", "1", "--clip-norm", "1", "--aux-weight", "0.3", "--ema-decay", "0.9",
        "--bn-batches", "1", "--no-freeze-bn", "--no-sync-bn", "--no-drop-last", "--seed", "7", "--amp", "bfloat16",
        "--channels-last", "--deterministic", "--workers", "0", "--checkpoint-steps", "1", "--keep", "1",
        "--batch-size", "2", "--backbone-lr-scale", "0.5",
    ]  # fmt: skip
    options = [*SMALL, *recipe, "--aux-head", "--augment", "--crop", "32", "--loss", "ohem+dice"]
    assert command("train", folder, "-o", tmp_path / "run", *options)[0] == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["config"] == {
        "accumulate": 2, "amp": "bfloat16", "aux_weight": 0.3, "backbone_lr_scale": 0.5, "batch_size": 2,
        "bn_batches": 1, "channels_last": True, "checkpoint_steps": 1, "clip_norm": 1.0, "compile": False,
        "deterministic": True, "drop_last": False, "ema_decay": 0.9, "epochs": 1, "freeze_bn": False, "keep": 1,
        "lr": 0.001, "momentum": 0.8, "optimizer": "adamw", "schedule": "cosine", "seed": 7, "sync_bn": False,
        "warmup_steps": 1, "weight_decay": 0.1, "workers": 0,
    }  # fmt: skip
    assert about["config"].keys() == {field.name for field in fields(TrainConfig)}
    assert "crop=32" in about["augmentation"]
    assert "DiceLoss" in about["criterion"]
    assert "aux_head" in about["network"]


@pytest.fixture
def given(monkeypatch, folder, tmp_path, command):
    """What `ddrsapc train` with options would train: the network, and the keywords of `fit`."""

    def call(*options):
        seen = {}

        def fit(network, *_, **how):
            seen.update(how, network=network)
            raise KeyboardInterrupt

        monkeypatch.setattr("ddrsapc.cli.train.fit", fit)
        assert command("train", folder, "-o", tmp_path / "run", *options)[0] == 130
        return seen

    return call


def test_the_default_is_the_papers_recipe(given, monkeypatch):
    asked = []
    network = small_network()
    monkeypatch.setattr("ddrsapc.create_model", lambda *names, **how: asked.append((names, how)) or network)
    seen = given()
    assert asked == [(("ddr_sapc_u",), {"weights": None, "in_chans": 1})]
    assert seen["config"] == TrainConfig()
    assert seen["augmentation"] is None
    assert repr(seen["criterion"]).startswith("OhemCrossEntropyLoss")


def test_names_and_files_bring_their_weights(given, tmp_path, path):
    small = small_network().head.weight
    rgb = small_network(in_chans=3)
    rgb.head.weight.data.copy_(small)
    save_pretrained(rgb, tmp_path / "rgb")
    for options in (
        ["--init", path],
        ["--init", path, "--model", "unet"],
        ["--init", tmp_path / "rgb" / "model.safetensors"],  # the first convolution is adapted to CT
        ["--model", f"local-dir:{tmp_path / 'rgb'}"],
    ):
        network = given(*options)["network"]
        assert (network.architecture, network.in_chans, network.num_classes) == ("unet", 1, 4)
        assert torch.equal(network.head.weight, small)
    assert given("--init", path, "--num-classes", "9")["network"].num_classes == 9


def test_a_file_that_does_not_name_its_network(command, folder, tmp_path):
    path = tmp_path / "nameless.safetensors"
    save_file(small_network().state_dict(), path)
    arguments = ["train", folder, "-o", tmp_path / "run", "--init", path]
    assert failed(command(*arguments), "does not say what network it is of; name it with --model")


def test_pngs_and_patients_by_pattern(command, tmp_path):
    hu, labels = squares(6).tensors
    for kind, arrays in (("images", (hu / 4 + 100).clamp(0, 255)), ("labels", labels)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(arrays.to(torch.uint8).numpy()):
            Image.fromarray(array).save(tmp_path / "data" / kind / f"s{i}-p{i // 2}.png")
    arguments = ["train", tmp_path / "data", "-o", tmp_path / "run", *SMALL, "--batch-size", "2", "--patient", "p(.)$"]
    code, _, err = command(*arguments)
    assert code == 2
    assert err.startswith("error: 6 problem(s) in ")
    assert err.count("give the HU window they span") == err.count("\n") - 1 == 6  # a line for each file
    code, out, _ = command(*arguments, "--png-window", "-400", "620")
    assert code == 0
    assert "3 patients, 6 files" in out
    assert out.count(": 1 patients, pixels by class") == 3


def test_from_scans_to_a_prediction(command, tmp_path):
    """DICOM series and NIfTI masks: trained on, evaluated, and one of the scans predicted by the weights."""
    data, run = tmp_path / "data", tmp_path / "run"
    for i in range(4):
        add_scan(data, f"p{i}", i, suffix="")
    split = ["--fractions", "0.5", "0.25", "0.25"]
    code, out, _ = command("train", data, "-o", run, *SMALL, *split)
    assert code == 0
    assert out.startswith(f"4 CT scan(s), of which arrays are made once in {run / 'prepared'}\n")
    assert f"{data}: 4 patients, 4 files, 12 slices; 0 problem(s)" in out
    times = {path: path.stat().st_mtime_ns for path in (run / "prepared").rglob("*.npy")}
    assert len(times) == 8
    evaluation = ["-o", tmp_path / "scores", *split, "--prepared", run / "prepared", "--pictures", "1", "--json"]
    code, out, _ = command("evaluate", run / "best.safetensors", data, *evaluation)
    assert code == 0
    scores = json.loads(out)
    assert (scores["patients"], scores["slices"]) == (1, 3)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert command("train", data, "-o", run, *SMALL, *split, "--resume")[0] == 0  # the same data
    weights = ["--model", "unet", "--weights", run / "best.safetensors"]
    code, _, err = command("predict", data / "images" / "p0", "-o", tmp_path / "results", *weights)
    assert code == 0, err
    assert (tmp_path / "results" / "p0" / "mask.dcm").exists()


def test_prepare_once_and_train(command, tmp_path):
    data, arrays = tmp_path / "data", tmp_path / "arrays"
    for i in range(3):
        add_scan(data, f"p{i}", i)
    assert command("prepare", data, "-o", arrays)[:2] == (0, f"3 scans in {arrays}, 3 new\n")
    result = json.loads(command("prepare", data, "-o", arrays, "--json")[1])
    assert result == {"output": str(arrays), "scans": 3, "new": 0}
    assert command("train", arrays, "-o", tmp_path / "run", *SMALL, "--batch-size", "2")[0] == 0
    assert failed(command("prepare", arrays, "-o", tmp_path / "more"), "has no CT scans")
    (data / "labels" / "p1.nii.gz").write_bytes(b"")
    code, out, err = command("prepare", data, "-o", arrays)
    assert (code, out, err.count("\n")) == (2, "", 2)
    assert f"  {data / 'labels' / 'p1.nii.gz'}: " in err


def test_wrong_input_is_one_error_and_writes_nothing(command, folder, tmp_path):
    cases = [
        (["--model", "resnet"], "unknown model 'resnet'"),
        (["--model", "unet.nonsense"], "unet has no weights tagged 'nonsense'"),
        (["--model", f"local-dir:{tmp_path / 'no'}"], "no"),
        (["--lr", "-1"], "lr must be positive"),
        (["--lr", "fast"], "'fast' is not a valid float"),
        (["--init", folder / "images" / "p0.npy"], "p0.npy"),
        (["--init", tmp_path / "no.safetensors"], "no.safetensors: there is no such file"),
        (["--init", "best.safetensors", "--width", "4"], "weights bring their network"),
        (["--model", "unet.tag", "--aux-head"], "weights bring their network"),
        (["--crop", "32"], "--crop is a part of --augment"),
        (["--device", "abacus"], "--device abacus"),
        (["--patient", "("], "is no regular expression"),
        (["--fractions", "1", "1", "1"], "sum to 1"),
        (["--prepared", folder / "images" / "here"], "is a part of the data"),
    ]
    for options, message in cases:
        network = [] if {"--model", "--init"} & set(options) else ["--model", "unet"]
        assert failed(command("train", folder, "-o", tmp_path / "run", *network, *options), message), options
    cases = [
        (["--batch-size", "64"], "make no batch of 64"),
        (["--fractions", "1", "0", "0"], "the validation split is empty"),
        (["--warmup-steps", "99"], "warmup_steps (99) must be fewer"),
        (["--num-classes", "2"], "has labels 2, 3 outside the 2 classes"),
    ]
    for options, message in cases:
        code, _, err = command("train", folder, "-o", tmp_path / "run", *SMALL, *options)
        assert (code, err.startswith("error: "), message in err) == (2, True, True), err
    assert failed(command("train", tmp_path / "missing", "-o", tmp_path / "run"), "is no folder")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_says_how_to_go_on(command, folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddrsapc.cli.train.fit", stop)
    code, _, err = command("train", folder, "-o", tmp_path / "run", *SMALL)
    assert (code, err) == (130, "stopped; the same command with --resume goes on\n")


def test_torchrun_is_told_the_error(command, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    (folder / "labels" / "p3.npy").write_bytes(b"")
    code, _, err = command("train", folder, "-o", tmp_path / "run", *SMALL)
    assert (code, "p3.npy: cannot be read" in err) == (2, True)
    told = json.loads((tmp_path / "error.json").read_text())["message"]
    assert "p3.npy: cannot be read" in told["message"]
    assert told["extraInfo"]["py_callstack"].startswith("ddrsapc.data.problems.DataError: 1 problem(s)")


def test_help_teaches(command):
    code, out, _ = command("train", "--help")
    assert code == 0
    for field in fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in out
    for word in ("torchrun", "--resume", "--init", "images/p01/0001.npy", "255 where a pixel does not count"):
        assert word in out
    titles = [line[:-1] for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Run", "Network", "Data", "Training", "Recipe", "Other"]
    assert {option.section for option in train.params[1:]} == set(titles[:-1])
    assert "train" in cli.commands
