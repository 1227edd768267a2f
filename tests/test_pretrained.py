"""The pretrained weights that lie in weights/: whole, loaded without a network, and as good as the manifest says."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

import ddrsapc
from ddrsapc.data import make_loader, shard_batches
from ddrsapc.hub import list_pretrained, load_manifest, verify_weights
from ddrsapc.phantom import PhantomDataset, draw_case
from ddrsapc.training import BatchPreparation, evaluate

NAMES = list_pretrained()
SLICES = 6  # the first of the hundred that the manifest's figures are of
OF_SLICES = {"ddr_sapc_u.cac_phantom": 0.964, "ddr_sapc_u_s.cac_phantom": 0.965}
"""Foreground mean IoU of these, as it was when the hundred's was measured."""
DEFAULT = "ddr_sapc_u.cac_phantom"

NO_NETWORK = """
import socket, sys
def refuse(*_): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
import ddrsapc
model = ddrsapc.create_model(sys.argv[1], pretrained=True)
print(model.num_classes, next(model.parameters()).dtype, model.input_config.hu_window)
"""


def test_the_default_weights_are_there():
    manifest = load_manifest()
    assert manifest[DEFAULT].default


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_the_manifests(root, name):
    spec = load_manifest()[name]
    file = verify_weights(root / "weights" / spec.filename, spec)
    # norms stay in float32
    assert {tensor.dtype for tensor in file.tensors.values() if tensor.ndim > 1} == {torch.float16}
    card = (root / "weights" / spec.filename).with_suffix(".md").read_text(encoding="utf-8")
    assert "simulated" in card
    assert "medical device" in card


def result_of(root, name, kind=""):
    return json.loads((root / f"docs/results/pretrained/{name}{kind}.json").read_text(encoding="utf-8"))


def table_in(root, page, header):
    """The cells of the rows of a page's table."""
    text = (root / "docs" / page).read_text(encoding="utf-8")
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_the_manifests_figures_are_the_results(root, name):
    spec = load_manifest()[name]
    results = {0: result_of(root, name), 1: result_of(root, name, ".seed1")}
    assert {result["weights"] for result in results.values()} == {f"weights/{spec.filename}"}
    assert {metric.seed for metric in spec.metrics} == {0, 1}
    for metric in spec.metrics:
        result = results[metric.seed]
        part = result[metric.split]
        slices = part["slices_without_contrast" if metric.dataset.endswith("without contrast") else "slices"]
        lesions = part["scans"]["lesions"]
        figures = {
            "mean IoU": (slices["mean_iou"], slices["count"]),
            "foreground mean IoU": (slices["foreground_mean_iou"], slices["count"]),
            **{f"IoU {spec.classes[c]}": (slices["iou"][c], slices["count"]) for c in (1, 2, 3)},
            "lesion sensitivity": (lesions["sensitivity"], lesions["scans"]),
            "false lesions per scan": (lesions["false_per_scan"], lesions["scans"]),
            "Agatston ICC(2,1)": (part["scans"]["agatston"]["icc"], part["scans"]["count"]),
        }
        value, n = figures[metric.name]
        assert (metric.value, metric.n, metric.seed) == (round(value, 4), n, result["evaluation"]["seed"]), metric


def test_the_default_is_as_good_as_was_asked_for(root):
    """Foreground mean IoU of at least 0.60 on the phantom's test."""
    slices = result_of(root, DEFAULT)["test"]["slices"]
    assert slices["count"] >= 100
    assert slices["foreground_mean_iou"] >= 0.60


@pytest.mark.parametrize("kind", ["", ".seed1", ".real_scans", ".implants"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_of_a_commit_and_of_these_weights(root, name, kind):
    result = result_of(root, name, kind)
    assert re.fullmatch("[0-9a-f]{40}", result["commit"])
    assert result["weights_sha256"] == load_manifest()[name].sha256


def test_the_tables_figures_are_the_results(root):
    kinds = {
        "test": ("test", "slices"),
        "test, the same hearts simulated without contrast": ("test", "slices_without_contrast"),
        "shifted": ("shifted", "slices"),
    }
    shown, name = [], ""
    for first, second, *cells in table_in(root, "weights.md", "| weights | split |"):
        name, kind = first or name, second.split(" (")[0]
        split, slices = kinds[kind]
        figures = result_of(root, name)[split][slices]
        assert cells == [f"{x:.2f}" for x in (figures["foreground_mean_iou"], *figures["iou"][1:])], (name, kind)
        shown.append((name, kind))
    assert sorted(shown) == sorted((name, kind) for name in NAMES for kind in kinds)


def test_the_whole_scans_figures_are_the_results(root):
    shown, name = [], ""
    for first, split, *cells in table_in(root, "weights.md", "| weights | split | lesions found |"):
        name = first or name
        scans = result_of(root, name)[split]["scans"]
        lesions, agatston, bias = scans["lesions"], scans["agatston"], scans["agatston"]["differences"]
        kappa = agatston["kappa"]
        assert cells == [
            f"{lesions['found']} of {lesions['true']}",
            f"{lesions['false_per_scan']:.1f}",
            f"{agatston['icc']:.2f}",
            f"{bias['bias']:+.0f}, {bias['lower']:.0f} to {bias['upper']:.0f}",
            "-" if kappa is None else f"{kappa:.2f}",
        ], (name, split)
        assert scans["count"] == 10
        shown.append((name, split))
    assert sorted(shown) == sorted((name, split) for name in NAMES for split in ("test", "shifted"))


@pytest.mark.parametrize("name", NAMES)
def test_scans_without_contrast_fall_into_their_category_and_the_others_are_missed(root, name):
    pytest.importorskip("scipy")
    plain, missed = [], []
    for split, expected in (("test", 3), ("shifted", 5)):
        scans = result_of(root, name)[split]["scans"]["scans"]
        contrast = [draw_case(0, index, split=split).has_contrast for index in range(len(scans))]
        assert contrast.count(True) == expected
        assert [scan["name"] for scan in scans] == [draw_case(0, i, split=split).name for i in range(len(scans))]
        plain += [scan["category"] for scan, has in zip(scans, contrast, strict=True) if not has]
        scores = [scan["agatston"] for scan, has in zip(scans, contrast, strict=True) if has]
        missed += [score["predicted"] < 0.1 * score["true"] for score in scores if score["true"] > 0]
    assert (len(missed), missed.count(False)) == (7, {DEFAULT: 0}.get(name, 1))
    assert len(plain) == 12
    assert [category["predicted"] for category in plain] == [category["true"] for category in plain]


def test_the_other_cases_figures_are_the_results(root):
    """Of cases that nothing was decided on."""
    shown = []
    for name, *cells in table_in(root, "weights.md", "| weights | test, 95 % interval |"):
        result = result_of(root, name, ".seed1")
        assert result["weights"] == f"weights/{load_manifest()[name].filename}"
        assert (result["evaluation"]["seed"], result["evaluation"]["slices"]) == (1, 100)
        parts = result["test"]["slices"], result["test"]["slices_without_contrast"], result["shifted"]["slices"]
        assert cells == [
            "{:.2f}, {:.2f} to {:.2f}".format(part["foreground_mean_iou"], *part["foreground_mean_iou_95"])
            for part in parts
        ], name
        shown.append(name)
    assert sorted(shown) == sorted(NAMES)


def test_the_real_scans_figures_are_the_results(root):
    columns = list(zip(*table_in(root, "weights.md", "| scan | `ddr_sapc_u` | `ddr_sapc_u_s` |"), strict=True))[1:]
    for name, column in zip(("ddr_sapc_u.cac_phantom", "ddr_sapc_u_s.cac_phantom"), columns, strict=True):
        result = result_of(root, name, ".real_scans")
        assert result["weights"] == f"weights/{load_manifest()[name].filename}"
        *chest, abdomen, vertebra = (f"{scan['false_mm3']:.0f}" for scan in result["scans"])
        stored, fine = (f"{pulmonary} and {aorta} mm3" for pulmonary, aorta in (chest[:2], chest[2:]))
        assert column == (stored, fine, f"{abdomen} mm3", f"{vertebra} mm3")


def test_the_implants_figures_are_the_results(root):
    shown = {}
    for name, contrast, *cells in table_in(root, "weights.md", "| weights | contrast |"):
        shown[name, contrast] = cells
    for name in NAMES:
        for scan in result_of(root, name, ".implants")["scans"]:
            cells = shown.pop((name, "kept" if scan["contrast"] else "taken away"))
            called, lad = scan["LM and LAD called LAD"]
            assert cells == [
                f"{scan['found']} of {scan['on arteries']}",
                f"{scan['called by their vessel']}",
                f"{called} of {lad}",
                f"{scan['elsewhere, called coronary']} of {scan['elsewhere']}",
                f"{scan['false outside the heart, mm3']:.0f} mm3",
            ]
    assert not shown


def test_they_load_without_a_network(root, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DDRSAPC_"))}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "ddr_sapc_u"],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2)[:2] == ["4", "torch.float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_they_find_what_they_found_when_they_were_measured(name):
    pytest.importorskip("scipy")
    model = ddrsapc.create_model(name)
    data = PhantomDataset("test", 512, SLICES, seed=0)
    loader = make_loader(data, shard_batches(len(data), 2))
    fast = ddrsapc.optimize_for_inference(model)
    result = evaluate(fast, loader, BatchPreparation(model.input_config, torch.device("cpu")))
    # rounding moves some pixels of a few hundred
    assert result.scores.foreground_mean_iou == pytest.approx(OF_SLICES[name], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scan_name",
    [
        "totalseg_cta_pulmonary",
        "totalseg_cta_aorta",
        "totalseg_cta_pulmonary_fine",
        "totalseg_cta_aorta_fine",
        "totalseg_dicom_j2k",
        "ct_small",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_false_calcium_in_real_scans(example, test_data, name, scan_name):
    pytest.importorskip("SimpleITK")
    scans = example("real_scans")
    (scan,) = [one for one in scans.real_scans(test_data) if one.name == scan_name]
    volume, heart = scan.read()
    found, labels = scans.evaluate(ddrsapc.optimize_for_inference(ddrsapc.create_model(name)), scan, volume, heart)
    assert labels.shape == volume.hu.shape
    assert found.false_mm3 <= scan.limit_mm3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_calcium_on_the_arteries_of_a_real_heart_is_found(example, test_data, root, name):
    pytest.importorskip("SimpleITK")
    implants = example("implants")
    plain = result_of(root, name, ".implants")["scans"][0]
    model = ddrsapc.optimize_for_inference(ddrsapc.create_model(name))
    found, _ = implants.evaluate(model, implants.read_heart(test_data), contrast=False)
    assert found["on arteries"] == plain["on arteries"]
    for count in ("found", "called by their vessel", "elsewhere, called coronary"):
        assert abs(found[count] - plain[count]) <= 1  # rounding moves some pixels of a few hundred
    assert found["called by their vessel"] > found["on arteries"] / 2
    called, lad = found["LM and LAD called LAD"]
    assert called > lad / 2
    assert found["elsewhere, called coronary"] <= 1
    assert found["other, mm2 a slice"] < 3  # a disc has 13


@pytest.mark.parametrize("name", NAMES)
def test_with_contrast_next_to_nothing_is_found_as_the_cards_say(root, name):
    plain, contrast = result_of(root, name, ".implants")["scans"]
    assert [plain["contrast"], contrast["contrast"]] == [False, True]
    assert contrast["found"] <= 2
    assert contrast["other, mm2 a slice"] < 1
    card = (root / f"weights/{name}.md").read_text(encoding="utf-8")
    card = " ".join(card.split())
    assert f"{plain['found']} of {plain['on arteries']} discs found" in card
    assert f"; {plain['false outside the heart, mm3']:.0f} mm3 outside that heart" in card
