"""Fixtures shared by all tests."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ddrsapc
from ddrsapc.hub.saving import weights_bytes
from ddrsapc.models import InputConfig
from tests.hub.checkouts import INPUT, manifest_of
from tests.public_ddrnet import public_state_dict
from tests.training.small import small_network

ROOT = Path(__file__).resolve().parents[1]


# the networks under test are small: a second thread costs more than it gives, and xdist uses the cores
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The source checkout."""
    return ROOT


@pytest.fixture(scope="session")
def example(root) -> Callable[[str], ModuleType]:
    """`example(name)`: a script of examples/ as a module."""

    def load(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, root / "examples" / f"{name}.py")
            sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for their module
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(root / "examples")  # examples import each other
                spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return load


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real CT; tests that need it skip without it."""
    folder = Path(os.environ.get("DDRSAPC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set DDRSAPC_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def small_weights():
    """The bytes of a file of weights of `small_network`, which is a `unet` of width 4, with INPUT's settings."""
    network = small_network()
    network.input_config = InputConfig.from_dict(INPUT)
    return weights_bytes(network)


@pytest.fixture
def path(tmp_path, small_weights):
    """A file of `small_weights`."""
    path = tmp_path / "best.safetensors"
    path.write_bytes(small_weights)
    return path


@pytest.fixture
def full_width(monkeypatch):
    """A `unet` whose own width is 4, so that entries of the manifest, which have no width, can be small."""
    entrypoint = ddrsapc.registry._ENTRYPOINTS["unet"]
    monkeypatch.setitem(entrypoint.__kwdefaults__, "width", 4)


@pytest.fixture
def checkout(tmp_path, monkeypatch, full_width):
    """An empty source checkout that this process takes for its own: write its manifest and weights/."""
    folder = tmp_path / "checkout"
    (folder / "ddrsapc").mkdir(parents=True)
    (folder / "weights").mkdir()
    (folder / "weights_manifest.json").write_bytes(manifest_of())
    monkeypatch.setattr(ddrsapc, "__file__", str(folder / "ddrsapc" / "__init__.py"))
    monkeypatch.delenv("DDRSAPC_WEIGHTS_DIR", raising=False)
    return folder


@pytest.fixture(scope="session")
def public(root):
    """`public(variant, layout)`: a state dict with the keys of a public DDRNet checkpoint."""
    keys = json.loads((root / "tests/golden/ddrnet_keys.json").read_text())
    return lambda variant, layout: public_state_dict(keys[f"{variant}/{layout}"])
