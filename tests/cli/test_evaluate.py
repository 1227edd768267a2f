"""`ddrsapc evaluate` as a person runs it: scores, speed and pictures of trained weights."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddrsapc import data
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.training import BatchPreparation
from tests.cli.outcomes import failed
from tests.training.small import small_network, squares

RED, GREEN, YELLOW = (255, 0, 0), (0, 255, 0), (255, 255, 0)
TOP, LEFT, GAP = 36, 220, 12  # of the panels


def write_data(folder, hu, labels, names):
    for kind, arrays in (("images", hu), ("labels", labels)):
        for name, array in zip(names, arrays, strict=True):
            path = folder / kind / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.asarray(array))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Ten patients with a slice of 48 x 48 each."""
    hu, labels = squares(10, 48).tensors
    labels[:, :4] = 255
    return write_data(tmp_path / "data", hu, labels, [f"p{i}/0" for i in range(10)])


@pytest.fixture
def weights(tmp_path):
    return saved(tmp_path / "best.safetensors", small_network())


def saved(path, model):
    path.write_bytes(weights_bytes(model))
    return path


class ByDensity(torch.nn.Module):
    """In a network's place: 250 HU are class 1, 500 class 2, 750 class 3."""

    num_classes, in_chans, architecture = 4, 1, "by density"

    def __init__(self, input_config):
        super().__init__()
        self.input_config = input_config
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        centres = self.input_config.normalize(torch.tensor([40.0, 250.0, 500.0, 750.0]))
        return -(x - centres[:, None, None]).abs()


@pytest.fixture
def rigged(monkeypatch):
    network = ByDensity(small_network().input_config).eval()
    monkeypatch.setattr("ddrsapc.cli.evaluate.load_trained", lambda _: network)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def counted(model, cases):
    """The confusion of a network, without the command."""
    dataset, confusion = data.SliceDataset(cases), ConfusionMatrix(model.num_classes)
    prepare = BatchPreparation(model.input_config, torch.device("cpu"))
    for i in range(len(dataset)):
        with torch.no_grad():
            x, labels = prepare(data.collate([dataset[i]]))
            confusion.update(model.eval()(x).argmax(1), labels)
    return confusion


@pytest.mark.parametrize("split", ["test", "val", "train", "all"])
def test_the_numbers_are_those_of_a_confusion_matrix(command, folder, weights, tmp_path, split):
    output = tmp_path / "new" / "out"
    options = ["--split", split, "--split-seed", "3", "--fractions", "0.5", "0.2", "0.3", "--batch-size", "2"]
    pictures = ["--pictures", "1" if split == "test" else "0"]
    code, out, _ = command("evaluate", weights, folder, "-o", output, "--device", "cpu", *options, *pictures)
    assert code == 0
    splits, _ = data.load_splits(folder, fractions=(0.5, 0.2, 0.3), seed=3)
    cases = sum(splits, ()) if split == "all" else getattr(splits, split)
    confusion = counted(small_network(), cases)
    scores = confusion.scores()

    summary = json.loads((output / "scores.json").read_text(), parse_constant=pytest.fail)
    assert (summary["split"], summary["patients"], summary["slices"]) == (split, len(cases), len(cases))
    assert summary["weights"] == str(weights)
    assert summary["confusion"] == confusion.counts.tolist()
    assert f"{split} split: {len(cases)} patients, {len(cases)} slices" in out
    with (output / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["none", "LAD", "LCX", "RCA"]
    for c, (row, line) in enumerate(zip(summary["classes"], table, strict=True)):
        for metric in ("iou", "dice", "precision", "recall"):
            value = getattr(scores, metric)[c].item()
            assert row[metric] == (None if np.isnan(value) else value)
            assert line[metric] == ("" if np.isnan(value) else repr(value))
            assert np.isnan(value) or re.search(rf"^{row['name']} .*\b{value:.4f}\b", out, re.MULTILINE)
        assert row["pixels"] == int(line["pixels"]) == scores.support[c]
    assert summary["mean"]["iou"] == scores.mean_iou
    assert summary["foreground_mean"]["iou"] == scores.foreground_mean_iou
    assert f"{scores.foreground_mean_iou:.4f}" in out
    speed = summary["speed"]
    assert speed["ms_per_slice"] > 0
    assert (speed["height"], speed["width"], speed["batch_size"]) == (48, 48, min(2, len(cases)))
    assert f"ms per slice (48 x 48, batch {speed['batch_size']}) on {speed['device']}" in out


def test_a_rerun_writes_the_same_bytes(command, folder, weights, tmp_path):
    results = []
    for name in "ab":
        output = tmp_path / name
        code, out, err = command("evaluate", weights, folder, "-o", output, "--device", "cpu", "--json")
        assert code == 0
        assert out == (output / "scores.json").read_text()
        assert "mean, foreground" in err
        files = {name: (output / name).read_bytes() for name in files_in(output)}
        summary = json.loads(files.pop("scores.json"))
        del summary["speed"]
        results.append((files, summary))
    assert results[0] == results[1]
    assert set(results[0][0]) == {"scores.csv", "contact_sheet.png"} | {
        entry["file"] for entry in results[0][1]["pictures"]
    }


def test_pictures_show_the_labels_pixel_by_pixel(command, rigged, tmp_path):
    hu, labels = squares(3, 48).tensors
    predicted = (hu + 125) // 250  # by density
    labels[0, :24] = 0
    labels[0, 40:, 40:] = 255
    names = ["p0/v", "p1/a b", "p2/c"]
    folder = write_data(tmp_path / "data", [hu[:1], hu[1], hu[2]], [labels[:1], labels[1], labels[2]], names)
    output = tmp_path / "out"
    arguments = ["evaluate", "./rigged", folder, "--split", "all", "--device", "cpu", "-o"]
    assert command(*arguments, output)[0] == 0
    truth = np.array([int(((x > 0) & (x != 255)).sum()) for x in labels])
    entries = json.loads((output / "scores.json").read_text())["pictures"]
    assert sorted(entry["file"][12:] for entry in entries) == ["p0_v.png", "p1_a_b.png", "p2_c.png"]
    order = [int(entry["slice"][1]) for entry in entries]
    assert list(truth[order]) == sorted(truth, reverse=True)
    colours = np.array([(0, 0, 0), RED, GREEN, YELLOW], np.uint8)
    muted = (0x5F, 0x58, 0x7D)
    for entry, index in zip(entries, order, strict=True):
        picture = pixels_of(output / entry["file"])
        side = 48 * 12
        assert picture.shape == (TOP + side + GAP, LEFT + 3 * (side + GAP), 3)
        panels = [picture[TOP : TOP + side, LEFT + i * (side + GAP) :][:, :side] for i in range(3)]
        for panel in panels:
            assert np.array_equal(panel, panel[::12, ::12].repeat(12, 0).repeat(12, 1))  # nearest neighbours
        grey, true, prediction = (panel[::12, ::12] for panel in panels)
        window = ((hu[index].float().clamp(-160, 840) + 160) / 1000 * 255).to(torch.uint8).numpy()
        assert np.array_equal(grey, window[..., None].repeat(3, 2))
        for panel, mask in ((true, labels[index].numpy()), (prediction, predicted[index].numpy())):
            shown = np.where((mask > 0)[..., None], colours[mask % 255], grey)
            shown[mask == 255] = muted
            assert np.array_equal(panel, shown)
        legend = {tuple(pixel) for pixel in picture[:, :LEFT].reshape(-1, 3).tolist()}
        assert {RED, GREEN, YELLOW, muted} <= legend
    side = 48 * 6
    sheet = pixels_of(output / "contact_sheet.png")
    assert sheet.shape == (3 * (TOP + side + GAP), LEFT + 3 * (side + GAP), 3)
    assert command(*arguments, tmp_path / "one", "--pictures", "1")[0] == 0
    assert len(files_in(tmp_path / "one" / "pictures")) == 1
    assert pixels_of(tmp_path / "one" / "contact_sheet.png").shape == (TOP + side + GAP, *sheet.shape[1:])
    assert command(*arguments, tmp_path / "none", "--pictures", "0")[0] == 0
    assert files_in(tmp_path / "none") == ["scores.csv", "scores.json"]


def test_volumes_and_more_classes(command, tmp_path):
    hu, labels = squares(4, 48).tensors
    names = [f"class{i}" for i in range(12)]
    weights = saved(tmp_path / "twelve.safetensors", small_network(num_classes=12))
    folder = write_data(tmp_path / "data", [hu[:2], hu[2:3], hu[3:]], [labels[:2], labels[2:3], labels[3:]], "abc")
    arguments = ["evaluate", weights, folder, "-o", tmp_path / "out", "--split", "all", "--device", "cpu"]
    code, out, _ = command(*arguments, "--classes", ", ".join(names))
    assert (code, "class11" in out) == (0, True)
    assert {"a_0.png", "a_1.png"} <= {name[3:] for name in files_in(tmp_path / "out" / "pictures")}  # a[0], a[1]


def test_absent_classes(command, rigged, tmp_path):
    hu, labels = squares(3, 48).tensors
    hu[labels > 1] = 40
    labels[labels > 1] = 0
    labels[0][hu[0] < 30] = 3  # in the truth, never predicted
    folder = write_data(tmp_path / "data", hu, labels, "abc")
    output = tmp_path / "out"
    arguments = ["./rigged", folder, "-o", output, "--split", "all", "--device", "cpu", "--pictures", "0"]
    code, out, _ = command("evaluate", *arguments)
    assert code == 0
    assert re.search(r"^LCX +absent +0$", out, re.MULTILINE)
    assert re.search(r"^RCA +0\.0000 +0\.0000 +- +0\.0000 +[1-9]\d*$", out, re.MULTILINE)
    summary = json.loads((output / "scores.json").read_text())
    lcx = {"name": "LCX", "iou": None, "dice": None, "precision": None, "recall": None, "pixels": 0}
    assert summary["classes"][2] == lcx
    assert summary["foreground_mean"]["iou"] == 0.5
    assert "LCX,,,,,0" in (output / "scores.csv").read_text()


def test_wrong_input_is_one_line_and_writes_nothing(command, folder, weights, tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    other = small_network()
    other.model_args["width"] = 8
    cases = [
        (tmp_path / "no.safetensors", folder, [], "does not exist"),
        (tmp_path, folder, [], "is a folder; expected the best.safetensors"),
        ("unet.nonsense", folder, [], "no weights tagged 'nonsense'"),
        (text, folder, [], "holds no trained network"),
        (saved(tmp_path / "other.safetensors", other), folder, [], "does not fit unet"),
        (saved(tmp_path / "rgb.safetensors", small_network(in_chans=3)), folder, [], "3 input channel(s)"),
        (weights, tmp_path / "missing", [], "is no folder"),
        (weights, folder, ["--fractions", "0.8", "0.2", "0"], "the test split is empty: --fractions"),
        (weights, folder, ["--fractions", "1", "1", "1"], "sum to 1"),
        (weights, folder, ["--patient", "("], "is no regular expression"),
        (weights, folder, ["--classes", "none,calcium"], "expected 2 (--classes"),
        (weights, folder, ["--device", "nonsense"], "--device nonsense"),
        (weights, folder, ["--batch-size", "0"], "--batch-size"),
        (weights, folder, ["--pictures", "-1"], "--pictures"),
    ]
    for path, place, options, message in cases:
        output = tmp_path / "out"
        assert failed(command("evaluate", path, place, "-o", output, *options), message)
        assert not output.exists()


def test_a_missing_test_folder_is_named(command, weights, tmp_path):
    hu, labels = squares(2, 48).tensors
    for i, name in enumerate(("train", "val")):
        write_data(tmp_path / "parts" / name, hu[i : i + 1], labels[i : i + 1], [f"p{i}"])
    arguments = ["evaluate", weights, tmp_path / "parts", "-o", tmp_path / "out", "--pictures", "0"]
    assert failed(command(*arguments), f"there is no {tmp_path / 'parts' / 'test'}")
    assert command(*arguments, "--split", "val")[0] == 0


def test_an_unwritable_output_is_found_before_the_evaluation(command, folder, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("ddrsapc.cli.evaluate.evaluate_network", pytest.fail)
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert failed(command("evaluate", weights, folder, "-o", output), "file")


def test_without_pillow_the_way_out_is_told(command, folder, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    outcome = command("evaluate", weights, folder, "-o", tmp_path / "out")
    assert failed(outcome, 'pip install "ddrsapc[train]"')


def test_help_teaches(command):
    _, out, _ = command("evaluate", "--help")
    options = "output split fractions split-seed patient png-window batch-size device classes pictures prepared json"
    for word in (*(f"--{option}" for option in options.split()), "outputs/run/best.safetensors", "contact_sheet.png"):
        assert word in out
