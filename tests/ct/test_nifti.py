"""The values of NIfTI files against nibabel's, and what ITK would get wrong."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from ddrsapc.ct import CTError, read_mask, read_volume
from tests.ct.series_files import phantom
from tests.ct.test_images import set_header, write

KINDS = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_values(tmp_path, kind, order):
    hu = np.abs(phantom()) if kind.startswith("u") else phantom()
    if kind.endswith("1"):
        hu //= 16
    image = nib.Nifti1Image(hu.T.astype(order + kind), np.eye(4), nib.Nifti1Header(endianness=order))
    image.header.set_data_dtype(kind)
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header.get_data_dtype() == np.dtype(order + kind)
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").hu, hu)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1000.25), (2.0, 0.0), (1.0, -1024.0), (-1.0, 0.0)])
def test_scaled_values(tmp_path, slope, intercept):
    image = nib.Nifti1Image(phantom().T, np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    set_header(tmp_path / "a.nii", 112, [slope, intercept], "<f4")
    theirs = nib.load(tmp_path / "a.nii").get_fdata().T
    assert np.array_equal(read_volume(tmp_path / "a.nii").hu, np.maximum(np.floor(theirs + 1e-3), -1024))


def test_a_slope_that_is_not_set_does_not_count(tmp_path):
    path = write(tmp_path / "a.nii", phantom())
    for unset in (0.0, np.nan):
        set_header(path, 112, [unset, 0], "<f4")
        assert np.array_equal(read_volume(path).hu, phantom())
    set_header(path, 112, [0, -1024], "<f4")
    with pytest.raises(CTError, match="a.nii: has an intercept of -1024 and a slope of 0"):
        read_volume(path)


def test_values_are_not_those_of_a_namesake(tmp_path):
    """ITK takes the header of the one and the values of the other."""
    other = np.zeros_like(phantom())
    write(tmp_path / "a.nii", other)
    path = write(tmp_path / "a.nii.gz", phantom())
    assert np.array_equal(read_volume(path).hu, phantom())
    write(tmp_path / "mask.nii", other)
    mask = (phantom() > 0).astype(np.uint8)
    assert np.array_equal(read_mask(write(tmp_path / "mask.nii.gz", mask), read_volume(path)), mask)


def test_no_more_is_unpacked_than_the_header_announces(tmp_path):
    """What follows is broken, far behind the values: who unpacks it finds that out. A bomb would fill the memory."""
    path = write(tmp_path / "a.nii", phantom())
    tail = np.random.default_rng(0).bytes(4 << 20)
    packed = gzip.compress(path.read_bytes() + tail, compresslevel=1)
    (tmp_path / "a.nii.gz").write_bytes(packed[: -1 << 20])
    with pytest.raises(EOFError):
        gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    path.unlink()
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").hu, phantom())


def test_the_checksum_is_checked(tmp_path):
    path = write(tmp_path / "a.nii.gz", phantom(40, 64, 64))  # so long that ITK does not see it in the header
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(CTError, match=r"a.nii.gz: is damaged or cut short \(CRC check failed"):
        read_volume(path)


@pytest.mark.parametrize(
    ("offset", "value", "dtype", "message"),
    [
        (70, 32, "<i2", "2 value(s) each"),  # complex
        (70, 1, "<i2", "cannot be read"),  # bits
        (108, 1e9, "<f4", "at byte 1e+09"),
        (108, np.nan, "<f4", "at byte nan"),
    ],
)
def test_headers_of_other_values(tmp_path, offset, value, dtype, message):
    path = write(tmp_path / "a.nii", phantom())
    set_header(path, offset, [value], dtype)
    with pytest.raises(CTError, match=r"a\.nii: ") as caught:
        read_volume(path)
    assert message in str(caught.value)
