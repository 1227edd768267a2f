"""The example to begin a program of one's own with."""

import numpy as np

from ddrsapc.training import load_trained
from tests.training.small import squares, write_curves


def test_trains_and_predicts(example, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", write_curves)
    for kind, tensor in zip(("images", "labels"), squares(20).tensors, strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i, array in enumerate(tensor.numpy()):
            np.save(tmp_path / "data" / kind / f"p{i}.npy", array)
    best = example("train").train(tmp_path / "data", tmp_path / "run", "ddrnet_23_slim", epochs=1)
    assert load_trained(best).architecture == "ddrnet_23_slim"
    out = capsys.readouterr().out
    assert "best epoch: 1 IoU by class: [" in out
    assert "pixels by class in a slice of the validation data: [" in out
    assert len((root / "examples" / "train.py").read_text().splitlines()) <= 60
