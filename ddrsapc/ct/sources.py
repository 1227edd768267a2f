"""The files that a scan or a mask is read from."""

from __future__ import annotations

from pathlib import Path

from ddrsapc.ct.volume import suffix_of

__all__ = ["HEADERS", "file_facts"]

HEADERS = (".mhd", ".nhdr")
"""Of files whose values are in another one of that name."""


def file_facts(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes in bytes and times of a scan's or a mask's files: those of another one differ.

    Args:
        path: a folder of a DICOM series, or a file.
    """
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
    elif suffix_of(path) in HEADERS:
        files = [file for file in path.parent.iterdir() if file.name.startswith(f"{path.stem}.")]
    else:
        files = [path]
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists())
