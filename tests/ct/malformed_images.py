"""What is done to image files: NIfTI, MetaImage, NRRD and pictures."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.ct.malformed import Damage, cut, empty_file, scramble, write_text

Change = Callable[[Path, np.random.Generator], None]


def unpacked(change: Callable[[bytearray, np.random.Generator], None]) -> Change:
    """Do something to the bytes of a `.nii.gz` file."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        data = bytearray(gzip.decompress(path.read_bytes()))
        change(data, rng)
        path.write_bytes(gzip.compress(bytes(data), compresslevel=1))

    return apply


def put(offset: int, dtype: str, choices: tuple[float, ...]) -> Change:
    """Set one number of a NIfTI header."""

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


def with_value(*choices: float) -> Callable[[bytearray, np.random.Generator], None]:
    """As float32 with one value of these."""

    def change(data: bytearray, rng: np.random.Generator) -> None:
        bits = int(np.frombuffer(bytes(data[72:74]), "<i2")[0])
        values = np.frombuffer(bytes(data[352:]), {8: np.uint8, 16: np.int16}[bits]).astype(np.float32)
        values[rng.integers(len(values))] = rng.choice(choices)
        data[70:74] = np.array([16, 32], "<i2").tobytes()  # datatype, bitpix
        data[112:120] = np.zeros(2, "<f4").tobytes()  # no slope
        data[352:] = values.tobytes()

    return unpacked(change)


FILE = (
    Damage("truncated", cut, "error"),
    Damage("text", write_text, "error"),
    Damage("no bytes", empty_file, "error"),
    Damage("bytes", scramble, "any"),
)

NIFTI = (
    *FILE,
    Damage("packed short", unpacked(shorten), "error"),
    Damage("size", put(42, "<i2", (0, -1, 30000, 9999)), "error"),
    Damage("zero slices", put(46, "<i2", (0, -3)), "error"),
    Damage("absurd spacing", put(80, "<f4", (0.0, np.nan, np.inf, 1000.0, 1e-9)), "error"),
    Damage("NaN", with_value(np.nan, np.inf, -np.inf), "error"),
    Damage("origin", put(292, "<f4", (np.nan, np.inf)), "error"),  # srow_x
    Damage("type", put(70, "<i2", (0, 1, 32, 128, 1536, 77)), "error"),
    Damage("header", unpacked(mix), "any"),
)


def line(pattern: str, *values: str) -> Change:
    """Set a line of a text header, whose key the pattern matches."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        new = values[rng.integers(len(values))].encode()
        data, count = re.subn(rb"(?m)^(%s) ?[^\n]*$" % pattern.encode(), rb"\1 " + new, path.read_bytes(), count=1)
        assert count == 1, pattern
        path.write_bytes(data)

    return apply


def drop(*keys: str) -> Change:
    """Take out one of these lines of a text header."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        key = keys[rng.integers(len(keys))].encode()
        data, count = re.subn(rb"(?m)^%s[^\n]*\n" % key, b"", path.read_bytes(), count=1)
        assert count == 1, key
        path.write_bytes(data)

    return apply


def raw(change: Change) -> Change:
    """Do something to the values' file beside a header."""
    return lambda path, rng: change(path.with_suffix(".raw"), rng)


def as_floats(type_line: str) -> Change:
    """The values' file as float32 with one that is not finite; `type_line` says so in the header."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        data = path.with_suffix(".raw")
        values = np.frombuffer(data.read_bytes(), np.int16).astype(np.float32)
        values[rng.integers(len(values))] = rng.choice([np.nan, np.inf, -np.inf])
        data.write_bytes(values.tobytes())
        line(*type_line)(path, rng)

    return apply


ELSEWHERE = ("/etc/passwd", "/dev/zero", "../scan.raw", "C:\\\\\\\\scan.raw", "a/../../scan.raw", "LIST\n/etc/passwd")

MHA = (
    *FILE,
    Damage("size", line("DimSize =", "0 0 0", "-1 32 5", "99999 99999 99999", "36 32", "x y z"), "error"),
    Damage("zero slices", line("DimSize =", "36 32 0"), "error"),
    Damage("absurd spacing", line("ElementSpacing =", "0.5 0.5 0", "1000 1 1", "nan 1 1", "1e-9 1 1"), "error"),
    Damage("dimensions", line("NDims =", "0", "2", "4", "-3", "99"), "error"),
    Damage("wrong ElementType", line("ElementType =", "MET_DOUBLE", "MET_STRING", "MET_NONE", "nonsense"), "error"),
    Damage("missing tags", drop("DimSize", "ElementType", "NDims", "ElementDataFile"), "error"),
    Damage("axes", line("TransformMatrix =", "0 0 0 0 0 0 0 0 0", "1 1 0 0 1 0 0 0 1", "1 0 0"), "error"),
    Damage("elsewhere", line("ElementDataFile =", *ELSEWHERE), "error"),
    Damage("header", lambda path, rng: scramble(path, rng, first=300), "any"),
)
MHD = (
    *(damage for damage in MHA if damage.name not in {"truncated", "bytes"}),
    Damage("truncated", raw(cut), "error"),
    Damage("missing raw file", raw(lambda path, rng: path.unlink()), "error"),
    Damage("NaN", as_floats(("ElementType =", "MET_FLOAT")), "error"),
)
NRRD = (
    *FILE,
    Damage("size", line("sizes:", "0 0 0", "-1 32 5", "99999 99999 99999", "36 32", "x y z"), "error"),
    Damage("zero slices", line("sizes:", "36 32 0"), "error"),
    Damage(
        "absurd spacing", line("space directions:", "(0,0,0) (0,0.5,0) (0,0,2)", "(1000,0,0) (0,1,0) (0,0,1)"), "error"
    ),
    Damage("dimensions", line("dimension:", "0", "2", "4", "99"), "error"),
    Damage("type", line("type:", "double", "block", "nonsense"), "error"),
    Damage("missing tags", drop("sizes", "type", "dimension", "encoding"), "error"),
    Damage("header", lambda path, rng: scramble(path, rng, first=300), "any"),
)
NHDR = (
    *(damage for damage in NRRD if damage.name not in {"truncated", "bytes"}),
    Damage("elsewhere", line("data file:", *ELSEWHERE), "error"),
    Damage("truncated", raw(cut), "error"),
    Damage("missing raw file", raw(lambda path, rng: path.unlink()), "error"),
    Damage("NaN", as_floats(("type:", "float")), "error"),
)


def picture(*modes: str) -> Change:
    """A picture of another kind."""
    return lambda path, rng: Image.new(modes[rng.integers(len(modes))], (36, 32)).save(path)


PNG = (*FILE, Damage("colours", picture("RGB", "RGBA", "LA"), "error"), Damage("8 bits", picture("L", "P"), "error"))
