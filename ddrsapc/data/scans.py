"""CT scans and their masks, made arrays of once, so that training can read them slice by slice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface-hub

from ddrsapc.ct.coca import read_coca_plist, read_orcascore
from ddrsapc.ct.masks import read_mask
from ddrsapc.ct.orientation import SliceOrientation
from ddrsapc.ct.sources import check_hu, file_facts
from ddrsapc.ct.volume import Volume, check_axial, read_volume
from ddrsapc.data.problems import DataError, Problem, raise_problems
from ddrsapc.data.readers import READERS, Readers
from ddrsapc.data.scan_files import COCA, ScanPair, find_scans, split_folders
from ddrsapc.files import lock, write_atomically, writing_atomically

__all__ = ["PreparedScan", "PreparedScans", "prepare_scans"]

_FORM = 1  # of what is written; another one makes everything anew


@dataclass(frozen=True)
class PreparedScan:
    """A scan and its mask as arrays."""

    pair: ScanPair
    image: Path
    """HU int16 (Z, H, W), `.npy`."""
    label: Path
    """Labels uint8 (Z, H, W), `.npy`."""
    problem: Problem | None = None
    """Why there are no arrays."""


@dataclass(frozen=True)
class PreparedScans:
    """What `prepare_scans` came to."""

    folder: Path
    into: Path
    scans: tuple[PreparedScan, ...]
    written: int
    """Those that were not done already."""
    unpaired: tuple[Problem, ...]
    """Scans without a mask, masks without a scan, names that occur twice."""

    def raise_for_problems(self) -> None:
        """Raise a DataError that lists every problem with its file, if there is any."""
        failed = (item.problem for item in self.scans if item.problem is not None)
        raise_problems(self.folder, sorted((*self.unpaired, *failed)))


def prepare_scans(
    folder: Path,
    into: Path,
    *,
    orcascore: bool = False,
    series: str | None = None,
    readers: Readers = READERS,
) -> PreparedScans:
    """Make arrays of the CT scans in a folder of training data, and of their masks.

    `into` gets images/NAME.npy and labels/NAME.npy for every scan, with train/, val/ and test/ as in `folder`. Slices
    are axial, in the order of the scan, and upright: columns run to the patient's left, rows to the back, as
    `ddrsapc.inference` shows them to a network. Nothing is resampled. A scan that was done from the same files (names,
    sizes, times) and options is passed over; all files are whole or not there. Another process that prepares into the
    same folder is waited for. Memory: one scan and its mask.

    Args:
        folder: with images/ and labels/ inside, or with train/, val/ and test/. images/ has DICOM series, a folder
            each, and NIfTI, MHA, MHD or NRRD files; labels/ has a mask of the same name for each: one of these
            formats, a DICOM SEG (.dcm), or an annotation of COCA (.xml, .plist). Arrays are left alone.
        into: another folder; made if there are scans.
        orcascore: masks are orCaScore's: calcium of an unknown vessel, 4, becomes 255 and does not count.
        series: which series of DICOM folders with several; see `read_volume`.
        readers: what they read is an array, not a scan.

    Returns:
        The arrays, and what is wrong with scans that could not be read: `raise_for_problems` raises it.

    Raises:
        DataError: if `folder` is none, or `into` lies among its images or labels, or is of other scans or options.
        ImportError: if there are scans, without the extra `ct`.
        OSError: if `into` cannot be written to; what is done stays.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with images/ and labels/ inside")
    parts = split_folders(folder)
    found = [find_scans(part, readers) for part in parts]
    own = into.resolve()
    for part in (folder, *parts):
        inside = any(own.is_relative_to((part / kind).resolve()) for kind in ("images", "labels"))
        if inside or own == part.resolve():
            raise DataError(f"{into} is a part of the data; give another folder for the prepared scans")
    options = {"form": _FORM, "orcascore": orcascore, "series": series}
    scans: list[PreparedScan] = []
    written = 0
    pairs = [pair for files in found for pair in files.pairs]
    if pairs:
        into.mkdir(parents=True, exist_ok=True)
        with lock(into / ".lock", wait=True):
            for pair in tqdm(pairs, "preparing", unit="scan", leave=False, disable=None):
                item, is_new = _prepare(pair, into / pair.folder.relative_to(folder), options)
                scans.append(item)
                written += is_new
    return PreparedScans(folder, into, tuple(scans), written, tuple(p for files in found for p in files.problems))


def _prepare(pair: ScanPair, into: Path, options: dict[str, Any]) -> tuple[PreparedScan, bool]:
    """One scan's arrays, and whether they are new."""
    image, label, about = (into / kind / f"{pair.name}{suffix}" for kind, suffix in _FILES)
    facts = {**options, "scan": file_facts(pair.scan), "mask": file_facts(pair.mask)}
    place = {**options, "scan": str(pair.scan.resolve())}
    done = {"fingerprint": hashlib.sha256(repr(facts).encode()).hexdigest(), **place}
    found = _content(about)
    if image.exists() and label.exists() and found.get("fingerprint") == done["fingerprint"]:
        return PreparedScan(pair, image, label), False
    if differs := [key for key in place if found and found.get(key) != place[key]]:
        raise DataError(  # another training may be reading it
            f"{image} was made with another {' and '.join(differs)}; give another folder for prepared scans "
            "(--prepared), or remove this one"
        )
    try:
        volume, labels = _read(pair, orcascore=options["orcascore"], series=options["series"])
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # one scan must not hide what is wrong with the others
        return PreparedScan(pair, image, label, _problem(pair, error)), False
    try:
        for path in (image, label, about):
            path.parent.mkdir(parents=True, exist_ok=True)
        about.unlink(missing_ok=True)  # from here on the arrays may be of two makings
        for path, array in ((image, volume.hu), (label, labels)):
            _save(path, array, volume)
        write_atomically(about, (json.dumps(done) + "\n").encode())
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise OSError(f"{pair.scan}: cannot be prepared in {into} ({reason}); the scans before it are kept") from error
    return PreparedScan(pair, image, label), True


_FILES = (("images", ".npy"), ("labels", ".npy"), ("sources", ".json"))


def _read(pair: ScanPair, *, orcascore: bool, series: str | None) -> tuple[Volume, NDArray[np.uint8]]:
    volume = read_volume(pair.scan, series=series if pair.scan.is_dir() else None)
    check_axial(volume)
    check_hu(pair.scan, volume)
    if pair.mask.suffix.lower() in COCA:
        return volume, read_coca_plist(pair.mask, volume)
    return volume, read_orcascore(pair.mask, volume) if orcascore else read_mask(pair.mask, volume)


def _save(path: Path, array: NDArray[Any], volume: Volume) -> None:
    """Write (Z, H, W) with upright slices, a slice at a time: no second scan in memory."""
    for partial in [file for file in path.parent.iterdir() if file.name.startswith(f".{path.name}.")]:
        partial.unlink()  # of a process that was killed
    orientation = SliceOrientation.of(volume.affine)
    planes = (orientation.upright(torch.from_numpy(plane)).contiguous().numpy() for plane in array)  # (H, W), or (W, H)
    shape = (len(array), *(array.shape[:0:-1] if orientation.exchanged else array.shape[1:]))
    descr = np.lib.format.dtype_to_descr(array.dtype)
    with writing_atomically(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for plane in planes:
            file.write(plane.data)


def _content(about: Path) -> dict[str, Any]:
    try:
        content = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _problem(pair: ScanPair, error: Exception) -> Problem:
    """With the file that the error names."""
    text = " ".join(str(error).split()) or type(error).__name__
    place, colon, reason = text.partition(": ")
    is_file = bool(colon) and Path(place).exists()
    return Problem(Path(place), reason) if is_file else Problem(pair.scan, text)
