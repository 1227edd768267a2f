"""Pretrained weights: the manifest that lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["list_pretrained", "load_manifest"]


def load_manifest() -> dict[str, dict[str, Any]]:
    """The entries of `weights_manifest.json` by "arch.tag"; the file of the wheel, or the source checkout's.

    Raises:
        FileNotFoundError: if the installation lacks the file.
    """
    package = Path(__file__).parent
    for path in (package / "weights_manifest.json", package.parent / "weights_manifest.json"):
        if path.is_file():
            weights: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["weights"]
            return weights
    raise FileNotFoundError(f"weights_manifest.json is missing beside {package}; reinstall ddrsapc")


def list_pretrained() -> list[str]:
    """The names of all weights in the manifest, as "arch.tag", sorted."""
    return sorted(load_manifest())
