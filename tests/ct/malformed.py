"""Damaged scans, made from sound ones by a seeded generator."""

import gzip
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
    """A slice of another series."""
    file = folder / "other.dcm"
    shutil.copyfile(pick(folder, rng), file)
    edit(file, SeriesInstanceUID=f"1.2.3.{rng.integers(1, 99)}", SOPInstanceUID="1.2.3.4")


SPACINGS = (b"0\\0", b"-1\\1", b"1000\\1000", b"1e-9\\1", b"nan\\nan", b"inf\\1", b"half\\half", b"0.5", b"1e999\\1")


def put_one(keyword: str, *values: bytes) -> Callable[[Path, np.random.Generator], None]:
    """Set a raw value of one file."""
    return lambda folder, rng: edit(pick(folder, rng), **{keyword: values[rng.integers(len(values))]})


SERIES = (
    Damage("cut short", lambda folder, rng: cut(pick(folder, rng), rng), "error"),
    Damage("missing tag", lambda folder, rng: edit(pick(folder, rng), **{rng.choice(NEEDED): None}), "error"),
    Damage("shuffled", shuffle, "same"),
    Damage("duplicated", add_copy, "error"),
    Damage("slice missing", lambda folder, rng: inner(folder).unlink(), "error"),
    Damage("mixed series", add_series, "error"),
    Damage("mixed size", lambda folder, rng: edit(pick(folder, rng), Rows=16), "error"),
    Damage("modality", put_one("Modality", b"MR", b"PT", b""), "error"),
    Damage("no slices", empty, "error"),
    Damage("spacing", put_one("PixelSpacing", *SPACINGS), "error"),
    Damage("position", put_one("ImagePositionPatient", b"1\\2\\nan ", b"1\\2", b"", b"1\\2\\3\\4 "), "error"),
    Damage("slope", put_one("RescaleSlope", b"nan ", b"0 ", b"x ", b"-1"), "error"),
    Damage("text", lambda folder, rng: (folder / "notes.dcm").write_text("text" * rng.integers(1, 99)), "error"),
    Damage("no bytes", lambda folder, rng: (folder / "empty.dcm").write_bytes(b""), "error"),
    Damage("other files", lambda folder, rng: (folder / "README").write_text("text" * rng.integers(1, 99)), "same"),
    Damage("few pixels", lambda folder, rng: edit(pick(folder, rng), PixelData=encapsulate([bytes(64)])), "error"),
    Damage("header", lambda folder, rng: scramble(pick(folder, rng), rng, first=3000), "any"),
    Damage("bytes", lambda folder, rng: scramble(pick(folder, rng), rng), "any"),
)


def unpacked(change: Callable[[bytearray, np.random.Generator], None]) -> Callable[[Path, np.random.Generator], None]:
    """Do something to the bytes of a `.nii.gz` file."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        data = bytearray(gzip.decompress(path.read_bytes()))
        change(data, rng)
        path.write_bytes(gzip.compress(bytes(data), compresslevel=1))

    return apply


def put(offset: int, dtype: str, choices: tuple[float, ...]) -> Callable[[Path, np.random.Generator], None]:
    """Set one number."""

    def change(data: bytearray, rng: np.random.Generator) -> None:
        part = np.array(rng.choice(choices)).astype(dtype).tobytes()
        data[offset : offset + len(part)] = part

    return unpacked(change)


def shorten(data: bytearray, rng) -> None:
    """Leave a random share."""
    del data[int(len(data) * rng.uniform(0, 0.98)) :]


def mix(data: bytearray, rng) -> None:
    """Change some bytes of the header."""
    for place in rng.integers(0, 352, rng.integers(1, 8)):
        data[place] = rng.integers(256)


def not_finite(data: bytearray, rng) -> None:
    """As float32 with one value that is not finite."""
    values = np.frombuffer(bytes(data[352:]), np.int16).astype(np.float32)
    values[rng.integers(len(values))] = rng.choice([np.nan, np.inf, -np.inf])
    data[70:74] = np.array([16, 32], "<i2").tobytes()  # datatype, bitpix
    data[112:120] = np.zeros(2, "<f4").tobytes()  # no slope
    data[352:] = values.tobytes()


IMAGES = (
    Damage("cut short", cut, "error"),
    Damage("packed short", unpacked(shorten), "error"),
    Damage("size", put(42, "<i2", (0, -1, 30000, 9999)), "error"),
    Damage("spacing", put(80, "<f4", (0.0, np.nan, np.inf, 1000.0, 1e-9)), "error"),
    Damage("not finite", unpacked(not_finite), "error"),
    Damage("text", lambda path, rng: path.write_text("text" * rng.integers(1, 99)), "error"),
    Damage("no bytes", lambda path, rng: path.write_bytes(b""), "error"),
    Damage("header", unpacked(mix), "any"),
    Damage("bytes", scramble, "any"),
)


def damages(count: int, seed: int = 0) -> Iterator[tuple[int, Damage, np.random.Generator]]:
    """`count` times a damage with the numbers that it is done by: all kinds in turn."""
    kinds = (*SERIES, *IMAGES)
    for number in range(count):
        yield number, kinds[number % len(kinds)], np.random.default_rng((seed, number))
