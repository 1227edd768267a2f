"""The kernels' arithmetic, run by Triton's interpreter: in processes of their own, as importing chooses it."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SUITES = ["upsample_add_act", "dual_gate", "ohem_cross_entropy", "upsample_argmax", "operators"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_interpreted(suite, root):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/kernels/interpreted/{suite}.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_suite_is_forgotten(root):
    names = {path.stem for path in (root / "tests/kernels/interpreted").glob("*.py")} - {"conftest", "__init__"}
    assert names == set(SUITES)
