import io

import numpy as np
import pytest
from PIL import Image

from ddrsapc.data import READERS, DataError, Readers
from ddrsapc.data.readers import read, read_png_image


@pytest.fixture
def hu():
    return np.arange(-1024, 1276, dtype=np.int16).reshape(46, 50)


def test_npy_and_npz(hu, tmp_path):
    np.save(tmp_path / "a.npy", hu)
    np.savez_compressed(tmp_path / "a.npz", anything=hu)
    for name in ("a.npy", "a.npz"):
        for readers in (READERS.images, READERS.labels):
            assert np.array_equal(read(tmp_path / name, readers), hu)


def test_png_with_16_bits_is_hu_plus_1024(hu, tmp_path):
    Image.fromarray((hu + 1024).astype(np.uint16)).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", READERS.images), hu)


def test_png_with_8_bits_needs_its_window(tmp_path):
    Image.fromarray(np.array([[0, 255], [51, 102]], dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: has 8-bit grey values, not HU; give the HU window"):
        read(tmp_path / "a.png", READERS.images)
    np.testing.assert_allclose(
        read_png_image(tmp_path / "a.png", window=(-160, 240)), [[-160, 240], [-80, 0]], atol=1e-4
    )


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_png_labels_are_values_or_palette_indices(mode, tmp_path):
    labels = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    image = Image.fromarray(labels * 255 if mode == "1" else labels).convert("1" if mode == "1" else "L")
    if mode == "P":
        image = Image.fromarray(labels, mode="L")
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", READERS.labels), labels)


def damaged(folder):
    """(file name, message)."""
    np.save(folder / "short.npy", np.zeros((64, 64)))
    (folder / "short.npy").write_bytes((folder / "short.npy").read_bytes()[:-100])
    (folder / "text.npy").write_text("no array")
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "pickle.npy", np.array([{"a": 1}]))
    np.savez(folder / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (folder / "text.npz").write_text("no archive")
    Image.new("RGB", (40, 40)).save(folder / "colour.png")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    (folder / "short.png").write_bytes(buffer.getvalue()[:2000])
    (folder / "a.xyz").write_bytes(b"")
    return [
        ("short.npy", "cannot be read"),
        ("text.npy", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("pickle.npy", "cannot be read"),
        ("two.npz", "holds the arrays a, b; expected one"),
        ("text.npz", "cannot be read"),
        ("colour.png", "is a colour picture"),
        ("short.png", "cannot be read"),
        ("missing.npy", "cannot be read"),
        ("a.xyz", r"no reader for this format; known are \.npy, \.npz, \.png"),
    ]


def test_what_cannot_be_read_is_named_on_one_line(tmp_path):
    for name, message in damaged(tmp_path):
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path / name, READERS.labels)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_other_formats_plug_in_and_the_longest_extension_wins(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "a.hu.csv").write_text("5,6\n")

    def plain(path):
        return np.loadtxt(path, delimiter=",")

    def shifted(path):
        return np.loadtxt(path, delimiter=",") - 1000

    readers = Readers(images={**READERS.images, ".csv": plain, ".hu.csv": shifted})
    assert read(tmp_path / "a.csv", readers.images).tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path / "a.hu.csv", readers.images).tolist() == [-995, -994]


@pytest.mark.parametrize(("times", "is_read"), [(3, True), (99, False)])
def test_threads_that_disturb_each_other_read_again(tmp_path, times, is_read):
    """In Python 3.11 two threads that parse headers at once may get a SystemError, whatever is in the files."""
    calls = []

    def disturbed(path):
        calls.append(path)
        if len(calls) <= times:
            raise SystemError("AST constructor recursion depth mismatch")
        return np.zeros(3)

    if is_read:
        assert len(read(tmp_path / "a.npy", {".npy": disturbed})) == 3
    else:
        with pytest.raises(DataError, match="a.npy: cannot be read"):
            read(tmp_path / "a.npy", {".npy": disturbed})
