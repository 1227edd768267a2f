"""The package as users get it: its imports, its wheel, its checks."""

import ast
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
    assert wheel.stat().st_size < 400_000
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


BELOW = {  # what of the package each part may import
    "kernels": {"kernels"},
    "layers": {"kernels", "layers"},
    "models": {"kernels", "layers", "messages", "models", "registry"},
    "losses": {"kernels", "layers", "losses", "models"},
    "optimize": {"kernels", "layers", "models", "optimize"},
}


def imports_of(path):
    """Dotted names, wherever in the file they are imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("part", BELOW)
def test_architecture_imports_point_one_way(root, part):
    """Operations know no layers, these no networks; none of them knows the Hub, files, training or extras."""
    folder = root / "ddrsapc" / part
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert paths
    for path in paths:
        extras = EXTRAS - {"triton"} if path.parent.name == "triton" else EXTRAS
        for name in imports_of(path):
            first, _, rest = name.partition(".")
            assert first not in extras, f"{path.name}: {name}"
            if first == "ddrsapc":
                assert rest.split(".")[0] in BELOW[part], f"{path.name}: {name}"


def test_tritons_kernels_are_imported_by_their_operators_alone(root):
    """When they are called: so `import ddrsapc` does not import Triton, as the test of its imports shows."""
    for path in (root / "ddrsapc").rglob("*.py"):
        if path.parent.name != "triton" and path.name != "ops.py":
            assert not [name for name in imports_of(path) if name.startswith("ddrsapc.kernels.triton")], path.name
    operators = ast.parse((root / "ddrsapc/kernels/ops.py").read_text(encoding="utf-8"))
    at_once = [node.module for node in operators.body if isinstance(node, ast.ImportFrom)]
    assert not [name for name in at_once if name.startswith("ddrsapc.kernels.triton")]
