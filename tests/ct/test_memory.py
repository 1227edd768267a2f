"""Bytes that reading and writing take, by voxel of the scan: twice as many is one copy of it."""

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from ddrsapc.ct import read_mask, read_volume, write_mask
from tests.ct.series_files import write_series
from tests.ct.test_images import write

SHAPE = (64, 128, 96)
VOXELS = 64 * 128 * 96
SPARE = 1 << 19  # bytes of a plane, a header and the like


def blocks():
    """HU (Z, H, W) that are quickly packed."""
    hu = np.full(SHAPE, 40, np.int16)
    hu[10:50, 20:60, 30:70] = 300
    return hu


@pytest.fixture
def scan(tmp_path):
    return read_volume(write(tmp_path / "scan.nii", blocks()))


def bytes_per_voxel(call):
    """Python's and numpy's at most, beside what was there before; ITK's are its own."""
    call()  # modules
    tracemalloc.start()
    try:
        call()
        return (tracemalloc.get_traced_memory()[1] - SPARE) / VOXELS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_reading_takes_the_scan(tmp_path, suffix, dtype):
    path = write(tmp_path / f"scan{suffix}", blocks().astype(dtype))
    assert bytes_per_voxel(lambda: read_volume(path)) < 2.2


def test_reading_dicom_takes_the_scan(tmp_path):
    write_series(tmp_path / "series", blocks().reshape(32, 128, 192))
    assert bytes_per_voxel(lambda: read_volume(tmp_path / "series")) < 3.5  # with headers, and floats of a slice


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_reading_a_mask_takes_the_mask(tmp_path, scan, suffix, dtype):
    path = write(tmp_path / f"mask{suffix}", (scan.hu > 130).astype(dtype))
    assert bytes_per_voxel(lambda: read_mask(path, scan)) < 1.2


@pytest.mark.parametrize(("suffix", "bound"), [(".nii", 1.2), (".nii.gz", 0.5), (".mha", 0.5), (".nrrd", 0.5)])
def test_writing_a_mask_takes_its_file(tmp_path, scan, suffix, bound):
    """ITK has a copy of its own."""
    labels = np.zeros(scan.hu.shape, np.uint8)
    labels[:, 10:20] = 1
    assert bytes_per_voxel(lambda: write_mask(labels, scan, tmp_path / f"mask{suffix}")) < bound
    assert sitk.ReadImage(str(tmp_path / f"mask{suffix}")).GetPixelID() == sitk.sitkUInt8
