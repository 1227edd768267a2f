"""`torch.hub.load` from a checkout."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
import torch

import ddrsapc
from tests.hub.checkouts import copy_checkout, entry_of, manifest_of
from tests.training.small import small_network


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """torch.hub leaves the checkout in sys.path and writes to its folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_every_network_is_a_documented_entry_point(root):
    spec = importlib.util.spec_from_file_location("hubconf", root / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    # what torch.hub.list shows
    assert sorted(name for name in dir(hubconf) if callable(getattr(hubconf, name)) and name[0] != "_") == (
        ddrsapc.list_models()
    )
    for name in ddrsapc.list_models():
        assert ddrsapc.model_entrypoint(name).__doc__ in getattr(hubconf, name).__doc__
    hard = {re.split(r"[<>=]", line)[0].replace("-", "_") for line in requires("ddrsapc") if "extra ==" not in line}
    assert set(hubconf.dependencies) == hard


def test_loads_as_create_model_does(root, tmp_path):
    model = torch.hub.load(str(root), "ddr_sapc_u", source="local", num_classes=3, width=4)
    assert (model.architecture, model.num_classes, model.width) == ("ddr_sapc_u", 3, 4)
    ddrsapc.hub.save_pretrained(small_network(), tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    loaded = torch.hub.load(str(root), "unet", source="local", weights=weights)
    assert torch.equal(loaded.head.weight, small_network().head.weight)


@pytest.mark.slow
def test_pretrained_from_a_checkout_that_is_not_installed(root, tmp_path, small_weights):
    """As somebody who only cloned it: no installation, the weights in the checkout's own folder."""
    checkout = copy_checkout(root, tmp_path / "clone")
    (checkout / "hubconf.py").write_bytes((root / "hubconf.py").read_bytes())
    entry = entry_of(small_weights)
    (checkout / "weights_manifest.json").write_bytes(manifest_of(unet__small=entry))
    (checkout / "weights" / entry["filename"]).write_bytes(small_weights)
    code = (
        "import sys, torch; sys.path = [p for p in sys.path if 'editable' not in p]; "
        f"torch.hub.load({str(checkout)!r}, 'unet', source='local', pretrained=True, width=4); "
        "import ddrsapc; print(ddrsapc.__file__)"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DDRSAPC_WEIGHTS_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(checkout / "ddrsapc" / "__init__.py")
