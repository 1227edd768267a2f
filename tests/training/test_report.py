import csv
import json
import math

import numpy as np
from PIL import Image

from ddrsapc.training import TrainStats
from ddrsapc.training.report import Progress, draw_curves, epoch_line, write_log


def record(epoch, iou=0.5):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "lr": 0.01 / epoch,
        "train_loss": 1.0 / epoch,
        "train_mean_iou": iou,
        "train_foreground_mean_iou": iou / 2,
        "val_loss": 1.5 / epoch,
        "val_mean_iou": iou,
        "val_foreground_mean_iou": iou / 2,
        "val_iou": [iou, math.nan],
        "val_dice": [iou, math.nan],
        "seconds": 1.0,
        "eval_seconds": 0.5,
        "images_per_second": 3.25,
    }


def test_logs_are_flat_csv_and_strict_json_lines(tmp_path):
    write_log(tmp_path, [record(1), record(2, 0.75)])
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["val_iou_0"]) for row in rows] == [0.5, 0.75]
    assert rows[0]["val_iou_1"] == "nan"
    lines = [
        json.loads(line, parse_constant=lambda name: 1 / 0)
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert lines[1]["val_iou"] == [0.75, None]
    assert lines[0]["step"] == 10
    write_log(tmp_path, [record(1)])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_curves_are_drawn(tmp_path):
    assert draw_curves(tmp_path / "curves.png", [record(epoch, 0.2 * epoch) for epoch in (1, 2, 3)])
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert picture.shape == (400, 1300, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert not draw_curves(tmp_path / "curves.png", [record(1)])
    assert not list(tmp_path.iterdir())


def test_plain_lines_where_there_is_no_terminal(capsys):
    progress = Progress(40, interval=0.0)
    progress.start(10)
    stats = TrainStats(2, batches=2, images=8, loss_sum=3.0, seconds=2.0)
    progress.step(stats)
    progress.say("something")
    progress.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 11/40: loss 1.5000, mIoU nan, 4.0 img/s, ")
    assert first.endswith(" left")
    assert second == "something"


def test_lines_keep_their_distance_and_quiet_is_quiet(capsys):
    stats = TrainStats(2)
    progress = Progress(40)
    for _ in range(10):
        progress.step(stats)
    quiet = Progress(40, quiet=True, interval=0.0)
    quiet.step(stats)
    quiet.say("something")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(4)
    stats = TrainStats(2, batches=2, images=8, loss_sum=3.0, seconds=2.0)
    for _ in range(4):
        progress.step(stats)
    progress.close()
    err = capsys.readouterr().err
    assert "loss 1.5000, mIoU nan, 4.0 img/s" in err
    assert "4/4" in err


def test_an_epoch_in_a_line():
    line = epoch_line(record(3), 50)
    assert line.startswith("epoch 3/50: loss 0.3333, validation loss 0.5000, mIoU 0.5000 (foreground 0.2500; by class")
    assert line.endswith("0.500, nan), 3.2 img/s")
