"""Publishing to a Hub on loopback and loading from there, by the real client in processes of their own."""

import json
import re
import time
import zlib
from pathlib import Path

import pytest
import torch

import ddrsapc
from ddrsapc.hub.saving import weights_bytes
from tests.hub.checkouts import digest_of, entry_of, manifest_of, worker_env
from tests.hub.fake_hub import FakeHub
from tests.hub.worker import Worker
from tests.training.small import small_network

REPO = "org/unet.small"
SETUP = """
import ddrsapc
import torch
from tests.hub.checkouts import digest_of
ddrsapc.registry._ENTRYPOINTS["unet"].__kwdefaults__["width"] = 4
"""
PUBLISH = """
done = ddrsapc.hub.publish("unet.small", repo, **options)
result = [done.repo_id, done.revision, done.sha256, dict(done.sizes), done.card]
"""
WITHOUT_TOKEN = """
import os
token = os.environ.pop("HF_TOKEN")
try:
    ddrsapc.hub.publish("unet.small", repo, **options)
finally:
    os.environ["HF_TOKEN"] = token
"""
LOAD = "result = digest_of(ddrsapc.create_model(name, cache_dir=cache))"


@pytest.fixture(scope="module")
def hub():
    fake = FakeHub()
    yield fake
    fake.close()


@pytest.fixture(scope="module", params=["xet", "lfs"])
def worker(request, root, tmp_path_factory, hub):
    """Uploads as the client does by default (Xet), and without Xet."""
    more = {"HF_HUB_DISABLE_XET": "1"} if request.param == "lfs" else {}
    env = worker_env(root, tmp_path_factory, hub, HF_TOKEN=hub.token, **more)
    process = Worker(env, tmp_path_factory.mktemp("cwd"))
    process.env, process.checkout, process.upload = env, Path(env["CHECKOUT"]), request.param
    assert process.run(SETUP).error == []
    yield process
    process.close()


@pytest.fixture
def network(request):
    """Other weights for every test: Xet sends no bytes twice."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))
    return ddrsapc.create_model("unet", width=4)


@pytest.fixture
def manifest(worker, hub, network):
    """The manifest of the worker's checkout with one entry, not published, whose file lies in weights/."""
    hub.repos.clear()
    hub.requests.clear()
    hub.faults.clear()
    data = weights_bytes(network)
    path = worker.checkout / "weights_manifest.json"
    path.write_bytes(manifest_of(unet__small=entry_of(data)))
    (worker.checkout / "weights" / "unet.small.safetensors").write_bytes(data)
    return path


def asked(hub, *words):
    return [request for request in hub.requests if any(word in request.path for word in words)]


def test_publish_then_load_on_a_clean_cache(worker, hub, manifest, network, tmp_path):
    before = json.loads(manifest.read_text())
    weights = worker.checkout / "weights" / "unet.small.safetensors"
    outcome = worker.run(PUBLISH, repo=REPO, options={})
    assert outcome.error == [], outcome.message
    repo_id, revision, _, sizes, card = outcome.result

    # one commit, with everything
    repo = hub.repos[REPO]
    assert list(repo.commits)[-1] == revision
    assert len(repo.commits) == 2  # the repository's own first one
    files = repo.commits[revision]
    assert files["model.safetensors"].data == weights.read_bytes()
    assert files["README.md"].data.decode() == card
    assert sizes == {name: len(files[name].data) for name in ("model.safetensors", "config.json", "README.md")}
    assert json.loads(files["config.json"].data)["pretrained_cfg"]["tag"] == "small"
    uploaded = "/v1/xorbs/" if worker.upload == "xet" else "/lfs/"
    assert [request for request in asked(hub, uploaded) if request.method in ("POST", "PUT")]

    # the token stays at the Hub
    assert not [request for request in hub.requests if request.port == "storage" and hub.token in str(request)]

    # the manifest says where, and nothing else changed
    after = json.loads(manifest.read_text())
    assert (repo_id, after["weights"]["unet.small"]["repo_id"]) == (REPO, REPO)
    assert after["weights"]["unet.small"].pop("revision") == revision
    assert before["weights"]["unet.small"].pop("revision") is None
    assert after["weights"]["unet.small"] == before["weights"]["unet.small"] | {"repo_id": REPO}

    # somebody else, who has the manifest alone
    local = weights.read_bytes()
    weights.unlink()
    for name in ("unet.small", f"hf-hub:{REPO}", f"hf-hub:{REPO}@{revision}"):
        cache = tmp_path / name.replace("/", "-")
        loaded = worker.run(LOAD, name=name, cache=str(cache))
        assert loaded.error == [], loaded.message
        assert loaded.result == digest_of(network)
        assert local in [path.read_bytes() for path in cache.rglob("blobs/*")]


def test_publishing_again_changes_only_the_commit(worker, hub, manifest):
    first = worker.run(PUBLISH, repo=REPO, options={})
    again = worker.run(PUBLISH, repo=REPO, options={})
    assert again.error == [], again.message
    assert again.result[2:] == first.result[2:]
    assert json.loads(manifest.read_text())["weights"]["unet.small"]["revision"] == again.result[1]


def test_a_dry_run_sends_nothing(worker, hub, manifest):
    before = manifest.read_bytes()
    outcome = worker.run(PUBLISH, repo=REPO, options={"dry_run": True})
    assert outcome.error == [], outcome.message
    assert outcome.result[1] is None
    assert "Intended use" in outcome.result[4]
    assert "ddrsapc train DATA" in outcome.result[4]
    assert hub.requests == []
    assert hub.repos == {}
    assert manifest.read_bytes() == before


def test_the_text_beside_the_weights_is_on_their_card(worker, hub, manifest):
    notes = worker.checkout / "weights" / "unet.small.md"
    notes.write_text("## Training data\n\nSquares, 30 µm.\n", encoding="utf-8")
    outcome = worker.run(PUBLISH, repo=REPO, options={"dry_run": True})
    notes.unlink()
    assert outcome.error == [], outcome.message
    assert "\n\n## Training data\n\nSquares, 30 µm.\n\n## Metrics\n" in outcome.result[4]


@pytest.mark.parametrize("moment", ["commit", "upload", "reading back", "renaming"])
def test_killed_in_the_middle(worker, hub, manifest, moment, tmp_path):
    before = manifest.read_bytes()
    places = {"commit": REPO, "upload": "upload", "reading back": f"{REPO} storage"}
    if moment in places:
        hub.faults[places[moment]] = ["hang"]
    victim = Worker(worker.env, tmp_path)
    assert victim.run(SETUP).error == []
    if moment == "renaming":  # the last moment at which the manifest is the old one
        victim.run("import os, pathlib, signal")
        victim.run("pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)")
    victim.send(PUBLISH, repo=REPO, options={})
    deadline = time.monotonic() + 20
    while not hub.hanging and victim.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (hub.hanging > 0) == (moment != "renaming")
    victim.close()
    hub.release()
    assert manifest.read_bytes() == before
    left = {path.name for path in worker.checkout.iterdir()} - {"ddrsapc", "weights", "weights_manifest.json"}
    assert all(name.endswith(".part") for name in left)
    for name in left:
        (worker.checkout / name).unlink()
    outcome = worker.run(PUBLISH, repo=REPO, options={})
    assert outcome.error == [], outcome.message
    assert json.loads(manifest.read_text())["weights"]["unet.small"]["revision"] == outcome.result[1]


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ({REPO: ["tampered"]}, "WeightsIntegrityError", "does not hold the bytes that were sent for model.safetensors"),
        ({f"{REPO} storage": ["corrupt always"]}, "WeightsIntegrityError", "expected sha256"),
        ({REPO: ["500"]}, "WeightsUploadError", "publishing failed.*500.*the same may be run again"),
        ({"upload": ["refused always"]}, "WeightsUploadError", "publishing failed.*the same may be run again"),
        ({"create": ["403"]}, "WeightsAccessError", "refuses access"),
    ],
)
def test_what_fails_on_the_way_leaves_the_manifest_as_it_was(worker, hub, manifest, faults, error, message):
    before = manifest.read_bytes()
    hub.faults.update({place: list(kinds) for place, kinds in faults.items()})
    outcome = worker.run(PUBLISH, repo=REPO, options={})
    assert outcome.error[0] == error, outcome.message
    assert re.search(message, outcome.message), outcome.message
    assert "\n" not in outcome.message
    assert hub.token not in outcome.message
    assert manifest.read_bytes() == before


def test_private_repositories(worker, hub, manifest, tmp_path):
    outcome = worker.run(PUBLISH, repo=REPO, options={"private": True})
    assert outcome.error == [], outcome.message
    assert hub.repos[REPO].private
    hub.publish("org/public", {"README.md": b"seen by all"})
    commits = len(hub.repos["org/public"].commits)
    refused = worker.run(PUBLISH, repo="org/public", options={"private": True})
    assert refused.error[0] == "WeightsAccessError"
    assert "org/public exists and is public" in refused.message
    assert len(hub.repos["org/public"].commits) == commits


def test_tokens(worker, hub, manifest):
    outcome = worker.run(PUBLISH, repo=REPO, options={"token": "hf_wrong"})
    assert outcome.error[0] == "WeightsAccessError"
    assert "log in with: hf auth login" in outcome.message
    assert "hf_wrong" not in outcome.message
    hub.requests.clear()
    none = worker.run(WITHOUT_TOKEN, repo=REPO, options={})
    assert none.error[0] == "WeightsAccessError"
    assert "publishing needs an access token" in none.message
    assert hub.requests == []


def test_what_is_not_fit_to_be_published_is_not_sent(worker, hub, manifest):
    good = weights_bytes(small_network())
    path = worker.checkout / "weights" / "unet.small.safetensors"
    broken = small_network()
    broken.head.weight.data[0] = float("inf")
    wide = weights_bytes(small_network(aux_head=True))
    cases = [
        (good[:-1], entry_of(good), "WeightsIntegrityError", "expected"),
        (weights_bytes(broken), entry_of(weights_bytes(broken)), "UnsafeWeightsError", "not finite"),
        (wide, entry_of(wide, num_tensors=131), "WeightsMismatchError", "unexpected"),
        (good, entry_of(good, first_conv="stem"), "WeightsMismatchError", "the manifest names first_conv stem"),
        (good, entry_of(good, num_classes=2, classes=["a", "b"]), "WeightsMismatchError", "but has 4"),
        (None, entry_of(good), "WeightsNotFoundError", "unet.small is not on this machine"),
        (good, entry_of(good, license=""), "ManifestError", "license"),
        (good, entry_of(good), None, None),
    ]
    for data, entry, error, message in cases:
        manifest.write_bytes(manifest_of(unet__small=entry))
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        outcome = worker.run(PUBLISH, repo=REPO, options={"dry_run": error is None})
        assert (outcome.error or [None])[0] == error, outcome.message
        assert error is None or message in outcome.message
    unknown = worker.run("ddrsapc.hub.publish('unet.smal', 'org/name')")
    assert unknown.error[0] == "WeightsNotFoundError"
    assert "no entry 'unet.smal': did you mean 'unet.small'" in unknown.message
    assert hub.requests == []


def test_a_network_of_ones_own(worker, hub, manifest, tmp_path):
    code = """
torch.manual_seed(9)
model = ddrsapc.create_model("unet", num_classes=2)
result = [ddrsapc.hub.push_to_hub(model, repo, license="mit", **options), digest_of(model)]
"""
    outcome = worker.run(code, repo="me/mine", options={})
    assert outcome.error == [], outcome.message
    source, digest = outcome.result
    name, commit = source.split("@")
    assert name == "hf-hub:me/mine"
    assert commit == list(hub.repos["me/mine"].commits)[-1]
    assert worker.run(LOAD, name=source, cache=str(tmp_path)).result == digest
    card = hub.repos["me/mine"].commits[commit]["README.md"].data.decode()
    assert 'create_model("hf-hub:me/mine")' in card
    assert "license: mit" in card
    absent = worker.run(code, repo="me/mine", options={"revision": "dev"})
    assert absent.error[0] == "WeightsUploadError"
    assert "Revision Not Found" in absent.message
    hub.repos["me/mine"].branches += ("dev",)
    branch = worker.run(code, repo="me/mine", options={"revision": "dev"})
    assert branch.error == [], branch.message
    assert asked(hub, "/commit/dev")


@pytest.mark.parametrize(
    "repo", ["unet", "no name", "../x", "hf-hub:org/x", "org/x@main", "", "org/-x", "a/b/c", "o--o/x"]
)
def test_impossible_names_are_refused_before_anything_is_done(worker, hub, manifest, repo):
    for code in (PUBLISH, "ddrsapc.hub.push_to_hub(ddrsapc.create_model('unet'), repo)"):
        outcome = worker.run(code, repo=repo, options={"dry_run": True})
        assert outcome.error[0] == "ValueError"
        assert "expected a repository as org/name" in outcome.message
    assert hub.requests == []


def test_secrets_are_not_quoted(worker, hub, manifest):
    for token in ("hf_SECRET\n", "hf_SECRET other"):
        outcome = worker.run(PUBLISH, repo=REPO, options={"token": token})
        assert outcome.error[0] == "ValueError"
        assert "SECRET" not in outcome.message
    assert hub.requests == []


def test_an_entry_that_was_edited_meanwhile(worker, hub, manifest):
    """The commit is named, the manifest keeps what the other one wrote."""
    hub.faults[REPO] = ["hang"]
    worker.send(PUBLISH, repo=REPO, options={})
    while not hub.hanging:
        time.sleep(0.02)
    edited = json.loads(manifest.read_text())
    edited["weights"]["unet.small"]["license"] = "mit"
    manifest.write_text(json.dumps(edited))
    hub.release()
    outcome = worker.receive()
    assert outcome.error[0] == "ManifestError", outcome.message
    assert f"unet.small was changed while its weights were published as {REPO}@" in outcome.message
    assert json.loads(manifest.read_text()) == edited


def test_settings_that_contradict_the_file_are_not_published(worker, hub, manifest):
    entry = json.loads(manifest.read_text())["weights"]["unet.small"]
    entry["input"]["hu_window"] = [-100, 100]
    manifest.write_bytes(manifest_of(unet__small=entry))
    outcome = worker.run(PUBLISH, repo=REPO, options={"dry_run": True})
    assert outcome.error[0] == "WeightsMismatchError"
    assert "header" in outcome.message


def test_offline_says_that_nothing_is_sent(worker, root, tmp_path_factory, hub, manifest, tmp_path):
    process = Worker(worker.env | {"HF_HUB_OFFLINE": "1"}, tmp_path)
    try:
        process.run(SETUP)
        outcome = process.run(PUBLISH, repo=REPO, options={})
        assert outcome.error[0] == "WeightsOfflineError"
        assert "HF_HUB_OFFLINE is set, so nothing is sent; unset it" in outcome.message
    finally:
        process.close()


def test_an_installed_copy_does_not_publish(worker, hub, manifest):
    inside = worker.checkout / "ddrsapc" / "weights_manifest.json"
    inside.write_bytes(manifest.read_bytes())
    try:
        outcome = worker.run(PUBLISH, repo=REPO, options={"dry_run": True})
    finally:
        inside.unlink()
    assert outcome.error[0] == "WeightsNotFoundError"
    assert "installed copy; publish from a checkout" in outcome.message
    assert hub.requests == []
