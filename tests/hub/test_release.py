"""The commands of docs/releasing.md, run as they stand, from the manifest to an installed wheel."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.checkouts import copy_checkout, entry_of, manifest_of, worker_env
from tests.hub.fake_hub import FakeHub
from tests.training.small import small_network

# the command, for a unet that is 4 wide, as an entry of the manifest cannot say a width
COMMAND = """#!{python}
import ddrsapc
from ddrsapc.cli import main
ddrsapc.registry._ENTRYPOINTS["unet"].__kwdefaults__["width"] = 4
main()
"""
INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import ddrsapc
assert ddrsapc.__file__.startswith(sys.argv[1])
ddrsapc.registry._ENTRYPOINTS["unet"].__kwdefaults__["width"] = 4
print(ddrsapc.create_model("unet", pretrained=True).head.weight.tolist())
"""


@pytest.fixture
def hub():
    fake = FakeHub()
    yield fake
    fake.close()


@pytest.mark.slow
def test_releasing_from_the_manifest_to_an_installed_wheel(root, tmp_path, tmp_path_factory, hub, small_weights):
    checkout = copy_checkout(root, tmp_path / "checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, checkout)
    listed = entry_of(small_weights)
    manifest = checkout / "weights_manifest.json"
    manifest.write_bytes(manifest_of(unet__small=listed, unet__again=listed | {"default": False}))
    env = worker_env(root, tmp_path_factory, hub, checkout=checkout, HF_TOKEN=hub.token)
    script = tmp_path / "bin" / "ddrsapc"
    script.parent.mkdir()
    script.write_text(COMMAND.format(python=sys.executable))
    script.chmod(0o755)
    env["PATH"] = f"{script.parent}:{Path(sys.executable).parent}:{env['PATH']}"

    def run(commands, *, fails=False):
        command = ["bash", "-euc", commands]
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    text = (root / "docs" / "releasing.md").read_text().replace("ORG/", "org/")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    verify, dry_run, publish, build = (re.sub("^ +", "", block, flags=re.MULTILINE) for block in blocks)
    assert "unet.small is not on this machine" in run(verify, fails=True)
    (checkout / "weights" / listed["filename"]).write_bytes(small_weights)
    assert run(verify).count("118 tensors") == 2

    before = manifest.read_bytes()
    assert run(dry_run).count("checked; nothing was sent") == 2
    assert hub.requests == []
    assert manifest.read_bytes() == before

    names = dry_run.splitlines()[0]  # the shell's variable, as for somebody who goes on in the same shell
    assert run(f"{names}\n{publish}").count("published as org/unet.") == 2
    entries = json.loads(manifest.read_text())["weights"]
    assert {name: entry["repo_id"] for name, entry in entries.items()} == {name: f"org/{name}" for name in entries}

    run(build)
    (wheel,) = (checkout / "dist").glob("*.whl")
    site = tmp_path / "site"
    run(f"python -m pip install -q --no-deps --target {site} {wheel}")
    env |= {"HF_HOME": str(tmp_path / "another_home"), "PYTHONPATH": ""}
    del env["HF_TOKEN"]
    command = [sys.executable, "-c", INSTALLED, str(site)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(small_network().head.weight.tolist()), done.stderr
