"""A simulated slice as a DICOM dataset."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

import ddrsapc
from ddrsapc.phantom.case import PhantomCase

__all__ = ["slice_dataset"]

_INTERCEPT = -1024


def slice_dataset(case: PhantomCase, z: int) -> FileDataset:
    """CT Image Storage of a slice; identifiers are those of the image, the same in every run, dates empty."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(case, "slice", z)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName = data.PatientID = case.name
    data.PatientBirthDate = data.PatientSex = ""
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(case, "study"), _uid(case, "series")
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = _uid(case, "frame"), ""
    data.StudyDate = data.StudyTime = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.Modality, data.PatientPosition, data.BodyPartExamined = "CT", "HFS", "HEART"
    data.Manufacturer, data.ManufacturerModelName = "ddrsapc", "simulated phantom"
    data.SoftwareVersions = ddrsapc.__version__
    data.SeriesDescription, data.ContentQualification = "simulated calcium score", "RESEARCH"
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = 1, 1, z + 1
    data.KVP = 120
    if case.draw.has_contrast:
        data.ContrastBolusAgent = "simulated"
    data.SliceThickness = data.SpacingBetweenSlices = case.spacing[0]
    data.PixelSpacing = [case.spacing[1], case.spacing[2]]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [round(float(mm), 6) for mm in (case.affine @ (0, 0, z, 1))[:3]]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = case.hu.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, _INTERCEPT, "HU"
    data.WindowCenter, data.WindowWidth = 50, 400
    data.PixelData = (case.hu[z].astype(np.int32) - _INTERCEPT).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    return data


def _uid(case: PhantomCase, *parts: object) -> UID:
    return generate_uid(entropy_srcs=["ddrsapc phantom", case.name, case.digest, *map(str, parts)])
