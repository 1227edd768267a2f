"""Damaged scans, made from sound ones by a seeded generator: what is done to a series of DICOM files."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate

NEEDED = (
    *("Modality", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "PixelData", "BitsAllocated", "BitsStored", "PixelRepresentation"),
)


@dataclass(frozen=True)
class Damage:
    """What is done to a folder with a series, or to an image file."""

    name: str
    apply: Callable[[Path, np.random.Generator], None]
    result: str
    """"error"; "same": reads as before; "any": either."""


@dataclass(frozen=True)
class Source:
    """A sound scan or mask in a folder of its own."""

    folder: Path
    name: str
    """Of the file; empty: the folder itself is given."""
    damages: tuple[Damage, ...]

    @property
    def path(self) -> Path:
        """What is given to be read."""
        return self.folder / self.name

    def copy(self, folder: Path) -> Path:
        """The same in a new folder."""
        shutil.copytree(self.folder, folder)
        return folder / self.name


def damaged(
    sources: list[Source], folder: Path, *, rounds: int = 1, seed: int = 0, every: int = 1
) -> Iterator[tuple[Source, Damage, Path]]:
    """Every damage of every source, `rounds` times or but one in `every`: a copy that it was done to, for a while."""
    pairs = [(source, damage) for source in sources for damage in source.damages] * rounds
    for number, (source, damage) in enumerate(pairs):
        if number % every == 0:
            copy = folder / f"{number}_{source.folder.name}"
            path = source.copy(copy)
            damage.apply(path, np.random.default_rng((seed, number)))
            yield source, damage, path
            shutil.rmtree(copy)


def pick(folder: Path, rng) -> Path:
    """One of a folder's files."""
    files = sorted(folder.iterdir())
    return files[rng.integers(len(files))]


def inner(folder: Path) -> Path:
    """The file of the slice in the middle."""
    files = sorted(folder.iterdir(), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    return files[len(files) // 2]


def edit(path: Path, **values) -> None:
    """Set raw values of a file, valid or not; None deletes."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        elif isinstance(value, bytes) and keyword != "PixelData":  # as no writer would write it
            tag = pydicom.tag.Tag(keyword)
            vr = pydicom.datadict.dictionary_VR(tag)
            raw = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, dataset.is_implicit_VR, True)
            dataset._dict[tag] = raw
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def cut(path: Path, rng) -> None:
    """Leave a random share."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0, 0.98))])


def scramble(path: Path, rng, *, first: int | None = None) -> None:
    """Change some bytes, of the first ones or of all."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 12)):
        data[rng.integers(min(first or len(data), len(data)))] = rng.integers(256)
    path.write_bytes(bytes(data))


def write_text(path: Path, rng) -> None:
    """A text instead of a scan."""
    path.write_text("text" * rng.integers(1, 99))


def empty_file(path: Path, rng) -> None:
    """No bytes."""
    path.write_bytes(b"")


def shuffle(folder: Path, rng) -> None:
    """Exchange all names."""
    files = sorted(folder.iterdir())
    for number, file in zip(rng.permutation(len(files)), files, strict=True):
        file.rename(folder / f"slice{number}")


def add_copy(folder: Path, rng) -> None:
    """One slice twice."""
    shutil.copyfile(pick(folder, rng), folder / "copy.dcm")


def empty(folder: Path, rng) -> None:
    """No slices at all, perhaps a text."""
    for file in folder.iterdir():
        file.unlink()
    if rng.random() < 0.5:
        (folder / "README.txt").write_text("the slices are elsewhere")


def add_series(folder: Path, rng) -> None:
    """Slices of another series."""
    for number, file in enumerate(sorted(folder.iterdir())[:2]):
        copy = folder / f"other{number}.dcm"
        shutil.copyfile(file, copy)
        edit(copy, SeriesInstanceUID="1.2.3.4", SOPInstanceUID=f"1.2.3.4.{number}")


def of_modality(folder: Path, rng) -> None:
    """All slices."""
    for file in folder.iterdir():
        edit(file, Modality=b"MR")


SPACINGS = (b"0\\0", b"-1\\1", b"1000\\1000", b"1e-9\\1", b"nan\\nan", b"inf\\1", b"half\\half", b"0.5", b"1e999\\1")


def put_one(keyword: str, *values: bytes) -> Callable[[Path, np.random.Generator], None]:
    """Set a raw value of one file."""
    return lambda folder, rng: edit(pick(folder, rng), **{keyword: values[rng.integers(len(values))]})


SERIES = (
    Damage("truncated", lambda folder, rng: cut(pick(folder, rng), rng), "error"),
    Damage("missing tags", lambda folder, rng: edit(pick(folder, rng), **{rng.choice(NEEDED): None}), "error"),
    Damage("shuffled", shuffle, "same"),
    Damage("duplicated", add_copy, "error"),
    Damage("slice missing", lambda folder, rng: inner(folder).unlink(), "error"),
    Damage("mixed series", add_series, "error"),
    Damage("mixed size", lambda folder, rng: edit(pick(folder, rng), Rows=16), "error"),
    Damage("wrong modality", of_modality, "error"),
    Damage("mixed modality", put_one("Modality", b"MR", b"PT", b""), "error"),
    Damage("zero slices", empty, "error"),
    Damage("absurd spacing", put_one("PixelSpacing", *SPACINGS), "error"),
    Damage("NaN", put_one("ImagePositionPatient", b"1\\2\\nan ", b"nan\\nan\\nan "), "error"),
    Damage("position", put_one("ImagePositionPatient", b"1\\2", b"", b"1\\2\\3\\4 "), "error"),
    Damage("slope", put_one("RescaleSlope", b"nan ", b"0 ", b"x ", b"-1"), "error"),
    Damage("text named .dcm", lambda folder, rng: write_text(folder / "notes.dcm", rng), "error"),
    Damage("no bytes", lambda folder, rng: empty_file(folder / "empty.dcm", rng), "error"),
    Damage("other files", lambda folder, rng: write_text(folder / "README", rng), "same"),
    Damage("few pixels", lambda folder, rng: edit(pick(folder, rng), PixelData=encapsulate([bytes(64)])), "error"),
    Damage("header", lambda folder, rng: scramble(pick(folder, rng), rng, first=3000), "any"),
    Damage("bytes", lambda folder, rng: scramble(pick(folder, rng), rng), "any"),
)
