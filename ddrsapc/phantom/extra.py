"""The error for the missing extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs_extra"]


@contextmanager
def needs_extra() -> Iterator[None]:
    """Around imports of the extra's packages: without them, say how to install them.

    Raises:
        ImportError: instead of Python's own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is missing; install it with: pip install "ddrsapc[phantom]"') from error
