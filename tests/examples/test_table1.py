"""Rows of Table I on simulated scans, and what is drawn of them."""

import json
import re

import numpy as np
import pytest
import torch

import ddrsapc
from ddrsapc.phantom import PhantomDataset, PhantomParameters, make_case
from ddrsapc.scoring import score_volume
from ddrsapc.training import load_trained
from tests.training.small import write_curves

pytest.importorskip("scipy", reason="the extra phantom is not installed")
pytest.importorskip("SimpleITK", reason="the extra ct is not installed")

SMALL = ["--batch-size", "2", "--steps", "2", "--size", "64", "--width", "4", "--slices", "5", "--cases", "2"]
PARAMETERS = PhantomParameters(slices=3, field_of_view=(160, 200), usual_field_of_view=180, positive_rate=1.0)


@pytest.fixture(scope="module")
def table1(example):
    """The example, with scans of three slices and small networks to time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddrsapc.training.run.draw_curves", write_curves)
        module = example("table1")
        patch.setattr(module, "PARAMETERS", PARAMETERS)
        patch.setattr(module, "COUNTED_SIDE", 64)
        patch.setitem(example("table1_evaluation").PASSES, "cpu", 1)
        yield module


@pytest.fixture(scope="module")
def made(table1, tmp_path_factory):
    """A trained row, and one with its weights given."""
    folder = tmp_path_factory.mktemp("table1")
    assert table1.main(["unet", *SMALL, "-o", str(folder / "unet.json")]) == 0
    weights = ["--weights", str(folder / "unet.safetensors")]
    assert table1.main(["unet", *SMALL, *weights, "-o", str(folder / "given.json")]) == 0
    return folder


@pytest.fixture
def result(made):
    return json.loads((made / "unet.json").read_text())


def test_iou_follows_from_the_counts(result):
    for split in ("test", "shifted"):
        slices = result[split]["slices"]
        counts = np.array(slices["confusion"])
        truth = [
            np.bincount(label.numpy().ravel(), minlength=4)
            for _, label, _ in PhantomDataset(split, 64, 5, 0, parameters=PARAMETERS)
        ]
        np.testing.assert_array_equal(counts.sum(1), np.sum(truth, 0))
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        iou = [counts[c, c] / union[c] if union[c] else None for c in range(4)]
        assert slices["iou"] == iou
        assert slices["mean_iou"] == pytest.approx(np.mean([x for x in iou if x is not None]))
        assert slices["foreground_mean_iou"] == pytest.approx(np.mean([x for x in iou[1:] if x is not None]))


def test_the_interval_is_that_of_drawn_slices(example, result):
    evaluation = example("table1_evaluation")
    one = np.diag([100, 3, 3, 3])  # all right
    other = one + np.array([[0, 9, 9, 9]] + 3 * [[0, 0, 0, 0]])  # three of twelve
    assert evaluation.interval(np.stack([one] * 5)) == [1, 1]
    low, high = evaluation.interval(np.stack([one, other] * 50))
    middle = 6 / (6 + 9)
    assert 6 / (6 + 9 * 1.4) < low < middle - 0.01
    assert middle + 0.01 < high < 6 / (6 + 9 * 0.6)
    few, _ = evaluation.interval(np.stack([one, other] * 5))
    assert few < low
    without = np.diag([100, 3, 3, 0])
    assert evaluation.interval(np.stack([without] * 3)) == [1, 1]
    assert np.isnan(evaluation.interval(np.stack([np.diag([100, 0, 0, 0])] * 3))).all()
    low, high = result["test"]["slices"]["foreground_mean_iou_95"]
    assert low <= result["test"]["slices"]["foreground_mean_iou"] <= high


def test_other_cases_to_evaluate_on(table1, made, result, tmp_path):
    options = ["--weights", str(made / "unet.safetensors"), "--evaluation-seed", "1", "--cases", "1"]
    assert table1.main(["unet", *SMALL, *options, "-o", str(tmp_path / "other.json")]) == 0
    other = json.loads((tmp_path / "other.json").read_text())
    assert other["evaluation"] == {**result["evaluation"], "seed": 1, "scans": 1}
    assert result["evaluation"]["phantom_version"] == 2
    truth = sum(
        np.bincount(label.numpy().ravel(), minlength=4)
        for _, label, _ in PhantomDataset("test", 64, 5, 1, parameters=PARAMETERS)
    )
    np.testing.assert_array_equal(np.array(other["test"]["slices"]["confusion"]).sum(1), truth)
    assert [scan["name"] for scan in other["test"]["scans"]["scans"]] == ["test1c00000"]


def test_scores_are_those_of_the_scans(result, made):
    scans = result["test"]["scans"]
    case = make_case(0, 1, split="test", size=64, parameters=PARAMETERS)
    row = scans["scans"][1]
    assert row["name"] == case.name
    assert row["agatston"]["true"] == score_volume(case.hu, case.labels, case.spacing).agatston > 0
    assert row["agatston"]["true"] == pytest.approx(sum(vessel["true"] for vessel in row["vessels"].values()))

    model = load_trained(made / "unet.safetensors")
    x = model.input_config.normalize(torch.from_numpy(case.hu))
    labels = model(x[:, None]).argmax(1).numpy().astype(np.uint8)
    labels[case.hu < 130] = 0
    assert row["agatston"]["predicted"] == score_volume(case.hu, labels, case.spacing).agatston

    differences = [one["agatston"]["predicted"] - one["agatston"]["true"] for one in scans["scans"]]
    assert scans["agatston"]["differences"]["bias"] == pytest.approx(np.mean(differences))
    assert scans["lesions"]["true"] == sum(one["lesions"]["true"] for one in scans["scans"]) > 0
    assert scans["lesions"]["false_per_scan"] == scans["lesions"]["false"] / 2


def test_all_that_was_used_is_told(result):
    assert (result["row"], result["options"], result["seed"]) == ("unet", {"width": 4}, 0)
    recipe = {"name": "paper", "optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4, "schedule": "poly"}
    recipe |= {"steps": 2, "batch_size": 2, "size": 64, "crop": None, "momentum": 0.9}
    assert recipe.items() <= result["recipe"].items()
    assert result["recipe"]["criterion"].startswith("OhemCrossEntropyLoss")
    assert result["parameters"] == sum(p.numel() for p in ddrsapc.create_model("unet", width=4).parameters())
    assert result["speed"]["ms_per_slice"] >= result["speed"]["fastest_ms"] > 0
    assert result["train_seconds"] > 0
    assert result["hardware"]["threads"] >= 1


def test_given_weights_are_evaluated_alike(result, made):
    given = json.loads((made / "given.json").read_text())
    assert (given["recipe"], given["train_seconds"]) == (None, None)
    assert [given[split] for split in ("test", "shifted")] == [result[split] for split in ("test", "shifted")]
    assert not (made / "given").exists()


def test_a_second_run_trains_no_more(table1, made, result, tmp_path, capsys):
    (tmp_path / "again").symlink_to(made / "unet")
    assert table1.main(["unet", *SMALL, "--cases", "0", "-o", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["train_seconds"] == result["train_seconds"]
    assert again["test"]["slices"] == result["test"]["slices"]
    assert again["test"]["scans"]["agatston"]["icc"] is None
    assert "ICC -, sensitivity -" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "3"], "train_images was 4, is 6"),
        (["--recipe", "adamw", "--crop", "32"], "optimizer was 'sgd', is 'adamw'"),
        (["--weights", "unet.none"], "unet has no weights tagged 'none'"),
        (["--weights", "three.safetensors"], "has 3 classes; the phantom has 4"),
        (["--device", "nowhere"], "--device nowhere: "),
    ],
)
def test_what_does_not_fit(table1, made, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    ddrsapc.hub.save_pretrained(ddrsapc.create_model("unet", width=4, num_classes=3), "three", license="mit")
    (tmp_path / "three" / "model.safetensors").rename("three.safetensors")
    assert table1.main(["unet", *SMALL, *arguments, "-o", str(made / "unet.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--cases", "-1"], ["-o", "table.csv"], ["-o", "folder.json"]])
def test_arguments_that_cannot_be(table1, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SystemExit, match="2"):
        table1.main(["unet", "-o", "x.json", *arguments])
    assert re.search("must|is a folder", capsys.readouterr().err)


@pytest.mark.parametrize("part", ["dam", "pbb", "skips"])
def test_rows_without_a_part(table1, part):
    model, options = table1.build(f"ddr_sapc_u_no_{part}", 4, None)
    assert options == {part: False, "width": 4}
    assert model.architecture == "ddr_sapc_u"
    assert model.model_args[part] is False


@pytest.fixture
def figures(example, monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    module = example("table1_figures")
    monkeypatch.setattr(module, "PARAMETERS", PARAMETERS)
    return module


@pytest.mark.slow
def test_table_and_pictures(figures, made, result, tmp_path):
    assert figures.main([str(made), "-o", str(tmp_path), "--items", "1"]) == 0
    pictures = {path.name for path in tmp_path.iterdir()}
    assert pictures == {"table.md", "speed.png", "agreement.png", "panels.png"}
    rows = [
        line.split(" | ") for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| U-Net")
    ]
    assert [row[0] for row in rows] == ["| U-Net, width 4", "| U-Net, width 4, weights given"] * 2
    assert float(rows[0][1]) == pytest.approx(100 * result["test"]["slices"]["iou"][0], abs=0.005)
    assert float(rows[2][6]) == pytest.approx(100 * result["shifted"]["slices"]["foreground_mean_iou"], abs=0.005)
    assert rows[0][13:15] == ["0.12 M", "0.01 G"]


def test_panels_show_input_truth_and_networks(figures, made):
    results = figures.read_results(made)
    figure = figures.draw_panels(results, items=[1, 0])
    axes = figure.get_axes()
    titles = [
        "Input",
        "Truth",
        "U-Net, width 4",
        "U-Net, width 4, weights given",
    ]  # of which none lie beside given.json
    assert [one.get_title().replace("\n", " ") for one in axes[:4]] == titles
    assert len(axes) == 8
    assert axes[2].get_xlabel() == axes[3].get_xlabel()
    assert axes[2].get_xlabel().startswith("IoU ")
    for row, item in enumerate((1, 0)):
        truth = PhantomDataset("test", 64, 5, 0, parameters=PARAMETERS)[item].label
        colours = {(255, 0, 0), (0, 255, 0), (255, 255, 0)}
        shown = [set(map(tuple, one.images[0].get_array().reshape(-1, 3).tolist())) for one in axes[4 * row :][:2]]
        expected = {tuple(figures.PALETTE[label].tolist()) for label in truth.unique().tolist() if label}
        assert (shown[0] & colours, shown[1] & colours) == (set(), expected)
    assert (truth > 0).any()
    (given,) = (result for result in results.values() if result["weights"])
    assert figures.draw_panels({"gone": {**given, "weights": str(made / "gone.safetensors")}}) is None


def test_plots_show_the_numbers(figures, made, result):
    results = figures.read_results(made)
    (axes,) = figures.draw_speed(results).get_axes()
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "None"}
    for split in ("test", "shifted"):
        assert (result["speed"]["ms_per_slice"], 100 * result[split]["slices"]["foreground_mean_iou"]) in points
    scatter = figures.draw_agreement(results).get_axes()[0]
    scores = [scan["agatston"] for scan in result["test"]["scans"]["scans"]]
    assert scatter.lines[0].get_xdata().tolist() == [score["true"] for score in scores]
    assert scatter.lines[0].get_ydata().tolist() == [score["predicted"] for score in scores]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": "unetpp", "recipe": {"steps": 3}}, "was made with steps"),
        ({"row": "unetpp", "evaluation": {"size": 32}}, "was made with evaluation"),
        ({}, "are of the same network"),
        ({"test": None}, "is not of table1.py"),
    ],
)
def test_what_cannot_be_compared(figures, result, tmp_path, capsys, change, message):
    other = {**result, **{key: {**result[key], **new} if isinstance(new, dict) else new for key, new in change.items()}}
    if other["test"] is None:
        del other["test"]
    for name, content in (("a", result), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert figures.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"row": "unet", "test": 1, "shifted": 1}'])
def test_what_is_no_result(figures, tmp_path, capsys, content):
    (tmp_path / "other.json").write_text(content)
    assert figures.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "other.json is not of table1.py" in capsys.readouterr().err


def test_no_results(figures, tmp_path, capsys):
    assert figures.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "has no JSON of table1.py" in capsys.readouterr().err


def test_the_first_results_of_the_one_command(root):
    text = (root / "docs/table1.md").read_text(encoding="utf-8")
    rows = text[text.index("| 100 slices, 4 scans of `test` |") :].split("\n\n")[0].splitlines()[2:]
    recipes = []
    for row in rows:
        network, *cells = (cell.strip(" `") for cell in row.strip("|").split("|"))
        result = json.loads((root / f"docs/results/table1_first/{network}.json").read_text(encoding="utf-8"))
        slices, lesions = result["test"]["slices"], result["test"]["scans"]["lesions"]
        assert (slices["count"], lesions["scans"]) == (100, 4)
        assert cells == [
            f"{slices['foreground_mean_iou']:.3f}",
            f"{lesions['found']} of {lesions['true']}",
            f"{lesions['false_per_scan']:.1f}",
            f"{result['train_seconds']:.0f}",
        ]
        assert result["command"] in text
        recipes.append((result["recipe"], result["seed"], result["evaluation"]))
    assert len(recipes) == 2
    assert recipes[0] == recipes[1]  # one budget


def test_the_first_results_table_and_claim(root):
    text = (root / "docs/table1.md").read_text(encoding="utf-8")
    rows = text[text.index("| 100 slices, 10 scans |") :].split("\n\n")[0].splitlines()[2:]
    means = {}
    for row in rows:
        name, *cells = (cell.strip(" `*") for cell in row.strip("|").split("|"))
        split, network = name.split("`: `")
        result = json.loads((root / f"docs/results/table1_staged/{network}.json").read_text(encoding="utf-8"))
        slices, scans = result[split]["slices"], result[split]["scans"]
        lesions, agatston = scans["lesions"], scans["agatston"]
        plain = result["test"]["slices_without_contrast"]["foreground_mean_iou"]
        means[split, network] = slices["foreground_mean_iou"]
        assert (slices["count"], scans["count"]) == (100, 10)
        assert cells == [
            *(f"{x:.3f}" for x in (*slices["iou"][1:], slices["foreground_mean_iou"])),
            f"{plain:.3f}" if split == "test" else "",
            f"{lesions['found']} of {lesions['true']}",
            f"{lesions['false_per_scan']:.1f}",
            f"{agatston['icc']:.2f}",
            f"{agatston['kappa']:.2f}",
        ]
    assert len(means) == 4
    for split in ("test", "shifted"):
        assert means[split, "ddr_sapc_u"] > means[split, "unet"]
