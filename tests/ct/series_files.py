"""Invented CT series, written as DICOM files."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
# rows and columns turned about two axes, and the sagittal, coronal and flipped ones
_A, _B = np.deg2rad(20), np.deg2rad(35)
OBLIQUE = (
    *(np.cos(_A), np.sin(_A), 0.0),
    *(-np.sin(_A) * np.cos(_B), np.cos(_A) * np.cos(_B), np.sin(_B)),
)
ORIENTATIONS = {
    "axial": AXIAL,
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet_first": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": OBLIQUE,
}


def phantom(depth=5, height=24, width=32, seed=0):
    """HU (Z, H, W): noise, and dense spots from which no axis can be exchanged for another."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 400, (depth, height, width)).astype(np.int16)
    hu[depth // 4, 3:6, 20:24] = 800
    return hu


def uid_of(*parts):
    """A UID that is the same in every run."""
    return generate_uid(entropy_srcs=["ddrsapc tests", *map(str, parts)])


def write_series(  # one argument per thing that the tests vary
    folder: Path,
    hu: np.ndarray,
    *,
    spacing=(2.0, 0.5, 0.75),
    origin=(-100.0, 20.0, 300.0),
    orientation=AXIAL,
    slopes=(1.0,),
    intercepts=(-1024.0,),
    series="one",
    description="CaScore 3.0",
    syntax=None,
    edit=None,
) -> list[Path]:
    """Write `hu` (Z, H, W) as one file a slice; the names say nothing of the order.

    Args:
        folder: made if need be.
        hu: what the stored values mean.
        spacing: (z, y, x) in mm.
        origin: of the first voxel, mm.
        orientation: ImageOrientationPatient.
        slopes: of slice z the z-th, repeating.
        intercepts: likewise.
        series: what the UIDs are made of.
        description: SeriesDescription.
        syntax: a transfer syntax to compress by.
        edit: `edit(dataset, z)` before a file is written; returning False leaves it out.

    Returns:
        The files in the order of the slices; None is not among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.reshape(np.array(orientation, float), (2, 3))
    normal = np.cross(row, column)
    files = []
    for z, values in enumerate(hu):
        slope, intercept = slopes[z % len(slopes)], intercepts[z % len(intercepts)]
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid_of(series, z)
        path = folder / f"{(z * 7919 + 13) % 1009:04d}.dcm"
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID = uid_of("study")
        dataset.SeriesInstanceUID = uid_of(series)
        dataset.FrameOfReferenceUID = uid_of("frame")
        dataset.SeriesDescription = description
        dataset.Modality = "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.Manufacturer = "Invented"
        dataset.PatientName = dataset.PatientID = dataset.PatientBirthDate = dataset.PatientSex = ""
        dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.AccessionNumber = ""
        dataset.ReferringPhysicianName = ""
        dataset.SeriesNumber, dataset.InstanceNumber = 2, z + 1
        dataset.KVP = 120
        dataset.SliceThickness = spacing[0] * 1.5  # so that nobody takes it for the distance
        dataset.PixelSpacing = list(spacing[1:])
        dataset.ImageOrientationPatient = [float(f"{cosine:.8f}") for cosine in (*row, *column)]
        dataset.ImagePositionPatient = [
            float(f"{mm:.8g}") for mm in np.array(origin, float) + normal * (spacing[0] * z)
        ]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = values.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        stored = np.rint((values - intercept) / slope).astype("<i2")
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        if edit is not None and edit(dataset, z) is False:
            continue
        if syntax is not None:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=False)
        files.append(path)
    return files


def change(path, **values):
    """Set (or, by None, delete) attributes of a DICOM file."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
