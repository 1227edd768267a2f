"""A Hub on loopback, and a process that loads from it."""

import zlib

import pytest

from ddrsapc.hub.saving import model_files
from tests.hub.checkouts import entry_of, manifest_of, worker_env
from tests.hub.downloads import CREATE, SETUP
from tests.hub.fake_hub import FakeHub
from tests.hub.worker import Worker
from tests.training.small import small_network


@pytest.fixture(scope="module")
def files():
    return model_files(small_network(), repo_id="org/unet")


@pytest.fixture(scope="module")
def hub():
    fake = FakeHub()
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def worker(root, tmp_path_factory, hub):
    """One process for the whole file; each test has a repository and a cache of its own."""
    env = worker_env(root, tmp_path_factory, hub, HF_TOKEN=hub.token)
    process = Worker(env, tmp_path_factory.mktemp("cwd"))
    process.checkout = env["CHECKOUT"]
    assert process.run(SETUP).error == []
    yield process
    process.close()


@pytest.fixture
def repo(request, hub, files):
    """A repository named after the test, and its commit."""
    name = f"org/test-{zlib.crc32(request.node.name.encode())}"
    commit = hub.publish(name, files)
    hub.requests.clear()
    return name, commit


@pytest.fixture
def load(worker, hub, repo, files, tmp_path):
    """Load the listed weights, whose entry points to the repository."""

    def run(*, cache="cache", name="unet.small", entry=None, code=CREATE, **options):
        listed = entry_of(files["model.safetensors"], repo_id=repo[0], revision=repo[1]) | (entry or {})
        with open(f"{worker.checkout}/weights_manifest.json", "wb") as file:
            file.write(manifest_of(unet__small=listed))
        return worker.run(code, name=name, cache=str(tmp_path / cache), options=options)

    return run
