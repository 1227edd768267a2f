"""A safetensors file: read once, checked, then parsed from the very bytes that were checked; and written.

`safetensors` itself checks offsets, sizes and overflows; what it lets pass and we do not is checked here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ddrsapc.hub.errors import (
    UnsafeWeightsError,
    WeightsAccessError,
    WeightsError,
    WeightsIntegrityError,
    WeightsNotFoundError,
)
from ddrsapc.hub.manifest import WeightsSpec
from ddrsapc.hub.strict_json import parse_object
from ddrsapc.messages import shown

__all__ = ["Expected", "WeightsFile", "parse_weights", "read_bytes", "read_weights", "serialize", "verify_weights"]

MAX_HEADER, MAX_TENSORS = 1 << 20, 20_000
DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64"})

_START = 64  # bytes that tell what kind of file it is
_ZIP, _PICKLES = b"PK\x03\x04", tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand; None: not known."""

    sha256: str | None = None
    git_sha1: str | None = None
    """Hash of the Git blob, which the Hub gives for files that are not in LFS."""
    size: int | None = None
    """Bytes."""


@dataclass(frozen=True)
class WeightsFile:
    """What a checked file holds."""

    sha256: str
    size: int
    """Bytes."""
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def verify_weights(path: str | os.PathLike[str], spec: WeightsSpec | None = None) -> WeightsFile:
    """Read a safetensors file and check everything that can be checked without its network.

    Size and SHA-256 against the manifest's entry, before anything is parsed; then the header (at most 1 MiB,
    20,000 tensors, no key twice, no other types than floating point and int64) and that all values are finite.
    Memory: at most twice the file, and 2 KiB a tensor.

    Args:
        path: the file.
        spec: the manifest's entry; None: only what the file says of itself is checked.

    Returns:
        Its hash, size, tensors and metadata.

    Raises:
        WeightsNotFoundError: if there is no such file.
        WeightsIntegrityError: if it is not the manifest's, or cut short.
        UnsafeWeightsError: if it is no safetensors file, or one of those refused.
    """
    if spec is None:
        return read_weights(Path(path))
    file = read_weights(Path(path), Expected(spec.sha256, size=spec.bytes), place=f"{spec.name} ({path})")
    if len(file.tensors) != spec.num_tensors:
        raise WeightsIntegrityError(
            f"{spec.name} ({path}): the manifest says {spec.num_tensors} tensors, the file has {len(file.tensors)}; "
            "correct the manifest"
        )
    return file


def read_weights(path: Path, expected: Expected | None = None, *, place: str | None = None) -> WeightsFile:
    """See `verify_weights`.

    Args:
        path: the file.
        expected: what is known of it.
        place: what error messages call it; None: the path.
    """
    place = place or str(path)
    return parse_weights(read_bytes(path, expected, place=place, header=True), place)


def read_bytes(
    path: Path, expected: Expected | None = None, *, place: str, header: bool = False, limit: int | None = None
) -> bytes:
    """A file's bytes, whole, if they are the expected ones.

    Args:
        path: the file.
        expected: what is known of it.
        place: what error messages call it.
        header: refuse what is not a safetensors file of this size before the rest is read.
        limit: bytes that are read at most; None: any number.
    """
    expected = expected or Expected()
    try:
        if not path.is_file():
            raise WeightsNotFoundError(
                f"{place}: {'that is a folder' if path.is_dir() else 'there is no such file'}; "
                "expected a .safetensors file (a folder written by save_pretrained is loaded by 'local-dir:PATH')"
            )
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if expected.size not in (None, size):
                raise _other_bytes(place, expected, f"{size} bytes")
            if limit is not None and size > limit:
                raise UnsafeWeightsError(f"{place}: {size} bytes are refused, {limit} are allowed")
            if header and expected.sha256 is None and expected.git_sha1 is None:
                start = file.read(_START)
                _check_start(start, size, place)
                _check_header(start + file.read(MAX_HEADER + 8 - _START), size, place)
                file.seek(0)
            data = file.read(size)
    except WeightsError:
        raise
    except MemoryError as error:
        raise UnsafeWeightsError(f"{place}: {size} bytes do not fit into this machine's memory") from error
    except PermissionError as error:
        raise WeightsAccessError(f"{place}: the file may not be read ({error.strerror}); change its mode") from error
    except OSError as error:
        raise WeightsNotFoundError(f"{place}: the file cannot be read ({error})") from error
    if len(data) != size:
        raise WeightsIntegrityError(f"{place}: the file changed while it was read; try again")
    if expected.sha256 is not None and hashlib.sha256(data).hexdigest() != expected.sha256:
        raise _other_bytes(place, expected, f"{size} bytes with sha256 {hashlib.sha256(data).hexdigest()}")
    if expected.git_sha1 is not None:
        sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        sha1.update(data)
        if sha1.hexdigest() != expected.git_sha1:
            raise _other_bytes(place, expected, f"{size} bytes with Git blob hash {sha1.hexdigest()}")
    return data


def parse_weights(data: bytes, place: str) -> WeightsFile:
    """What the bytes of a safetensors file hold; the checks are those of `verify_weights`.

    Args:
        data: the file's bytes.
        place: what error messages call it.
    """
    _check_start(data[:_START], len(data), place)
    metadata = _check_header(data, len(data), place)
    try:
        tensors = parse_safetensors(data)
    except (SafetensorError, ValueError, OverflowError) as error:
        reason = shown(str(error), 160)
        raise WeightsIntegrityError(f"{place}: the file is cut short or damaged ({reason}); get it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            low, high = tensor.aminmax()  # no copy, and NaN wins
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise UnsafeWeightsError(f"{place}: {shown(name)!r} has values that are not finite; export them again")
    return WeightsFile(hashlib.sha256(data).hexdigest(), len(data), tensors, metadata)


def serialize(tensors: Mapping[str, Tensor], **notes: Any) -> bytes:
    """A safetensors file; equal tensors and notes are equal bytes.

    Args:
        tensors: a state dict.
        **notes: what to note in the header, as JSON.
    """
    header = {"format": "pt"} | {key: json.dumps(value) for key, value in notes.items()}
    data = save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    # the library writes the notes in random order
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _other_bytes(place: str, expected: Expected, found: str) -> WeightsIntegrityError:
    known = {"{} bytes": expected.size, "sha256 {}": expected.sha256, "Git blob hash {}": expected.git_sha1}
    wanted = " with ".join(text.format(value) for text, value in known.items() if value is not None)
    return WeightsIntegrityError(
        f"{place}: expected {wanted}, found {found}: damaged, or another file; delete it and get it again"
    )


def _check_start(start: bytes, size: int, place: str) -> None:
    """Refuse files whose beginning is not that of a safetensors file with a header of bounded size."""
    length = int.from_bytes(start[:8], "little")
    if size >= 10 and length <= MAX_HEADER and start[8:9] == b"{":
        return
    if start.startswith((_ZIP, *_PICKLES)):
        raise UnsafeWeightsError(
            f"{place}: that is a pickle, which can run any code when it is read; convert it once with: "
            "ddrsapc convert IN.pth OUT.safetensors"
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsNotFoundError(f"{place}: that is only a pointer of Git LFS; get the file with: git lfs pull")
    if start[8:9] == b"{":
        raise UnsafeWeightsError(f"{place}: a header of {length} bytes is refused, {MAX_HEADER} are allowed")
    raise UnsafeWeightsError(f"{place}: not a safetensors file; only these are read")


def _check_header(data: bytes, size: int, place: str) -> dict[str, str]:
    """Refuse headers that are not a network's, or of a file of another size; the metadata."""
    end = 8 + int.from_bytes(data[:8], "little")
    if end > size:
        raise WeightsIntegrityError(f"{place}: the file is cut short: {size} bytes, its header alone has {end}")
    try:
        entries = parse_object(data[8:end])
        metadata = entries.pop("__metadata__", {})
        if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
            raise ValueError("__metadata__ holds other things than text")
        if len(entries) > MAX_TENSORS:
            raise ValueError(f"{len(entries)} tensors, {MAX_TENSORS} are allowed")
        last = 0
        for name, entry in entries.items():
            dtype = entry.get("dtype") if isinstance(entry, dict) else None
            if not isinstance(dtype, str) or dtype not in DTYPES:
                raise ValueError(
                    f"{shown(name)!r} has the type {shown(dtype)!r}; allowed are {', '.join(sorted(DTYPES))}"
                )
            if 0 in entry["shape"]:
                raise ValueError(f"{shown(name)!r} has no elements: shape {shown(entry['shape'])}")
            last = max(last, entry["data_offsets"][1])
        if end + last != size:
            raise WeightsIntegrityError(
                f"{place}: the file is cut short or damaged ({size} bytes, its header speaks of {shown(end + last)}); "
                "get it again"
            )
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UnsafeWeightsError(
            f"{place}: refused, its header is not that of a network's weights: {shown(str(error), 200)}"
        ) from error
    return metadata
