"""Damaged files: an error in one line that names the file, or read as before; nothing else, and in no time."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from ddrsapc.ct import CTError, Volume, read_volume
from tests.ct.malformed import SERIES, damages
from tests.ct.series_files import phantom, write_series
from tests.ct.test_images import write

COUNT, SEED = 27 * 8, int(os.environ.get("DDRSAPC_TEST_SEED", "0"))
REAL_SERIES, REAL_IMAGE = ("qrm_cci_canon", "totalseg_dicom_j2k"), "qrm_cci_canon/qrm_insert_crop"


def invented(folder: Path) -> tuple[list[Path], Path]:
    """Folders with a series each, and a NIfTI file."""
    for syntax in (None, RLELossless):
        write_series(folder / f"series{syntax}", phantom(4), syntax=syntax)
    return sorted(folder.iterdir()), write(folder / "scan.nii.gz", phantom(8, 24, 32))


def real(test_data: Path, folder: Path) -> tuple[list[Path], Path]:
    """Four neighbouring slices of each real series, and a part of a NIfTI file."""
    for name in REAL_SERIES:
        files = (test_data / name).glob("*.dcm")
        (folder / name).mkdir()
        for file in sorted(files, key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])[:4]:
            shutil.copyfile(file, folder / name / file.name)
    series, image = sorted(folder.iterdir()), read_volume(test_data / f"{REAL_IMAGE}.nii.gz")
    return series, write(folder / "scan.nii.gz", image.hu[8:16], spacing=image.spacing[::-1])


def outcome(path: Path) -> Volume | CTError:
    """What reading leads to; other errors than ours are raised."""
    try:
        return read_volume(path)
    except CTError as error:
        return error


def check(sources: tuple[list[Path], Path], folder: Path, count: int) -> None:
    """Damage copies of the sources `count` times and read them."""
    series, image = sources
    sound = {source: read_volume(source) for source in (*series, image)}
    for number, damage, rng in damages(count, SEED):
        source = series[number % len(series)] if damage in SERIES else image
        path = folder / f"{number}{''.join(source.suffixes) if source == image else ''}"
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
        damage.apply(path, rng)
        start = time.monotonic()
        result = outcome(path)
        where = f"{number} {damage.name} in {source.name}: {result}"
        if isinstance(result, CTError):
            assert damage.result != "same", where
            assert str(result).startswith(str(path)), where
            assert str(result).isprintable(), where  # one line, then
            assert len(str(result)) < 1000
        else:
            assert damage.result != "error", where
            assert result.hu.dtype == np.int16
            assert result.hu.min() >= -1024
            if damage.result == "same":
                assert np.array_equal(result.hu, sound[source].hu)
                assert np.array_equal(result.affine, sound[source].affine)
        assert time.monotonic() - start < 10
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_invented_files(tmp_path):
    (tmp_path / "sound").mkdir()
    check(invented(tmp_path / "sound"), tmp_path, COUNT)


@pytest.mark.slow
def test_real_files(test_data, tmp_path):
    (tmp_path / "sound").mkdir()
    check(real(test_data, tmp_path / "sound"), tmp_path, COUNT)
