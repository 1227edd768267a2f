"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

__all__ = ["lock", "sync_folder", "write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: whatever happens, `path` holds the old or the new bytes, whole.

    Raises:
        OSError: if the disk is full or the folder cannot be written to; the old file is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def lock(path: Path) -> IO[bytes]:
    """Take a lock that the system gives back when the file is closed or the process ends, however it ends.

    Raises:
        FileExistsError: if another process has it.
    """
    file = path.open("ab")
    try:
        import fcntl  # noqa: PLC0415  # POSIX only

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise FileExistsError(f"another process is at work in {path.parent}") from error
    except (ImportError, OSError):
        pass  # a system or a network disk without locks
    return file


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
