"""The one error of reading and writing scans, and the one for missing packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CTError", "needs_extra", "reason_of"]


class CTError(ValueError):
    """A scan or mask that cannot be used; one line: which file, what is wrong, the way out."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Around imports of the extra's packages: without them, say how to install them.

    Raises:
        ImportError: instead of Python's own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ImportError(f'{package} is missing; install it with: pip install "ddrsapc[ct]"') from error


def reason_of(error: BaseException) -> str:
    """What another package's error says, in one printable line of bounded length."""
    text = " ".join(str(error).split()).rpartition("ERROR: ")[2]  # ITK's reason stands behind its own places in C++
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return text or type(error).__name__
