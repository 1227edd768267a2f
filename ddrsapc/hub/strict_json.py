"""JSON from files that may be anybody's."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_object"]


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, with nothing in it that two readers could understand in two ways.

    Raises:
        ValueError: for anything else: other text, no UTF-8, a key twice, NaN or Infinity, very deep nesting.
    """
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
