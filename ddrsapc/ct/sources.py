"""What is a scan and what is not, by its files and values."""

from __future__ import annotations

from pathlib import Path

from ddrsapc.ct.errors import CTError
from ddrsapc.ct.volume import DICOM, Volume, suffix_of

__all__ = ["HEADERS", "check_hu", "file_facts", "is_dicom_file"]

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


def is_dicom_file(file: Path) -> bool:
    """Whether a file is named like a slice, or begins like one after its 128 free bytes."""
    if file.name == "DICOMDIR":  # the index of a medium, whose slices lie in other folders
        return False
    if file.suffix.lower() in DICOM:
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def check_hu(path: Path, volume: Volume) -> None:
    """Refuse an image whose values are those of a mask, or were scaled; DICOM says what its values are.

    Raises:
        CTError: if they are.
    """
    low, high = int(volume.hu.min()), int(volume.hu.max())
    if volume.meta.format in {"nifti", "metaimage", "nrrd"} and ((low >= 0 and high <= 255) or high - low < 20):
        raise CTError(f"{path}: has values from {low} to {high}, as masks and scaled images have; expected HU")
