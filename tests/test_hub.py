import json

import pytest

from ddrsapc import hub


def test_the_manifest_of_the_checkout_is_found(root):
    manifest = json.loads((root / "weights_manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert hub.load_manifest() == manifest["weights"]
    assert hub.list_pretrained() == sorted(manifest["weights"])


def test_a_missing_manifest_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "ddrsapc" / "hub.py"))
    with pytest.raises(FileNotFoundError, match=r"weights_manifest.json is missing.*reinstall"):
        hub.load_manifest()
