"""The pretrained weights that lie in weights/: whole, loaded without a network, and as good as the manifest says."""

import os
import subprocess
import sys

import pytest
import torch

import ddrsapc
from ddrsapc.data import make_loader, shard_batches
from ddrsapc.hub import list_pretrained, load_manifest, verify_weights
from ddrsapc.phantom import PhantomDataset
from ddrsapc.training import BatchPreparation, evaluate

NAMES = list_pretrained()
SLICES = 16  # of those that the manifest's figures are of
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
def test_they_are_as_good_as_the_manifest_says(name):
    pytest.importorskip("scipy")
    about = ("ddrsapc phantom", "test", "foreground mean IoU")
    (metric,) = [m for m in load_manifest()[name].metrics if (m.dataset, m.split, m.name) == about]
    model = ddrsapc.create_model(name)
    data = PhantomDataset("test", 512, SLICES, seed=metric.seed)
    loader = make_loader(data, shard_batches(len(data), 2))
    fast = ddrsapc.optimize_for_inference(model)
    result = evaluate(fast, loader, BatchPreparation(model.input_config, torch.device("cpu")))
    assert result.scores.foreground_mean_iou > metric.value - 0.15  # of the first slices alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "totalseg_cta_pulmonary",
        "totalseg_cta_aorta",
        pytest.param("totalseg_dicom_j2k", marks=pytest.mark.xfail(reason="breastbone, ribs", strict=True)),
        "ct_small",
    ],
)
def test_false_calcium_in_real_scans(example, test_data, name):
    pytest.importorskip("SimpleITK")
    scans = example("real_scans")
    (scan,) = [scan for scan in scans.real_scans(test_data) if scan.name == name]
    found, volume, labels = scans.evaluate(ddrsapc.optimize_for_inference(ddrsapc.create_model(DEFAULT)), scan)
    assert labels.shape == volume.hu.shape
    assert found.false_mm3 <= scan.limit_mm3
