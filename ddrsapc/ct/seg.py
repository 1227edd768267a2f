"""DICOM SEG by highdicom: a scan's labels as coded segments, written and read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
    segread,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag

from ddrsapc.ct.errors import CTError, reason_of
from ddrsapc.ct.series import read_dataset, reading
from ddrsapc.ct.volume import Volume
from ddrsapc.files import write_atomically

__all__ = ["load_seg", "save_seg"]

ARTERIES = {
    "LM": Code("3227004", "SCT", "Left coronary artery main stem"),
    "LAD": Code("59438005", "SCT", "Anterior descending branch of left coronary artery"),
    "LCX": Code("57396003", "SCT", "Circumflex branch of left coronary artery"),
    "RCA": Code("13647002", "SCT", "Right coronary artery"),
}
LABELS = {"LM": 1, "LAD": 1, "LCX": 2, "RCA": 3}
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)


def save_seg(path: Path, labels: NDArray[np.uint8], volume: Volume, vessels: Sequence[str]) -> None:
    """Write labels (Z, H, W) as a SEG that refers to the slices of the scan.

    Raises:
        CTError: if the scan is not from DICOM or anonymised too far, a vessel is unknown, or writing fails.
    """
    if volume.meta.format != "dicom":
        raise CTError(f"{path}: a DICOM SEG refers to DICOM slices, this scan has none; write .nii.gz, .nrrd or .mha")
    unknown = [name for name in vessels if name not in ARTERIES]
    if unknown or labels.max() > len(vessels) or not vessels:
        raise CTError(
            f"{path}: labels up to {labels.max()} with the vessels {', '.join(vessels) or '(none)'}; expected one "
            f"of {', '.join(ARTERIES)} for each label; or write .nii.gz, .nrrd or .mha"
        )
    sources = [_source(file) for file in volume.meta.files]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source's own odd values, which are copied
            segmentation = _segmentation(sources, labels, vessels)
            data = io.BytesIO()
            segmentation.save_as(data)
    except Exception as error:  # highdicom raises many kinds for sources it cannot copy from
        raise CTError(
            f"{volume.meta.files[0]}: no DICOM SEG can refer to it ({reason_of(error)}); write .nii.gz, .nrrd or .mha"
        ) from error
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise CTError(f"{path}: cannot be written ({reason_of(error)})") from error


def load_seg(path: Path, volume: Volume) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Labels (Z', H, W) of a SEG and their affine (4, 4) of (x, y, z, 1).

    A segment of a coded coronary artery has its label: LM and LAD 1, LCX 2, RCA 3; without codes, its number.

    Where the frames name the scan's slices as their sources, these (Z, H, W); else from first frame to last by place.

    Raises:
        CTError: if it is none, damaged, or its segments overlap.
    """
    with reading(path):
        modality = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
        if modality != "SEG":
            raise CTError(f"{path}: is no mask but of modality {modality or '(none)'}; expected a DICOM SEG")
        segmentation = segread(path)
        label_of = _labels_of_segments(path, segmentation)
        labels = _by_source(segmentation, volume)
        if labels is not None:
            return label_of[labels], volume.affine
        found = segmentation.get_volume(combine_segments=True, dtype=np.uint8)
    return label_of[found.array], np.asarray(found.affine)[:, [2, 1, 0, 3]]  # highdicom's is of (z, y, x, 1)


def _labels_of_segments(path: Path, segmentation: Segmentation) -> NDArray[np.uint8]:
    """The label of each segment number (256,): by its coded artery, where segments have codes."""
    labels = np.arange(256, dtype=np.uint8)
    regions = {number: _artery(segmentation, number) for number in segmentation.segment_numbers}
    if not any(regions.values()):
        return labels
    for number, artery in regions.items():
        if artery is None:
            raise CTError(f"{path}: segment {number} names none of {', '.join(ARTERIES)}, others do; leave it out")
        labels[number] = LABELS[artery]
    return labels


def _artery(segmentation: Segmentation, number: int) -> str | None:
    """The coronary artery that a segment's anatomic region is coded as; None: another one, or none."""
    regions = segmentation.get_segment_description(number).anatomic_regions or []
    codes_found = {(region.value, region.scheme_designator) for region in regions}
    return next((name for name, code in ARTERIES.items() if (code.value, code.scheme_designator) in codes_found), None)


def _by_source(segmentation: Segmentation, volume: Volume) -> NDArray[np.uint8] | None:
    """Segment numbers (Z, H, W) by the slices that frames name as their sources; None if these are not the scan's."""
    size = (segmentation.Rows, segmentation.Columns)
    if volume.meta.format != "dicom" or size != volume.hu.shape[1:]:
        return None
    tags: list[BaseTag | int] = [Tag("SOPInstanceUID")]
    slices = [read_dataset(file, tags=tags).get("SOPInstanceUID") for file in volume.meta.files]
    if not {instance for _, _, instance in segmentation.get_source_image_uids()} <= set(slices):
        return None
    try:
        return segmentation.get_pixels_by_source_instance(
            slices, combine_segments=True, assert_missing_frames_are_empty=True, dtype=np.uint8
        )
    except RuntimeError:  # not every frame names one slice
        return None


def _source(file: Path) -> pydicom.Dataset:
    """A slice's header, with what SEG copies from it."""
    dataset = read_dataset(file)
    missing = [keyword for keyword in NEEDED if not dataset.get(keyword)]
    if missing:
        raise CTError(
            f"{file}: has no {missing[0]}, so that no DICOM SEG can refer to it; write .nii.gz, .nrrd or .mha"
        )
    if not dataset.get("SpecificCharacterSet"):
        dataset.pop("SpecificCharacterSet", None)  # empty means the default, but is refused
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _segmentation(
    sources: Sequence[pydicom.Dataset], labels: NDArray[np.uint8], vessels: Sequence[str]
) -> Segmentation:
    try:
        own_version = version("ddrsapc")
    except PackageNotFoundError:  # a source tree that is not installed
        own_version = "unknown"
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="ddrsapc", version=own_version, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=f"{vessel} calcium",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.VascularCalcification,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=[ARTERIES[vessel]],
        )
        for number, vessel in enumerate(vessels, 1)
    ]
    return Segmentation(
        source_images=sources,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        omit_empty_frames=bool(labels.any()),  # one frame at least is needed
        series_instance_uid=highdicom.UID(),
        series_number=100,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ddrsapc",
        manufacturer_model_name="ddrsapc",
        software_versions=own_version,
        device_serial_number="none",
        series_description="Coronary calcium, for research only",
    )
