"""The package as users get it: its imports, its wheel, its checks."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, requires

import pytest

from tests.hub.checkouts import entry_of, manifest_of

EXTRAS = {
    *("triton", "huggingface_hub", "click", "scipy", "onnx", "matplotlib"),
    *("pydicom", "pylibjpeg", "gdcm", "highdicom", "SimpleITK", "PIL", "nibabel"),
}


def run(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hard_dependencies_are_the_five():
    names = {re.split(r"[<>=!~;\[ ]", line)[0] for line in requires("ddrsapc") if "extra ==" not in line}
    assert names == {"torch", "huggingface-hub", "safetensors", "numpy", "einops"}
    assert metadata("ddrsapc")["Requires-Python"] == ">=3.10"


def test_import_loads_no_extra():
    """Nor does the command, but for click."""
    code = "import torch, sys; before = set(sys.modules)"
    for module in ("ddrsapc", "ddrsapc.cli.app"):
        code += f"; import {module}; print(*(set(sys.modules) - before))"
    loaded, by_command = (set(line.split()) for line in run(sys.executable, "-c", code).splitlines())
    assert "ddrsapc.models.transunet" in loaded
    assert not loaded & EXTRAS
    assert "ddrsapc.cli.train" in by_command
    assert by_command & EXTRAS == {"click"}


def test_import_costs_little_beyond_torch():
    code = "import torch, time; t = time.perf_counter(); import ddrsapc; print(time.perf_counter() - t)"
    assert min(float(run(sys.executable, "-c", code)) for _ in range(3)) < 0.3


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(root))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_is_small_and_whole(wheel, root):
    assert wheel.stat().st_size < 300_000
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(root).as_posix() for path in (root / "ddrsapc").rglob("*.*") if path.suffix in {".py", ".css"}
    }
    assert sources <= names
    assert {"ddrsapc/py.typed", "ddrsapc/weights_manifest.json"} <= names
    assert zipfile.ZipFile(wheel).read("ddrsapc/weights_manifest.json") == (root / "weights_manifest.json").read_bytes()
    assert not any(name.endswith((".safetensors", "hubconf.py")) for name in names)
    others = {name for name in names if not name.startswith("ddrsapc/") and ".dist-info/" not in name}
    assert not others


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel))
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import ddrsapc, ddrsapc.hub; "
        "assert ddrsapc.__file__.startswith(sys.path[0]); "
        "print(ddrsapc.__version__, len(ddrsapc.list_models()), ddrsapc.hub.load_manifest() is not None)"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).split()[1:] == ["8", "True"]


UNPUBLISHED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import ddrsapc
assert ddrsapc.__file__.startswith(sys.path[0])
ddrsapc.registry._ENTRYPOINTS["unet"].__kwdefaults__["width"] = 4
try:
    ddrsapc.create_model("unet", pretrained=True)
except ddrsapc.hub.WeightsNotPublishedError as error:
    print(error)
ddrsapc.create_model("unet.small", weights=f"{sys.argv[2]}/unet.small.safetensors")
os.environ["DDRSAPC_WEIGHTS_DIR"] = sys.argv[2]
ddrsapc.create_model("unet", pretrained=True)
"""


@pytest.mark.slow
def test_a_wheel_says_what_is_not_published(wheel, tmp_path, small_weights):
    """A wheel of a manifest with an entry: the weights load by the ways that the message names."""
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel))
    (target / "ddrsapc" / "weights_manifest.json").write_bytes(manifest_of(unet__small=entry_of(small_weights)))
    (tmp_path / "unet.small.safetensors").write_bytes(small_weights)
    said = run(sys.executable, "-c", UNPUBLISHED, str(target), str(tmp_path), cwd=tmp_path)
    assert said.startswith("unet.small is not published on the Hub yet. It loads from a source checkout")
    assert "$DDRSAPC_WEIGHTS_DIR that holds unet.small.safetensors, or with weights=PATH" in said


def test_ruff(root):
    run(sys.executable, "-m", "ruff", "check", ".", cwd=root)
    run(sys.executable, "-m", "ruff", "format", "--check", ".", cwd=root)


def test_types(root):
    run(sys.executable, "-m", "mypy", cwd=root)


def test_architecture_imports_point_one_way(root):
    """Layers know no networks; layers and networks know nothing of the Hub, files, training or extras."""
    forbidden = re.compile(
        r"^\s*(?:from|import) (?:ddrsapc\.(?:hub|checkpoint|factory|losses|profile|data|training|files|cli|ct)|"
        + "|".join(EXTRAS)
        + ")"
    )
    for path in [*(root / "ddrsapc/layers").glob("*.py"), *(root / "ddrsapc/models").glob("*.py")]:
        for line in path.read_text().splitlines():
            assert not forbidden.match(line), f"{path.name}: {line}"
            if path.parent.name == "layers":
                assert "ddrsapc.models" not in line, f"{path.name}: {line}"
