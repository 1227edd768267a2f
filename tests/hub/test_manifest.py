import json
import os
import subprocess
import sys

import pytest

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub.manifest import checkout_folder, manifest_path, parse_manifest, record_publication
from ddrsapc.models import InputConfig
from tests.hub.checkouts import entry_of, manifest_of

ENTRY = entry_of(b"bytes")


def test_the_manifest_of_this_checkout(root):
    assert manifest_path() == root / "weights_manifest.json"
    assert checkout_folder() == root / "weights"
    specs = hub.load_manifest()
    assert hub.list_pretrained() == sorted(specs)
    for name, spec in specs.items():  # none are listed yet; those that will be must fit their networks
        assert name == spec.name
        model = ddrsapc.create_model(spec.architecture)
        assert (spec.first_conv, spec.classifier) == (model.first_conv, model.classifiers)


def test_a_missing_manifest_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(ddrsapc, "__file__", str(tmp_path / "ddrsapc" / "__init__.py"))
    with pytest.raises(hub.ManifestError, match=r"weights_manifest.json is missing.*reinstall"):
        hub.load_manifest()


def test_the_wheels_manifest_comes_first_and_has_no_folder_of_weights(checkout):
    (checkout / "ddrsapc" / "weights_manifest.json").write_bytes(manifest_of())
    assert manifest_path() == checkout / "ddrsapc" / "weights_manifest.json"
    assert checkout_folder() is None


def test_a_valid_entry():
    spec = parse_manifest(manifest_of(unet__small=ENTRY), "here")["unet.small"]
    assert (spec.name, spec.architecture, spec.tag, spec.default) == ("unet.small", "unet", "small", True)
    assert spec.input == InputConfig((-200.0, 800.0), 0.4, 0.3, (512, 512), (0.5, 0.5))
    assert spec.metrics == (hub.Metric("squares", "test", "mean_iou", 0.7, 8, 0),)
    assert spec.recipe.hardware == "2 CPU cores"
    published = ENTRY | {"repo_id": "org/name", "revision": "a" * 40}
    assert parse_manifest(manifest_of(unet__small=published), "here")["unet.small"].repo_id == "org/name"


def without(field):
    return {key: value for key, value in ENTRY.items() if key != field}


HOSTILE = {
    "no JSON": (b"\x80\x02", "utf-8"),
    "a list": (b"[]", "expected a JSON object, found list"),
    "deep nesting": (b'{"a":' + b"[" * 200_000, "nested too deeply|not a valid manifest"),
    "huge": (b" " * (5 << 20), "more than 4194304 bytes"),
    "another version": (b'{"schema_version": 2, "weights": {}}', "schema_version is 2, this ddrsapc reads 1; update"),
    "true as version": (b'{"schema_version": true, "weights": {}}', "schema_version is True"),
    "a field more": (b'{"schema_version": 1, "weights": {}, "url": "x"}', "expected the fields"),
    "an entry twice": (b'{"schema_version": 1, "weights": {"unet.a": {}, "unet.a": {}}}', "'unet.a' stands twice"),
    "NaN": (manifest_of(unet__small=ENTRY).replace(b"0.7", b"NaN"), "NaN is no number"),
    "infinite number": (manifest_of(unet__small=ENTRY).replace(b"0.7", b"1e999"), "value: expected a finite number"),
    "infinite input": (
        manifest_of(unet__small=ENTRY).replace(b"0.4", b"1e999"),
        "input: expected a window",
    ),
    "a huge integer": (
        manifest_of(unet__small=ENTRY).replace(b"0.4", b"1" + b"0" * 400),
        "input: expected a window",
    ),
    "a number too long to read": (manifest_of(unet__small=ENTRY).replace(b"0.4", b"1" * 9000), "integer string"),
    "path upwards": (manifest_of(unet__small=ENTRY | {"filename": "../x.safetensors"}), "filename: .* does not match"),
    "absolute path": (manifest_of(unet__small=ENTRY | {"filename": "/etc/x.safetensors"}), "filename: .* does not"),
    "path of Windows": (manifest_of(unet__small=ENTRY | {"filename": "a\\b.safetensors"}), "filename"),
    "hidden file": (manifest_of(unet__small=ENTRY | {"filename": ".x.safetensors"}), "filename: .* does not match"),
    "a pickle": (manifest_of(unet__small=ENTRY | {"filename": "x.pth"}), "filename: .* does not match"),
    "newline in a name": (manifest_of(unet__small=ENTRY | {"filename": "x.safetensors\n"}), "expected a line of text"),
    "short hash": (manifest_of(unet__small=ENTRY | {"sha256": "ab"}), "sha256: .* does not match"),
    "upper-case hash": (manifest_of(unet__small=ENTRY | {"sha256": "A" * 64}), "sha256"),
    "branch as revision": (
        manifest_of(unet__small=ENTRY | {"repo_id": "org/name", "revision": "main"}),
        "revision: main does not match",
    ),
    "revision without repository": (manifest_of(unet__small=ENTRY | {"revision": "a" * 40}), "both or neither"),
    "repository outside": (
        manifest_of(unet__small=ENTRY | {"repo_id": "../org/name", "revision": "a" * 40}),
        "repo_id: expected a repository as org/name, got",
    ),
    "URL as repository": (
        manifest_of(unet__small=ENTRY | {"repo_id": "https://host/org", "revision": "a" * 40}),
        "repo_id: expected a repository as org/name, got",
    ),
    "unknown architecture": (manifest_of(resnet__small=ENTRY), "'resnet.small': expected arch.tag"),
    "another architecture": (manifest_of(unetpp__small=ENTRY), "architecture is 'unet'"),
    "no tag": (manifest_of(unet=ENTRY), "expected arch.tag as name"),
    "a tag with a path": (json.dumps({"schema_version": 1, "weights": {"unet.a/b": ENTRY}}).encode(), "expected arch"),
    "unknown field": (manifest_of(unet__small=ENTRY | {"url": "http://host/x"}), r"unknown field\(s\) url"),
    "missing field": (manifest_of(unet__small=without("license")), r"missing field\(s\) license"),
    "no bytes": (manifest_of(unet__small=ENTRY | {"bytes": 0}), "bytes: expected an integer from 1"),
    "a petabyte": (manifest_of(unet__small=ENTRY | {"bytes": 1 << 50}), "bytes: expected an integer from 1"),
    "true as number": (manifest_of(unet__small=ENTRY | {"num_classes": True}), "num_classes: expected an integer"),
    "text as number": (manifest_of(unet__small=ENTRY | {"in_chans": "1"}), "in_chans: expected an integer"),
    "names too few": (manifest_of(unet__small=ENTRY | {"classes": ["none"]}), "classes has 1 names, num_classes is 4"),
    "two defaults": (manifest_of(unet__a=ENTRY, unet__b=ENTRY), "unet needs exactly one default, found"),
    "no default": (manifest_of(unet__a=ENTRY | {"default": False}), "exactly one default, found none"),
    "code as key": (manifest_of(unet__small=ENTRY | {"classifier": ["__import__('os')"]}), "classifier: .* does not"),
    "empty list": (manifest_of(unet__small=ENTRY | {"classifier": []}), "classifier: expected a list that is not"),
    "recipe": (manifest_of(unet__small=ENTRY | {"recipe": {}}), r"recipe: missing field\(s\) command"),
    "negative spacing": (
        manifest_of(unet__small=ENTRY | {"input": ENTRY["input"] | {"spacing": [-1, 1]}}),
        "input: expected a spacing",
    ),
    "text in input": (
        manifest_of(unet__small=ENTRY | {"input": ENTRY["input"] | {"hu_window": ["a", "b"]}}),
        "input: expected numbers",
    ),
    "lines in a field": (manifest_of(unet__small=ENTRY | {"evil\nfield": 1}), r"unknown field\(s\) 'evil"),
    "a long field": (manifest_of(unet__small=ENTRY | {"x" * 100_000: 1}), r"unknown field\(s\)"),
    "a long version": (b'{"schema_version": "%s", "weights": {}}' % (b"x" * 100_000), "schema_version is"),
    "a long mean": (manifest_of(unet__small=ENTRY | {"input": ENTRY["input"] | {"mean": [1] * 9999}}), "input: "),
    "input without a field": (
        manifest_of(unet__small=ENTRY | {"input": {k: v for k, v in ENTRY["input"].items() if k != "size"}}),
        r"input: missing field\(s\) size",
    ),
    "window of one": (
        manifest_of(unet__small=ENTRY | {"input": ENTRY["input"] | {"hu_window": [1]}}),
        "input: ",
    ),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_manifest_is_refused(checkout, data, message):
    (checkout / "weights_manifest.json").write_bytes(data)
    with pytest.raises(hub.ManifestError, match=message) as caught:
        hub.load_manifest()
    assert isinstance(caught.value, ValueError)
    assert str(checkout) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    with pytest.raises(hub.ManifestError):  # before any look-up
        ddrsapc.create_model("unet", pretrained=True)


def test_a_publication_is_recorded_and_nothing_else_changes(checkout):
    path = checkout / "weights_manifest.json"
    path.write_bytes(manifest_of(unet__small=ENTRY, unetpp__small=ENTRY | {"architecture": "unetpp"}))
    before = json.loads(path.read_text())
    path.chmod(0o664)
    spec = hub.load_manifest()["unet.small"]
    record_publication(path, spec, "org/name", "b" * 40)
    assert path.stat().st_mode & 0o777 == 0o664
    after = json.loads(path.read_text())
    assert (after["weights"]["unet.small"]["repo_id"], after["weights"]["unet.small"]["revision"]) == (
        "org/name",
        "b" * 40,
    )
    after["weights"]["unet.small"] |= {"repo_id": None, "revision": None}
    assert after == before
    assert list(after["weights"]["unet.small"]) == list(before["weights"]["unet.small"])  # in the same order
    data = path.read_bytes()
    with pytest.raises(hub.ManifestError, match="revision"):
        record_publication(path, hub.load_manifest()["unet.small"], "org/name", "main")
    assert path.read_bytes() == data
    with pytest.raises(hub.ManifestError, match="unet.small was changed while its weights were published as"):
        record_publication(path, spec, "org/name", "b" * 40)  # as it was before the first time
    assert path.read_bytes() == data
    assert sorted(p.name for p in checkout.iterdir()) == ["ddrsapc", "weights", "weights_manifest.json"]


def test_a_linked_manifest_stays_a_link(checkout, tmp_path):
    path = checkout / "weights_manifest.json"
    path.write_bytes(manifest_of(unet__small=ENTRY))
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    record_publication(path, hub.load_manifest()["unet.small"], "org/name", "b" * 40)
    assert path.is_symlink()
    assert hub.load_manifest()["unet.small"].repo_id == "org/name"


RECORD = """
import sys
from pathlib import Path
from ddrsapc.hub.manifest import parse_manifest, record_publication
path, name = Path(sys.argv[1]), sys.argv[2]
for i in range(100):
    spec = parse_manifest(path.read_bytes(), "")[name]
    record_publication(path, spec, "org/name", f"{i:040x}")
"""


@pytest.mark.slow
def test_two_publications_at_once_lose_nothing(checkout):
    path = checkout / "weights_manifest.json"
    path.write_bytes(manifest_of(unet__small=ENTRY, unetpp__small=ENTRY | {"architecture": "unetpp"}))
    names = ("unet.small", "unetpp.small")
    processes = [subprocess.Popen([sys.executable, "-c", RECORD, str(path), name]) for name in names]
    assert [process.wait() for process in processes] == [0, 0]
    assert {spec.revision for spec in hub.load_manifest().values()} == {f"{99:040x}"}


@pytest.mark.slow
def test_an_editable_install_finds_the_manifest_of_its_checkout(root, tmp_path):
    code = "from ddrsapc.hub.manifest import manifest_path; print(manifest_path())"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(root / "weights_manifest.json")
