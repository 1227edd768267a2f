"""The scans among files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ddrsapc.ct.sources import is_dicom_file
from ddrsapc.ct.volume import IMAGES, suffix_of
from ddrsapc.messages import shown

__all__ = ["named_scans"]


def named_scans(paths: Sequence[Path], output: Path) -> dict[str, Path]:
    """Scans by name: each path is one, or a folder of them at any depth.

    A folder with DICOM files in it is a scan, and so is every NIfTI, MetaImage and NRRD file in the others. The name is
    that of the file, without `.nii.gz` and its like, or of the folder; below a folder that was given, the names on the
    way are joined by "_".

    Args:
        paths: as given; what is none, or damaged, is a scan as well, so that its error is shown.
        output: folder that results are written to; it is not searched.

    Raises:
        ValueError: if two scans have one name, or results would lie among the scans' own folders.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir() and path.resolve() == output.resolve():
            raise ValueError(f"{path} is the folder of the scans; give another one for the results")
        for scan in list(_scans_in(path, output.resolve(), set())) or [path]:
            name = _name_of(scan, path)
            if name in found:
                raise ValueError(
                    f"two scans are called {shown(name)}: {found[name]} and {scan}; "
                    "rename one, or give them separate outputs"
                )
            found[name] = scan
    return found


def _scans_in(path: Path, output: Path, seen: set[Path]) -> Iterator[Path]:
    """The scans of a path, by name; `seen` are folders, that links may lead to again."""
    if not path.is_dir():
        yield path
        return
    real = path.resolve()
    if real == output or real in seen:
        return
    seen.add(real)
    try:
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:
        yield path  # its error is shown when it is read
        return
    files = [entry for entry in inside if entry.is_file()]
    if any(is_dicom_file(file) for file in files):
        yield path
    yield from (file for file in files if suffix_of(file) in IMAGES)
    for entry in inside:
        if entry.is_dir():
            yield from _scans_in(entry, output, seen)


def _name_of(scan: Path, given: Path) -> str:
    parts = list(scan.relative_to(given).parts) if scan != given else [given.name or given.resolve().name]
    suffix = suffix_of(scan)
    if suffix in IMAGES and not scan.is_dir():
        parts[-1] = parts[-1][: -len(suffix)]
    return "_".join(parts)
