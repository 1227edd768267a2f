"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["lock", "locked_folder", "sync_folder", "write_atomically", "writing_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: whatever happens, `path` holds the old or the new bytes, whole.

    Raises:
        OSError: if the disk is full or the folder cannot be written to; the old file is as it was.
    """
    with writing_atomically(path) as file:
        file.write(data)


@contextmanager
def writing_atomically(path: Path) -> Iterator[IO[bytes]]:
    """As `write_atomically`, piece by piece: the file gets its name at the end of the block, if no error ends it.

    Raises:
        OSError: if the disk is full or the folder cannot be written to; the old file is as it was.
    """
    # threads, and processes with equal numbers on a shared disk, write beside each other
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def lock(path: Path, *, wait: bool = False) -> IO[bytes]:
    """Take a lock that the system gives back when the file is closed or the process ends, however it ends.

    Args:
        path: of the file that is locked; made where it is missing.
        wait: until another process that has it gives it back.

    Raises:
        FileExistsError: if another process has it, unless `wait`.
    """
    file = path.open("ab")
    try:
        import fcntl  # noqa: PLC0415  # POSIX only

        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise FileExistsError(f"another process is at work in {path.parent}") from error
    except (ImportError, OSError):
        pass  # a system or a network disk without locks
    return file


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the folder; leaves no file behind."""
    if os.name != "posix":
        yield
        return
    import fcntl  # noqa: PLC0415  # POSIX only

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
