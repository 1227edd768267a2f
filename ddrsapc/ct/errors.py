"""The one error of reading and writing scans, the one for missing packages, and what other packages say of theirs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CTError", "needs_extra", "reason_of", "silence"]


class CTError(ValueError):
    """A scan or mask that cannot be used; one line: which file, what is wrong, the way out."""


@contextmanager
def needs_extra(extra: str = "ct") -> Iterator[None]:
    """Around imports of an extra's packages: without them, say how to install them.

    Args:
        extra: its name.

    Raises:
        ImportError: instead of Python's own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ImportError(f'{package} is missing; install it with: pip install "ddrsapc[{extra}]"') from error


def reason_of(error: BaseException) -> str:
    """What another package's error says, in one printable line of bounded length."""
    text = " ".join(str(error).split()).rpartition("ERROR: ")[2]  # ITK's reason stands behind its own places in C++
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return text or type(error).__name__


class _Silence:
    """Around readers in C and C++ that print their errors, which are then raised as well: nothing is shown on stderr.

    It is the process's: what other threads print meanwhile is not shown either.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth, self._kept = 0, -1

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._kept = _redirect_stderr()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._kept >= 0:
                os.dup2(self._kept, 2)
                os.close(self._kept)


def _redirect_stderr() -> int:
    """A copy of what was descriptor 2; -1 if there was none, as under a window system."""
    try:
        kept = os.dup(2)
    except OSError:
        return -1
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept


silence = _Silence()
