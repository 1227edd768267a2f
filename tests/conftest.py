"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

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
def test_data() -> Path:
    """The folder with real CT; tests that need it skip without it."""
    folder = Path(os.environ.get("DDRSAPC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set DDRSAPC_TEST_DATA")
    return folder
