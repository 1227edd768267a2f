"""The headers of a folder's DICOM files, and the series that they form."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag

from ddrsapc.ct.errors import CTError, reason_of
from ddrsapc.ct.volume import DICOM, SeriesInfo

__all__ = ["Header", "Series", "choose_series", "group_series", "read_dataset", "read_header", "read_headers"]

_DIGITS = re.compile(r"\d+")
DICOMDIR = "1.2.840.10008.1.3.10"
MAX_TEXT = 128  # letters; DICOM's own limit for what is read here is 64
MAX_LISTED = 20  # series that an error lists

_KEYWORDS = (
    "SOPClassUID SeriesInstanceUID SeriesDescription Modality ImageType NumberOfFrames SamplesPerPixel Manufacturer "
    "KVP SliceThickness SpacingBetweenSlices Rows Columns PixelSpacing ImagePositionPatient ImageOrientationPatient "
    "RescaleSlope RescaleIntercept RescaleType PixelPaddingValue PixelPaddingRangeLimit PixelRepresentation "
    "CalciumScoringMassFactorPatient CalciumScoringMassFactorDevice ContrastBolusAgent"
)
HEADER_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in _KEYWORDS.split()]


@dataclass(frozen=True)
class Header:
    """What a DICOM file says before its pixels."""

    file: Path
    dataset: pydicom.Dataset

    def get(self, keyword: str) -> Any:
        """A value; None where it is missing or empty.

        Raises:
            CTError: if it is of a form that is not DICOM's.
        """
        with reading(self.file):
            value = self.dataset.get(keyword)
        return None if value is None or value == "" else value

    def text(self, keyword: str) -> str:
        """A value as printable text in one line, of bounded length; "" where it is missing."""
        value = self.get(keyword)
        text = "" if value is None else " ".join(str(value).split())[:MAX_TEXT]
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def need(self, keyword: str) -> Any:
        """A value that must be there.

        Raises:
            CTError: if it is missing or empty.
        """
        value = self.get(keyword)
        if value is None:
            raise CTError(f"{self.file}: has no {keyword}, without which a CT slice cannot be read; export it again")
        return value

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout view, no slice."""
        return "LOCALIZER" in self.text("ImageType")

    @property
    def sop_class(self) -> str:
        """SOP class; where it was removed from the dataset, that of the file's own header."""
        meta: Any = self.dataset.file_meta
        return self.text("SOPClassUID") or Header(self.file, meta).text("MediaStorageSOPClassUID")


@dataclass(frozen=True)
class Series:
    """The headers of one series."""

    info: SeriesInfo
    headers: tuple[Header, ...]

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout view, not slices."""
        return all(header.is_localizer for header in self.headers)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Around pydicom's work on a file: its many errors become one, and its remarks on odd values are not shown.

    Raises:
        CTError: instead of any other error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that matter are checked here
            warnings.filterwarnings("error", message="End of file reached")  # pixels are missing
            yield
    except (CTError, MemoryError):
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise CTError(f"{file}: cannot be read as DICOM ({reason_of(error)}); get the file again") from error


def read_dataset(file: Path, *, tags: list[BaseTag | int] | None = None, pixels: bool = False) -> pydicom.Dataset:
    """A DICOM file, all of it or some tags, with or without pixels.

    Raises:
        CTError: if it is none or damaged.
    """
    with reading(file):
        return pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=tags)


def read_header(file: Path) -> Header | None:
    """A DICOM file's header; None for a file of another kind, and for the index of a DICOM medium.

    Raises:
        CTError: if it is damaged, or named like DICOM but something else.
    """
    try:
        with reading(file):
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=HEADER_TAGS)
    except CTError as error:
        if not isinstance(error.__cause__, InvalidDicomError):
            raise
        if file.suffix.lower() not in DICOM:
            return None
        raise CTError(f"{file}: is no DICOM file, though named like one; get it again or take it away") from error
    header = Header(file, dataset)
    return None if header.sop_class == DICOMDIR else header


def read_headers(folder: Path) -> list[Header]:
    """The headers of a folder's DICOM files, by name; other files and folders in it are passed over.

    Raises:
        CTError: if there are none, or damaged ones.
    """
    try:
        files = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise CTError(f"{folder}: cannot be read as a folder ({error.strerror})") from error
    headers = [header for file in files if (header := read_header(file)) is not None]
    known = {header.file for header in headers}
    patterns = {_DIGITS.sub("#", file.name) for file in known}
    for file in files:
        if file not in known and _DIGITS.search(file.name) and _DIGITS.sub("#", file.name) in patterns:
            raise CTError(f"{file}: is no DICOM file, though named like the slices; get it again or take it away")
    if not headers:
        raise CTError(
            f"{folder}: holds no DICOM files (but {len(files)} others); give the folder that the slices are directly in"
        )
    return headers


def group_series(headers: Sequence[Header]) -> list[Series]:
    """The series that headers form, largest first."""
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    found = []
    for uid, group in groups.items():
        modalities = [header.text("Modality") for header in group]
        modality = "CT" if "CT" in modalities else modalities[0]
        files = tuple(header.file for header in group)
        found.append(Series(SeriesInfo(uid, group[0].text("SeriesDescription"), modality, files), tuple(group)))
    return sorted(found, key=lambda item: (-len(item.headers), item.info.uid))


def choose_series(folder: Path, found: Sequence[Series], wanted: str | None) -> Series:
    """The one CT series, or the wanted one; a scout view beside it does not count.

    Raises:
        CTError: if there is no CT series, or several and it is not clear which; it lists them.
    """
    for item in found:
        for header in item.headers:  # a file cut short in its header must not pass for another series
            header.need("Modality")
    candidates = [item for item in found if item.info.modality == "CT"]
    if not candidates:
        first = found[0]
        raise CTError(
            f"{first.headers[0].file}: is no CT image but of modality {first.info.modality}; "
            "give a folder with a CT series"
        )
    more = f"; and {len(candidates) - MAX_LISTED} more" if len(candidates) > MAX_LISTED else ""
    listing = f"({'; '.join(str(item.info) for item in candidates[:MAX_LISTED])}{more})"
    if wanted is None:
        scans = [item for item in candidates if not item.is_localizer] or candidates
        if len(scans) > 1:
            raise CTError(
                f"{folder}: holds {len(candidates)} CT series; choose one by series=... "
                f"or --series, by UID, end of it, or description {listing}"
            )
        return scans[0]
    for matches in (
        [item for item in candidates if wanted == item.info.uid],
        [item for item in candidates if wanted.casefold() == item.info.description.casefold()],
        [item for item in candidates if wanted and item.info.uid.endswith(wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise CTError(f"{folder}: {len(matches)} CT series are called {wanted!r}; give the UID {listing}")
    raise CTError(f"{folder}: no CT series is called {wanted!r} {listing}")
