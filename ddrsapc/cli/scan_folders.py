"""The scans among files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ddrsapc.ct.volume import IMAGES, suffix_of

__all__ = ["find_scans"]


def find_scans(paths: Sequence[Path]) -> dict[str, Path]:
    """Scans by name: each path is one, or a folder of them at any depth.

    A folder with DICOM files in it is a scan, and so is every NIfTI, MetaImage and NRRD file in the others. A name is
    the path below the folder that was given, without the suffix of `.nii.gz` and its like.

    Raises:
        ValueError: if two have one name, or the name of one is a folder of another.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for scan in _scans_of(path):
            name = _name_of(scan.relative_to(path) if scan != path else Path(scan.resolve().name))
            if name in found:
                raise ValueError(f"several scans are called {name!r}; rename them, or give them separate outputs")
            found[name] = scan
    for name in found:
        for parent in Path(name).parents:
            if parent.as_posix() in found:
                raise ValueError(
                    f"a scan is called {parent.as_posix()!r} and another {name!r}, which would lie in its results; "
                    "rename one, or give them separate outputs"
                )
    return found


def _scans_of(path: Path) -> Iterator[Path]:
    """The scans of a path, by name; itself where it is one, or might be a damaged one."""
    if not path.is_dir():
        yield path
        return
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in inside if entry.is_file() and suffix_of(entry) in IMAGES]
    folders = [entry for entry in inside if entry.is_dir()]
    if not (images or folders) or any(_is_dicom(entry) for entry in inside if entry.is_file()):
        yield path
        return
    yield from images
    for folder in folders:
        yield from _scans_of(folder)


def _is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, after their 128 free bytes."""
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _name_of(path: Path) -> str:
    suffix = suffix_of(path)
    return (path.with_name(path.name[: -len(suffix)]) if suffix in IMAGES else path).as_posix()
