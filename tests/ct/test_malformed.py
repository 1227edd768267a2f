"""Damaged files: an error in one line that names the file, or read as before; nothing else, and in no time."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless

from ddrsapc.ct import CTError, Volume, read_volume
from tests.ct.malformed import SERIES, Source, damaged
from tests.ct.malformed_images import MHA, MHD, NHDR, NIFTI, NRRD, PNG
from tests.ct.series_files import phantom, write_series
from tests.ct.test_images import write

SEED = int(os.environ.get("DDRSAPC_TEST_SEED", "0"))
REAL_SERIES, REAL_IMAGE = ("qrm_cci_canon", "totalseg_dicom_j2k"), "qrm_cci_canon/qrm_insert_crop"
IMAGES = {"scan.nii.gz": NIFTI, "scan.mha": MHA, "scan.mhd": MHD, "scan.nrrd": NRRD, "scan.nhdr": NHDR}


def invented(folder: Path) -> list[Source]:
    """A scan of 5 slices, 32 x 36, in every format; a picture of one."""
    sources = []
    for syntax in (None, RLELossless):
        write_series(folder / f"series{syntax}", phantom(5, 32, 36), syntax=syntax)
        sources.append(Source(folder / f"series{syntax}", "", SERIES))
    for name, damages in IMAGES.items():
        (folder / name).mkdir()
        write(folder / name / name, phantom(5, 32, 36))
        sources.append(Source(folder / name, name, damages))
    (folder / "picture").mkdir()
    Image.fromarray((phantom(1, 32, 36)[0] + 1024).astype(np.uint16)).save(folder / "picture" / "scan.png")
    return [*sources, Source(folder / "picture", "scan.png", PNG)]


def real(test_data: Path, folder: Path) -> list[Source]:
    """Four neighbouring slices of each real series, and a part of a NIfTI file."""
    sources = []
    for name in REAL_SERIES:
        files = (test_data / name).glob("*.dcm")
        (folder / name).mkdir()
        for file in sorted(files, key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])[:4]:
            shutil.copyfile(file, folder / name / file.name)
        sources.append(Source(folder / name, "", SERIES))
    image = read_volume(test_data / f"{REAL_IMAGE}.nii.gz")
    (folder / "nifti").mkdir()
    write(folder / "nifti" / "scan.nii.gz", image.hu[8:16], spacing=image.spacing[::-1])
    return [*sources, Source(folder / "nifti", "scan.nii.gz", NIFTI)]


def outcome(path: Path) -> Volume | CTError:
    """What reading leads to; other errors than ours are raised."""
    try:
        return read_volume(path)
    except CTError as error:
        return error


def check(sources: list[Source], folder: Path, *, rounds: int) -> None:
    """Damage copies of the sources and read them."""
    sound = {source: read_volume(source.path) for source in sources}
    for source, damage, path in damaged(sources, folder, rounds=rounds, seed=SEED):
        start = time.monotonic()
        result = outcome(path)
        where = f"{damage.name} in {path}: {result}"
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


def test_invented_files(tmp_path):
    (tmp_path / "sound").mkdir()
    check(invented(tmp_path / "sound"), tmp_path, rounds=3)


@pytest.mark.slow
def test_real_files(test_data, tmp_path):
    (tmp_path / "sound").mkdir()
    check(real(test_data, tmp_path / "sound"), tmp_path, rounds=4)
