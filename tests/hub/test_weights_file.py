import hashlib
import io
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from ddrsapc import hub
from ddrsapc.hub.manifest import parse_manifest
from ddrsapc.hub.weights_file import Expected, read_bytes, serialize
from tests.hub.checkouts import entry_of, manifest_of


def spec_of(data, **changed):
    return parse_manifest(manifest_of(unet__small=entry_of(data, **changed)), "here")["unet.small"]


def raw(header, data=b""):
    """A file with a header as it is given: text, or an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path):
    """A file that is not there yet."""
    return tmp_path / "a.safetensors"


def test_reads_what_was_written(path):
    tensors = {"a": torch.randn(3, 2), "half": torch.randn(4).half(), "n": torch.tensor(7)}
    path.write_bytes(serialize(tensors, architecture="unet", epoch=3))
    file = hub.verify_weights(path)
    assert file.tensors.keys() == tensors.keys()
    assert all(torch.equal(file.tensors[name], tensors[name]) for name in tensors)
    assert file.metadata == {"format": "pt", "architecture": '"unet"', "epoch": "3"}
    assert (file.sha256, file.size) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def test_a_manifests_entry(path, small_weights):
    path.write_bytes(small_weights)
    assert hub.verify_weights(str(path), spec_of(small_weights)).size == len(small_weights)
    for changed, message in (
        (small_weights[:-1], "expected {n} bytes with sha256 {sha}, found {m} bytes: damaged"),
        (small_weights + b"x", "expected {n} bytes with sha256 {sha}, found"),
        (small_weights[:-1] + b"?", "found {n} bytes with sha256 {other}"),
        (b"", "found 0 bytes"),
    ):
        path.write_bytes(changed)
        with pytest.raises(hub.WeightsIntegrityError) as caught:
            hub.verify_weights(path, spec_of(small_weights))
        facts = {
            "n": len(small_weights),
            "m": len(changed),
            "sha": hashlib.sha256(small_weights).hexdigest(),
            "other": hashlib.sha256(changed).hexdigest(),
        }
        assert message.format(**facts) in str(caught.value)
        assert str(path) in str(caught.value)
        assert "unet.small" in str(caught.value)
    path.write_bytes(small_weights)
    with pytest.raises(hub.WeightsIntegrityError, match="the manifest says 5 tensors"):
        hub.verify_weights(path, spec_of(small_weights, num_tensors=5))


def test_the_hash_comes_before_parsing(path, small_weights):
    """Wrong bytes that are a pickle are said to be wrong bytes: they are not looked into."""
    pickle = b"\x80\x02cos\nsystem\n." + bytes(len(small_weights) - 15)
    path.write_bytes(pickle[: len(small_weights)])
    with pytest.raises(hub.WeightsIntegrityError, match="expected"):
        hub.verify_weights(path, spec_of(small_weights))


def test_git_hashes(path):
    path.write_bytes(b"hello\n")
    expected = Expected(git_sha1="ce013625030ba8dba906f756967f9e9ca394464a")  # `git hash-object`
    assert read_bytes(path, expected, place="here") == b"hello\n"
    path.write_bytes(b"hallo\n")
    with pytest.raises(hub.WeightsIntegrityError, match="here: expected Git blob hash ce01.*found 6 bytes with Git"):
        read_bytes(path, expected, place="here")


def test_a_valid_file_may_begin_like_a_pickle(path):
    """A header of 0x0280 bytes: the file begins with 80 02, as a pickle does."""
    header = json.dumps({"a": tensor(0, 4), "__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(raw(header.ljust(0x0280), struct.pack("<f", 1.5)))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert hub.verify_weights(path).tensors["a"].tolist() == [1.5]


torch_zip = io.BytesIO()
torch.save({"a": torch.ones(2)}, torch_zip)

HOSTILE = {
    "pickle": (b"\x80\x02cos\nsystem\nX\x00.", hub.UnsafeWeightsError, "pickle.*ddrsapc convert"),
    "pickle, protocol 5": (b"\x80\x05\x95" + bytes(60), hub.UnsafeWeightsError, "pickle.*ddrsapc convert"),
    "PyTorch's zip": (torch_zip.getvalue(), hub.UnsafeWeightsError, "pickle.*ddrsapc convert"),
    "text": (b"<html>not weights</html>" * 9, hub.UnsafeWeightsError, "not a safetensors file"),
    "empty": (b"", hub.UnsafeWeightsError, "not a safetensors file"),
    "pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        hub.WeightsNotFoundError,
        "git lfs pull",
    ),
    "header of 8 EiB": (struct.pack("<Q", 2**63 - 1) + b"{" + bytes(99), hub.UnsafeWeightsError, "header of 9223"),
    "header over 1 MiB": (raw(b"{" + b" " * (1 << 20) + b"}"), hub.UnsafeWeightsError, "header of 1048578 bytes"),
    "header longer than the file": (struct.pack("<Q", 5000) + b'{"a', hub.WeightsIntegrityError, "cut short"),
    "tensors cut short": (raw({"a": tensor(0, 400)}, bytes(300)), hub.WeightsIntegrityError, "cut short or damaged"),
    "bytes left over": (raw({"a": tensor(0, 4)}, bytes(8)), hub.WeightsIntegrityError, "damaged"),
    "overlapping tensors": (
        raw({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        hub.WeightsIntegrityError,
        "damaged",
    ),
    "a hole": (raw({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), hub.WeightsIntegrityError, "damaged"),
    "shape and size differ": (
        raw({"a": tensor(0, 4, shape=[1 << 40])}, bytes(4)),
        hub.WeightsIntegrityError,
        "damaged",
    ),
    "shape that overflows": (
        raw({"a": tensor(0, 4, shape=[1 << 62, 1 << 62])}, bytes(4)),
        hub.WeightsIntegrityError,
        "damaged",
    ),
    "negative offsets": (raw({"a": tensor(-4, 0, shape=[1])}, bytes(4)), hub.WeightsIntegrityError, "damaged"),
    "no elements": (
        raw({"a": tensor(0, 0, shape=[1 << 50, 0])}),
        hub.UnsafeWeightsError,
        "'a' has no elements",
    ),
    "a name with lines and escapes": (
        save({"evil\n\x1b[31m" + "A" * 9999: torch.tensor([float("nan")])}),
        hub.UnsafeWeightsError,
        r"evil..n..x1b",
    ),
    "an endless type": (raw({"a": tensor(0, 4, "X" * 99_999)}, bytes(4)), hub.UnsafeWeightsError, "has the type"),
    "strange offsets": (raw({"a": tensor(0, 4) | {"data_offsets": "x"}}, bytes(4)), hub.UnsafeWeightsError, "refused"),
    "endless offsets": (
        raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%s]}}' % (b"9" * 4000), bytes(4)),
        hub.WeightsIntegrityError,
        "cut short or damaged",
    ),
    "a key twice": (
        raw(b'{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), bytes(4)),
        hub.UnsafeWeightsError,
        "'a' stands twice",
    ),
    "too many tensors": (
        raw({f"{i:x}": {} for i in range(20_001)}),
        hub.UnsafeWeightsError,
        "20001 tensors, 20000 are allowed",
    ),
    "8-bit integers": (raw({"a": tensor(0, 4, "U8", [4])}, bytes(4)), hub.UnsafeWeightsError, "type 'U8'; allowed"),
    "a type that is none": (raw({"a": tensor(0, 4, "eval")}, bytes(4)), hub.UnsafeWeightsError, "type 'eval'"),
    "no object": (raw(b'{"a":[1,2]}'), hub.UnsafeWeightsError, "type 'None'"),
    "no JSON": (raw(b"{" + b"\xff" * 20), hub.UnsafeWeightsError, "refused"),
    "deep JSON": (raw(b'{"a":' + b"[" * 100_000), hub.UnsafeWeightsError, "refused"),
    "numbers in the notes": (raw({"__metadata__": {"a": 1}}), hub.UnsafeWeightsError, "other things than text"),
    "NaN": (
        save({"w": torch.tensor([1.0, float("nan")])}),
        hub.UnsafeWeightsError,
        "'w' has values that are not finite",
    ),
    "infinity": (save({"w": torch.tensor([1.0, -float("inf")])}), hub.UnsafeWeightsError, "not finite"),
    "infinity, float16": (save({"w": torch.tensor([1e9]).half()}), hub.UnsafeWeightsError, "not finite"),
    "NaN, bfloat16": (save({"w": torch.tensor([float("nan")]).bfloat16()}), hub.UnsafeWeightsError, "not finite"),
}


@pytest.mark.parametrize(("data", "error", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_file_is_refused(path, data, error, message):
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        hub.verify_weights(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_sizes_are_compared_before_anything_is_read(path):
    """1 TiB that begins as a valid small file; and a limit."""
    path.write_bytes(raw({"a": tensor(0, 4)}, bytes(4)))
    os.truncate(path, 2**40)
    with pytest.raises(hub.WeightsIntegrityError, match=r"1099511627776 bytes, its header speaks of \d\d\)"):
        hub.verify_weights(path)
    with pytest.raises(hub.UnsafeWeightsError, match="1099511627776 bytes are refused, 100 are allowed"):
        read_bytes(path, place="here", limit=100)


def test_files_that_cannot_be_read(tmp_path, path):
    with pytest.raises(hub.WeightsNotFoundError, match=r"a.safetensors: there is no such file"):
        hub.verify_weights(path)
    with pytest.raises(hub.WeightsNotFoundError, match="that is a folder"):
        hub.verify_weights(tmp_path)
    os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(hub.WeightsNotFoundError, match="there is no such file"):
        hub.verify_weights(path)


MEMORY = """
import re, sys
from pathlib import Path
from ddrsapc import hub

def resident(which):
    return 1024 * int(re.search(rf"{which}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

path, small = map(Path, sys.argv[1:])
hub.verify_weights(small)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = resident("VmRSS")
try:
    hub.verify_weights(path)
except hub.WeightsError as error:
    print(type(error).__name__, file=sys.stderr)
print(resident("VmHWM") - before)
"""


def many_tensors(count, size):
    """A valid file of so many tensors of so many bytes."""
    return raw({f"{i:x}": tensor(i * size, (i + 1) * size) for i in range(count)}, bytes(count * size))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("valid", None),
        ("many tensors", None),
        ("not finite", "UnsafeWeightsError"),
        ("cut short", "WeightsIntegrityError"),
        ("sparse", "UnsafeWeightsError"),
        ("long tail", "WeightsIntegrityError"),
    ],
)
def test_memory_is_bounded_to_twice_the_file(tmp_path, path, kind, error):
    """And 2 KiB a tensor; 3 MiB are for the process itself."""
    tensors = {f"{i}": torch.zeros(4 * 2**20) for i in range(4)}
    if kind == "not finite":
        tensors["3"][-1] = float("nan")
    data = many_tensors(13_000, 5_160) if kind == "many tensors" else serialize(tensors)
    path.write_bytes(data[:-1000] if kind == "cut short" else data)
    if kind == "sparse":  # 1 TiB that begins as a file with a header of 8 EiB
        path.write_bytes(struct.pack("<Q", 2**63 - 1) + b"{")
        os.truncate(path, 2**40)
    if kind == "long tail":
        os.truncate(path, 2**40)
    small = tmp_path / "small.safetensors"
    small.write_bytes(serialize({"a": torch.ones(3)}))
    command = [sys.executable, "-c", MEMORY, str(path), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count = 13_000 if kind == "many tensors" else 4
    assert int(done.stdout) < 2 * path.stat().st_size + 2048 * count + 3 * 2**20
    assert done.stderr.strip() == (error or "")
