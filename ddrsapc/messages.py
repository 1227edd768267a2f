"""Words of other people in error messages."""

from __future__ import annotations

from typing import Any

__all__ = ["shown"]


def shown(value: Any, limit: int = 80) -> str:
    """A value as one printable line of at most `limit` characters, whatever a file or a server put into it.

    Text that is short and printable stays as it is; all else is its `repr`, cut.
    """
    if isinstance(value, str) and value.isprintable() and len(value) <= limit:
        return value
    text = repr(value[: 4 * limit] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
