"""What a Hub, or what somebody put there, must not be able to do."""

import hashlib
import os

import pytest

from tests.hub.checkouts import digest_of, worker_env
from tests.hub.downloads import CREATE, SETUP
from tests.hub.worker import Worker
from tests.training.small import small_network


def test_no_secret_is_quoted(load, hub, repo):
    hub.faults[f"{repo[0]} storage"] = ["403 always"]
    for outcome in (
        load(token=hub.token + "\n"),
        load(token="hf_SECRET\r\nX-Evil: 1"),
        load(),  # the storage's address is signed
        load(name="hf-hub:org/absent", token="hf_SECRET"),
    ):
        assert outcome.error
        for secret in (hub.token, "SECRET", "SIGNATURE"):
            assert secret not in outcome.message
        assert outcome.message.isprintable()


def test_passwords_in_an_endpoint_are_not_quoted(root, tmp_path_factory, hub, tmp_path):
    env = worker_env(root, tmp_path_factory, hub, HF_ENDPOINT="http://user:passw0rd@127.0.0.1:9")
    process = Worker(env, tmp_path)
    try:
        process.run(SETUP)
        outcome = process.run(CREATE, name="hf-hub:org/name", cache=str(tmp_path / "cache"), options={})
        assert outcome.error[0] == "WeightsOfflineError"
        assert "passw0rd" not in outcome.message
    finally:
        process.close()


@pytest.mark.parametrize("revision", ["../../../evil", "a/../../b", "/etc/x", "refs//x", ".git", "", "a b", "a\n"])
def test_a_revision_cannot_leave_the_cache(load, hub, repo, revision, tmp_path):
    for options in ({"name": f"hf-hub:{repo[0]}@{revision}"}, {"name": f"hf-hub:{repo[0]}", "revision": revision}):
        outcome = load(**options)
        assert outcome.error[0] == "ValueError", outcome.message
        assert "expected" in outcome.message
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_asked_before_a_download(load, hub, repo, files):
    """The Hub has another file than was listed, or a configuration of 2 MiB: nothing of it is fetched."""
    outcome = load(entry={"bytes": 1234})
    assert outcome.error[0] == "WeightsIntegrityError"
    assert "expected 1234 bytes, the Hub has" in outcome.message
    assert [request for request in hub.requests if request.port == "storage"] == []
    hub.publish(repo[0], {"config.json": b" " * (2 << 20)})
    hub.requests.clear()
    outcome = load(name=f"hf-hub:{repo[0]}")
    assert outcome.error[0] == "UnsafeWeightsError"
    assert "2097152 bytes are refused" in outcome.message
    assert {request.method for request in hub.requests} == {"HEAD"}


def test_a_reset_falls_back_to_a_branch_in_the_cache(load, hub, repo):
    name = f"hf-hub:{repo[0]}"
    assert load(name=name).error == []
    hub.faults[repo[0]] = ["reset always"]
    outcome = load(name=name)
    assert outcome.error == [], outcome.message
    assert outcome.result == digest_of(small_network())


@pytest.mark.parametrize("etag", ["abc-12", "W/123"])
def test_an_etag_that_is_no_hash(load, hub, repo, files, etag):
    """Nothing can be checked, unless a hash is given; the configuration is then the one in the checked weights."""
    hub.repos[repo[0]].etags.update({"model.safetensors": etag, "config.json": etag})
    outcome = load(name=f"hf-hub:{repo[0]}")
    assert outcome.error[0] == "WeightsIntegrityError"
    assert "give sha256=" in outcome.message
    changed = files["config.json"].replace(b"-1000.0", b"-10.0")
    hub.publish(repo[0], {"config.json": changed})
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    code = "result = ddrsapc.create_model(name, cache_dir=cache, **options).input_config.hu_window"
    outcome = load(name=f"hf-hub:{repo[0]}", sha256=sha256, code=code)
    assert outcome.result == [-1000.0, 1000.0]


def test_a_configuration_that_contradicts_the_weights(load, hub, repo, files):
    hub.publish(repo[0], {"config.json": files["config.json"].replace(b"-1000.0", b"-10.0")})
    outcome = load(name=f"hf-hub:{repo[0]}")
    assert outcome.error[0] == "WeightsMismatchError"
    assert "correct the one that is wrong" in outcome.message


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc"), reason="needs a folder that cannot be made")
def test_a_cache_that_cannot_be_written_to(load, repo):
    outcome = load(cache="/proc/no-such-folder")
    assert outcome.error[0] == "WeightsDownloadError"
    assert "give another cache_dir, or set HF_HOME" in outcome.message
