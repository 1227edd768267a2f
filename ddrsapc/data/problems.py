"""What is wrong with training data, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["DataError", "Problem", "raise_problems"]


class DataError(ValueError):
    """Training data that cannot be used; the message names every file and what is wrong with it."""


class Problem(NamedTuple):
    """What is wrong with a file."""

    file: Path
    message: str


def raise_problems(folder: Path, problems: Sequence[Problem]) -> None:
    """Raise a DataError that lists every problem with its file, if there is any."""
    if problems:
        lines = "\n".join(f"  {file}: {message}" for file, message in problems)
        raise DataError(f"{len(problems)} problem(s) in {folder}; mend these files or take them out:\n{lines}")
