"""The example to begin a program of one's own with."""

import importlib.util

import numpy as np

from ddrsapc.training import load_trained
from tests.training.small import squares, write_curves


def test_trains_and_predicts(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", write_curves)
    for kind, tensor in zip(("images", "labels"), squares(20).tensors, strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(tensor.numpy()):
            np.save(tmp_path / "data" / kind / f"p{i}.npy", array)
    script = root / "examples" / "train.py"
    spec = importlib.util.spec_from_file_location("train_example", script)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    best = example.train(tmp_path / "data", tmp_path / "run", "ddrnet_23_slim", epochs=1)
    assert load_trained(best).architecture == "ddrnet_23_slim"
    out = capsys.readouterr().out
    assert "best epoch: 1 IoU by class: [" in out
    assert "pixels by class in a slice of the validation data: [" in out
    assert len(script.read_text().splitlines()) <= 60
