"""The text headers of MetaImage and NRRD files: what ITK's readers of them take badly is refused before they see it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from ddrsapc.ct.errors import CTError

__all__ = ["check_metaimage_header", "check_nrrd_header"]

MAX_HEADER = 1 << 18  # bytes
MAX_LINE = 260  # bytes; over some longer ones the readers break down, and the process with them
META_FIELD = re.compile(rb"\s*([^=:]+?)\s*[=:]\s*(.*?)\s*")


def check_metaimage_header(path: Path) -> int | None:
    """Refuse a header without dimensions that can be read, or with values elsewhere.

    Returns:
        How many bytes of values there are; None where that does not say how many values.

    Raises:
        CTError: that says why.
    """
    fields: dict[bytes, bytes] = {}
    for line, end, more in _lines(path):
        found = META_FIELD.fullmatch(line)
        if found is None or (found[1] == b"Name" and len(line) > MAX_LINE):
            break
        fields[found[1]] = found[2]
        if found[1] == b"NDims" and found[2] not in {b"3", b"4"}:  # the reader writes where others do not belong
            raise CTError(f"{path}: is an image of {_shown(found[2])} dimensions; expected one 3D image")
        if found[1] == b"ElementDataFile":
            if b"NDims" not in fields:
                raise CTError(f"{path}: does not say how many dimensions it has (NDims); get the file again")
            is_plain = _says(fields, b"BinaryData") and not _says(fields, b"CompressedData")
            return _size_of_values(path, found[2], end, more, is_plain=is_plain and b"HeaderSize" not in fields)
    raise CTError(f"{path}: is no MetaImage, or its header is damaged; get the file again")


def check_nrrd_header(path: Path) -> int | None:
    """Refuse a header with lines that are too long to be read, or with values elsewhere.

    Returns:
        How many bytes of values there are; None where that does not say how many values.

    Raises:
        CTError: that says why.
    """
    fields: dict[bytes, bytes] = {}
    names, after, start = b"LOCAL", b"", 0
    for line, end, more in _lines(path):
        start = end
        if not fields and not line.startswith(b"NRRD"):
            raise CTError(f"{path}: is no NRRD file; get it again")
        if not line:
            break
        if line.startswith(b"#") or b":=" in line:
            continue
        if len(line) > MAX_LINE:
            raise CTError(f"{path}: its header is damaged at a line of {len(line)} letters; get the file again")
        name, _, value = line.partition(b":")
        name = name.strip().lower().replace(b" ", b"")
        fields[name] = value.strip()
        if name == b"datafile":
            names, after = value.strip(), more
            if names.startswith(b"LIST"):
                break
    is_plain = fields.get(b"encoding") == b"raw" and not {b"byteskip", b"lineskip"} & fields.keys()
    return _size_of_values(path, names, start, after, is_plain=is_plain)


def _lines(path: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """The lines of a header; for each, at which byte it ends and what follows."""
    try:
        with path.open("rb") as file:
            header = file.read(MAX_HEADER)
    except OSError as error:
        raise CTError(f"{path}: cannot be read ({error.strerror})") from error
    start = 0
    while start < len(header):
        end = header.find(b"\n", start) + 1 or len(header)
        yield header[start:end].rstrip(b"\r\n"), end, header[end:]
        start = end


def _says(fields: Mapping[bytes, bytes], name: bytes) -> bool:
    return fields.get(name, b"").upper().startswith((b"T", b"1"))


def _size_of_values(path: Path, name: bytes, start: int, more: bytes, *, is_plain: bool) -> int | None:
    """The bytes of the values, which are in the file `name`, or from `start` on in the header's own."""
    if name.upper() == b"LOCAL":
        return path.stat().st_size - start if is_plain else None
    is_list = name.upper().startswith(b"LIST")
    for line in more.splitlines() if is_list else [name]:
        text = line.decode(errors="replace").strip()
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute() or ".." in kind(text).parts:  # it may be anything there
                raise CTError(f"{path}: has its values in another folder ({_shown(line)}); put that file beside it")
        if "%" in text:
            raise CTError(f"{path}: has its values in a number of files ({_shown(line)}); convert it to one")
        if not os.path.isfile(path.parent / text):  # pathlib's fails for odd names
            raise CTError(f"{path}: has its values in {_shown(line)}, and there is no such file beside it")
    return None if is_list or not is_plain else (path.parent / name.decode(errors="replace")).stat().st_size


def _shown(value: bytes) -> str:
    return repr(value.decode(errors="replace")[:80])
