"""Downloads from a Hub on loopback, by the real client in a process of its own, with every fault there is."""

import hashlib
import re

import pytest

from ddrsapc.hub.saving import model_files
from tests.hub.checkouts import digest_of, entry_of, manifest_of, worker_env
from tests.hub.downloads import CREATE, REPO, SETUP, blob
from tests.hub.fake_hub import FakeHub
from tests.hub.worker import Worker
from tests.training.small import small_network


def test_loads_from_the_hub_then_from_the_cache_without_a_request(load, hub, files, tmp_path):
    first = load()
    assert first.error == [], first.message
    assert first.result == digest_of(small_network())
    assert blob(tmp_path).read_bytes() == files["model.safetensors"]
    assert {request.method for request in hub.requests if "/resolve/" in request.path} == {"HEAD"}
    hub.requests.clear()
    assert load().result == first.result
    assert hub.requests == []


def test_the_token_stays_at_the_hub(load, hub):
    assert load().error == []
    assert {request.authorization for request in hub.requests if request.port == "hub"} == {f"Bearer {hub.token}"}
    stored = [request for request in hub.requests if request.port == "storage"]
    assert stored
    assert {request.authorization for request in stored} == {None}


def test_an_unlisted_repository(load, hub, repo, tmp_path):
    name, commit = repo
    for revision in ("", "@main", f"@{commit}"):
        hub.requests.clear()
        outcome = load(name=f"hf-hub:{name}{revision}")
        assert outcome.error == [], outcome.message
        assert outcome.result == digest_of(small_network())
    assert hub.requests == []  # a commit that is in the cache
    assert load(name=f"hf-hub:{name}", revision=commit, local_files_only=True).error == []
    assert load(name=f"hf-hub:{name}", local_files_only=True).result == digest_of(small_network())
    assert "two revisions" in load(name=f"hf-hub:{name}@main", revision=commit).message


def test_an_unlisted_repository_moves_on_and_its_old_commit_stays(load, hub, repo, files):
    name, commit = repo
    changed = small_network()
    changed.head.bias.data += 1
    hub.publish(name, {"model.safetensors": model_files(changed)["model.safetensors"]})
    assert load(name=f"hf-hub:{name}").result == digest_of(changed)
    assert load(name=f"hf-hub:{name}@{commit}").result == digest_of(small_network())


def test_the_hash_may_be_given(load, repo, files):
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert load(name=f"hf-hub:{repo[0]}", sha256=sha256).error == []
    wrong = load(name=f"hf-hub:{repo[0]}", sha256="0" * 64, cache="other")
    assert "WeightsIntegrityError" in wrong.error
    assert "0" * 64 in wrong.message
    assert sha256 in wrong.message


# fault -> what recovers by itself
@pytest.mark.parametrize(
    ("where", "faults"),
    [
        ("hub", ["500"]),
        ("hub", ["500", "500"]),
        ("hub", ["reset"]),
        ("hub", ["reset", "reset"]),
        ("storage", ["truncated"]),
        ("storage", ["corrupt"]),
        ("storage", ["reset"]),
    ],
)
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_a_passing_fault_is_survived(load, hub, repo, where, faults, listed, tmp_path, files):
    hub.faults[repo[0] if where == "hub" else f"{repo[0]} storage"] = list(faults)
    outcome = load(name="unet.small" if listed else f"hf-hub:{repo[0]}")
    assert outcome.error == [], outcome.message
    assert outcome.result == digest_of(small_network())
    assert blob(tmp_path).read_bytes() == files["model.safetensors"]
    assert hub.faults.popitem()[1] == []  # it did strike


@pytest.mark.parametrize(
    ("where", "fault", "error", "base", "message"),
    [
        (
            "storage",
            "corrupt always",
            "WeightsIntegrityError",
            "ValueError",
            r"expected \d+ bytes with sha256 .*, found",
        ),
        ("storage", "reset always", "WeightsDownloadError", "OSError", "the transfer failed .* try again"),
        ("storage", "slow always", "WeightsDownloadError", "OSError", "did not answer in time"),
        ("storage", "truncated always", "WeightsDownloadError", "OSError", "the transfer failed"),
        ("hub", "reset always", "WeightsDownloadError", "OSError", "the transfer failed"),
        ("hub", "slow always", "WeightsDownloadError", "OSError", "did not answer in time .*HF_HUB_ETAG_TIMEOUT"),
        ("hub", "portal always", "WeightsDownloadError", "OSError", "what answered is not the Hub.*captive portal"),
        ("hub", "disabled always", "WeightsAccessError", "PermissionError", "refuses access .*disabled"),
    ],
)
def test_a_lasting_fault_has_its_error(load, hub, repo, where, fault, error, base, message, tmp_path):
    hub.faults[repo[0] if where == "hub" else f"{repo[0]} storage"] = [fault]
    outcome = load()
    assert outcome.error[0] == error, outcome.message
    assert {"WeightsError", "RuntimeError", base} <= set(outcome.error)
    assert re.search(message, outcome.message), outcome.message
    assert "unet" in outcome.message or repo[0] in outcome.message
    assert "\n" not in outcome.message
    assert outcome.seconds < 20


WITHOUT_WAITING = """
from unittest.mock import patch
with patch("time.sleep") as sleep:
    try:
        ddrsapc.create_model(name, cache_dir=cache, **options)
    finally:
        result = sum(call.args[0] for call in sleep.call_args_list)
"""


def test_a_server_error_that_lasts(load, hub, repo):
    """The client itself would try for 24 s; that is not done twice."""
    hub.faults[repo[0]] = ["500 always"]
    outcome = load(code=WITHOUT_WAITING)
    assert outcome.error[0] == "WeightsDownloadError"
    assert "500" in outcome.message
    assert 10 < outcome.result < 40


@pytest.mark.parametrize(
    ("flags", "token", "error", "message"),
    [
        ({"gated": True}, "hf_wrong", "WeightsAccessError", "gated: ask for access.*hf auth login"),
        ({"gated": True}, False, "WeightsAccessError", "gated: ask for access"),
        ({"private": True}, False, "WeightsAccessError", "or it is private: check the name, and log in"),
        ({"private": True}, "hf_wrong", "WeightsAccessError", "or it is private: check the name, and log in"),
    ],
)
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_closed_repositories(load, hub, repo, flags, token, error, message, listed):
    for flag, value in flags.items():
        setattr(hub.repos[repo[0]], flag, value)
    name = "unet.small" if listed else f"hf-hub:{repo[0]}"
    outcome = load(name=name, token=token)
    assert outcome.error[0] == error, outcome.message
    assert "PermissionError" in outcome.error
    assert re.search(message, outcome.message), outcome.message
    assert load(name=name, token=hub.token).error == []


def test_what_is_not_there(load, hub, repo):
    name, _ = repo
    hub.publish("org/empty", {"README.md": b"nothing else"})
    for source, message in (
        ("hf-hub:org/absent", "there is no such repository; check the name"),
        (f"hf-hub:{name}@v9", "there is no such revision"),
        (f"hf-hub:{name}@{'1' * 40}", "there is no such revision"),
        ("hf-hub:org/empty", "org/empty/config.json@main: there is no such file"),
    ):
        outcome = load(name=source)
        assert outcome.error[0] == "WeightsNotFoundError", (source, outcome.message)
        assert "FileNotFoundError" in outcome.error
        assert message in outcome.message


@pytest.mark.parametrize("damage", ["cut short", "one bit", "emptied"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_a_damaged_cache_is_downloaded_again(load, hub, repo, tmp_path, files, damage, listed):
    name = "unet.small" if listed else f"hf-hub:{repo[0]}@{repo[1]}"
    assert load(name=name).error == []
    path = blob(tmp_path)
    good = path.read_bytes()
    bad = {"cut short": good[:-7], "one bit": good[:-1] + bytes([good[-1] ^ 4]), "emptied": b""}[damage]
    path.write_bytes(bad)
    offline = load(name=name, local_files_only=True)
    assert offline.error[0] == "WeightsIntegrityError"
    assert re.search("found|cut short", offline.message)
    outcome = load(name=name)
    assert outcome.error == [], outcome.message
    assert outcome.result == digest_of(small_network())
    assert blob(tmp_path).read_bytes() == files["model.safetensors"]


def test_a_damaged_cache_and_no_hub(root, tmp_path_factory, load, repo, tmp_path, files, hub):
    """The error is about the damage, not about the network."""
    assert load().error == []
    path = blob(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    hub.faults[repo[0]] = ["reset always"]
    outcome = load()
    assert outcome.error[0] == "WeightsIntegrityError"
    assert "delete it and get it again" in outcome.message


def test_a_blob_that_links_elsewhere_is_checked_by_the_hubs_hash(load, repo, tmp_path):
    """The client's shared store keeps blobs under other names."""
    name = f"hf-hub:{repo[0]}@{repo[1]}"
    assert load(name=name).error == []
    path = blob(tmp_path)
    store = tmp_path / ("f" * 64)
    path.rename(store)
    path.symlink_to(store)
    assert load(name=name, local_files_only=True).error == []


def test_a_cache_without_links(load, hub, repo, tmp_path):
    """As on Windows: the snapshot holds the file itself, and the hash is asked of the Hub."""
    name = f"hf-hub:{repo[0]}@{repo[1]}"
    assert load(name=name).error == []
    for link in (tmp_path / "cache").rglob("snapshots/*/*"):
        data = link.read_bytes()
        link.unlink()
        link.write_bytes(data)
    assert load(name=name).error == []
    offline = load(name=name, local_files_only=True)
    assert offline.error[0] == "WeightsIntegrityError"
    assert "give sha256=" in offline.message
    sha256 = hashlib.sha256(blob_of_snapshot(tmp_path)).hexdigest()
    assert load(name=name, local_files_only=True, sha256=sha256).error == []


def blob_of_snapshot(tmp_path):
    (path,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (b"{", "UnsafeWeightsError", "not a config.json"),
        (b'{"architecture": "os.system", "model_args": {}}', "WeightsMismatchError", "not one of this ddrsapc"),
        (b'{"architecture": "unet", "model_args": {"width": 4, "width": 8}}', "UnsafeWeightsError", "stands twice"),
    ],
)
def test_a_hostile_repository(load, hub, repo, config, error, message):
    hub.publish(repo[0], {"config.json": config})
    outcome = load(name=f"hf-hub:{repo[0]}")
    assert outcome.error[0] == error, outcome.message
    assert message in outcome.message


def test_hostile_weights_in_a_repository(load, hub, repo):
    hub.publish(repo[0], {"model.safetensors": b"\x80\x02cos\nsystem\n."})
    outcome = load(name=f"hf-hub:{repo[0]}")
    assert outcome.error[0] == "UnsafeWeightsError"
    assert "pickle" in outcome.message


def test_a_listed_hash_that_the_hub_does_not_have(load, repo):
    outcome = load(entry={"sha256": "a" * 64})
    assert outcome.error[0] == "WeightsIntegrityError"
    assert "a" * 64 in outcome.message


def test_offline(root, tmp_path_factory, hub, repo, files, tmp_path, load):
    """With the cache it loads, without it says so, both within a second and without a request."""
    assert load().error == []
    env = worker_env(root, tmp_path_factory, hub, HF_HUB_OFFLINE="1")
    process = Worker(env, tmp_path)
    try:
        process.run(SETUP)
        with open(f"{env['CHECKOUT']}/weights_manifest.json", "wb") as file:
            entry = entry_of(files["model.safetensors"], repo_id=repo[0], revision=repo[1])
            file.write(manifest_of(unet__small=entry))
        hub.requests.clear()
        cached = process.run(CREATE, name="unet.small", cache=str(tmp_path / "cache"), options={})
        assert cached.error == [], cached.message
        assert cached.result == digest_of(small_network())
        absent = process.run(CREATE, name="unet.small", cache=str(tmp_path / "empty"), options={})
        assert absent.error[0] == "WeightsOfflineError"
        assert "ConnectionError" in absent.error
        assert "downloads are switched off" in absent.message
        unlisted = process.run(CREATE, name=f"hf-hub:{repo[0]}", cache=str(tmp_path / "empty"), options={})
        assert unlisted.error[0] == "WeightsOfflineError"
        path = blob(tmp_path)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        damaged = process.run(CREATE, name="unet.small", cache=str(tmp_path / "cache"), options={})
        assert damaged.error[0] == "WeightsIntegrityError"
        assert hub.requests == []
        assert max(outcome.seconds for outcome in (cached, absent, unlisted, damaged)) < 1
    finally:
        process.close()


def test_a_dead_endpoint(root, tmp_path_factory, files, tmp_path):
    """Nothing listens: an empty cache is an error within a second, a full one loads."""
    hub = FakeHub()
    commit = hub.publish(REPO, files)
    process = Worker(worker_env(root, tmp_path_factory, hub), tmp_path)
    try:
        process.run(SETUP)
        names = {"name": f"hf-hub:{REPO}", "cache": str(tmp_path / "cache"), "options": {}}
        assert process.run(CREATE, **names).error == []
        hub.close()
        for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@{commit}"):
            outcome = process.run(CREATE, **{**names, "name": name})
            assert outcome.error == [], outcome.message
            assert outcome.seconds < 1
        outcome = process.run(CREATE, **{**names, "cache": str(tmp_path / "empty")})
        assert outcome.error[0] == "WeightsOfflineError"
        assert "the Hub cannot be reached" in outcome.message
        assert outcome.seconds < 1
    finally:
        process.close()
