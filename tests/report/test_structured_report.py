import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from ddrsapc.ct import CTError, read_volume, write_mask
from ddrsapc.report.structured_report import write_structured_report
from ddrsapc.scoring import score_volume
from tests.ct.series_files import write_series


@pytest.fixture
def scan(tmp_path):
    """A series with calcium in the LAD and the RCA, its labels, and the SEG of these."""
    hu = np.full((4, 40, 40), 40, np.int16)
    hu[1:3, 5:9, 5:9], hu[2, 20:24, 20:23] = 420, 250
    write_series(tmp_path / "scan", hu, spacing=(3.0, 0.5, 0.5))
    volume = read_volume(tmp_path / "scan")
    labels = np.zeros(hu.shape, np.uint8)
    labels[1:3, 5:9, 5:9], labels[2, 20:24, 20:23] = 1, 3
    write_mask(labels, volume, tmp_path / "mask.dcm")
    return volume, labels, tmp_path / "mask.dcm"


def values_of(group):
    """Value, unit and method of each measurement, by its code."""
    found = {}
    for item in group.get_measurements():
        found[item.name.value] = (item.value, item.unit.value, item.method.value)
    return found


@pytest.mark.parametrize("mass_factor", [None, 0.8])
def test_the_scores_are_read_back(scan, tmp_path, mass_factor):
    volume, labels, mask = scan
    score = score_volume(volume.hu, labels, volume.spacing, mass_factor=mass_factor)
    write_structured_report(tmp_path / "report.dcm", mask, score)
    report = highdicom.sr.srread(tmp_path / "report.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.finding_sites[0].value.value for group in groups] == ["59438005", "57396003", "13647002"]
    assert all(group.finding_type == codes.SCT.VascularCalcification for group in groups)
    expected = [(vessel, "112058") for vessel in score.vessels.values()] + [(score, "450360000")]
    (total,) = report.content.get_image_measurement_groups()
    assert total.finding_sites[0].value.value == "41801008"
    for group, (part, agatston) in zip([*groups, total], expected, strict=True):
        values = values_of(group)
        assert values.pop(agatston) == (pytest.approx(part.agatston), "1", "112055")
        assert values.pop("122660") == (pytest.approx(part.volume_mm3), "mm3", "112056")
        if mass_factor is not None:
            assert values.pop("122661") == (pytest.approx(part.mass_mg), "mg", "112057")
        assert not values
    assert score.vessels["LAD"].agatston > score.vessels["RCA"].agatston > score.vessels["LCX"].agatston == 0


def test_it_belongs_to_the_scan_and_its_mask(scan, tmp_path):
    volume, labels, mask = scan
    write_structured_report(tmp_path / "report.dcm", mask, score_volume(volume.hu, labels, volume.spacing))
    report = highdicom.sr.srread(tmp_path / "report.dcm")
    source, segmentation = pydicom.dcmread(volume.meta.files[0]), pydicom.dcmread(mask)
    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert (report.StudyInstanceUID, report.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert report.SeriesInstanceUID not in {source.SeriesInstanceUID, segmentation.SeriesInstanceUID}
    for number, group in enumerate(report.content.get_volumetric_roi_measurement_groups(), 1):
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert segment.referenced_segment_numbers == [number]
        assert source.SeriesInstanceUID in {item.get("UID") for item in group[0].ContentSequence}


def test_what_cannot_be_reported(scan, tmp_path):
    volume, labels, mask = scan
    score = score_volume(volume.hu, labels, volume.spacing, vessels={1: "class 1", 3: "class 3"})
    with pytest.raises(CTError, match="no code for the vessel 'class 1'"):
        write_structured_report(tmp_path / "report.dcm", mask, score)
    score = score_volume(volume.hu, labels, volume.spacing)
    with pytest.raises(CTError, match=r"scan.*no structured report can refer to it"):
        write_structured_report(tmp_path / "report.dcm", volume.meta.files[0], score)
    (tmp_path / "cut.dcm").write_bytes(mask.read_bytes()[:500])
    with pytest.raises(CTError, match="cut.dcm: no structured report can refer to it"):
        write_structured_report(tmp_path / "report.dcm", tmp_path / "cut.dcm", score)
    assert not (tmp_path / "report.dcm").exists()
