"""Calcium scores as a DICOM structured report (TID 1500) that refers to the mask, by highdicom."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import highdicom
import pydicom
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

import ddrsapc
from ddrsapc.ct import CTError
from ddrsapc.ct.errors import reason_of
from ddrsapc.ct.seg import ARTERIES
from ddrsapc.files import write_atomically
from ddrsapc.scoring import CalciumScore, VesselScore

__all__ = ["write_structured_report"]

CORONARY_ARTERY = Code("41801008", "SCT", "Coronary artery")


def write_structured_report(path: Path, segmentation: Path, score: CalciumScore) -> None:
    """Write scores by vessel and in all as Comprehensive 3D SR, by the template TID 1500 "Measurement Report".

    Each vessel's group of measurements refers to its segment of the mask, and has the Agatston score (DCM 112058 by the
    method DCM 112055), the volume in mm3 (DCM 122660) and, where there is a mass factor, the mass in mg (DCM 122661).
    The patient's group has the totals, with the Agatston score as SCT 450360000.

    Args:
        path: `.dcm`; it is whole or not there.
        segmentation: the scored mask as DICOM SEG, as `ddrsapc.ct.write_mask` wrote it; patient and study are its.
        score: of that mask; its vessels are the mask's segments, in order.

    Raises:
        CTError: if a vessel has no code, or no report can be made for this mask.
    """
    unknown = [name for name in score.vessels if name not in ARTERIES]
    if unknown:
        raise CTError(f"{path}: no code for the vessel {unknown[0]!r}; known are {', '.join(ARTERIES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source's own odd values, which are copied
            mask = pydicom.dcmread(segmentation)
            report = Comprehensive3DSR(
                evidence=[mask],
                content=_content(mask, score)[0],
                series_instance_uid=highdicom.UID(),
                series_number=101,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="ddrsapc",
                is_complete=True,
                series_description="Coronary calcium scores, for research only",
            )
            data = io.BytesIO()
            report.save_as(data)
    except Exception as error:  # highdicom raises many kinds for masks it cannot copy from
        raise CTError(f"{segmentation}: no structured report can refer to it ({reason_of(error)})") from error
    write_atomically(path, data.getvalue())


def _content(mask: pydicom.Dataset, score: CalciumScore) -> MeasurementReport:
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=highdicom.UID(), name="ddrsapc", manufacturer_name="ddrsapc", model_name=ddrsapc.__version__
        ),
    )
    settings = score.settings
    algorithm = AlgorithmIdentification(
        name="ddrsapc",
        version=ddrsapc.__version__,
        parameters=[
            f"threshold {settings.threshold_hu:g} HU",
            f"least area {settings.min_area_mm2:g} mm2, least size {settings.min_pixels} pixels",
            f"slice increment {settings.increment_mm:g} mm",
        ],
        family=codes.DCM.ArtificialIntelligence,
    )
    series = SourceSeriesForSegmentation(mask.ReferencedSeriesSequence[0].SeriesInstanceUID)
    groups: list[VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations] = [
        VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=highdicom.UID(), identifier=f"{name} calcium"),
            referenced_segment=ReferencedSegment(mask.SOPClassUID, mask.SOPInstanceUID, number, source_series=series),
            finding_type=codes.SCT.VascularCalcification,
            finding_sites=[FindingSite(ARTERIES[name])],
            algorithm_id=algorithm,
            measurements=_measurements(vessel, codes.DCM.CalciumScore),
        )
        for number, (name, vessel) in enumerate(score.vessels.items(), 1)
    ]
    groups.append(
        MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=highdicom.UID(), identifier="all coronary calcium"),
            finding_type=codes.SCT.VascularCalcification,
            finding_sites=[FindingSite(CORONARY_ARTERY)],
            algorithm_id=algorithm,
            measurements=_measurements(score, codes.SCT.CoronaryArteryCalciumScore),
        )
    )
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.CardiacCT,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _measurements(score: VesselScore | CalciumScore, agatston: Code) -> list[Measurement]:
    found = [
        Measurement(agatston, score.agatston, unit=codes.UCUM.NoUnits, method=codes.DCM.AgatstonScoringMethod),
        Measurement(
            codes.DCM.CalciumVolume,
            score.volume_mm3,
            unit=codes.UCUM.CubicMillimeter,
            method=codes.DCM.VolumeScoringMethod,
        ),
    ]
    if score.mass_mg is not None:
        unit = Code("mg", "UCUM", "mg")
        found.append(Measurement(codes.DCM.CalciumMass, score.mass_mg, unit=unit, method=codes.DCM.MassScoringMethod))
    return found
