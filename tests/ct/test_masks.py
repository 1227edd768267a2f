"""Masks: written in the scan's geometry, read back by others and by us, turned where axes are exchanged."""

import os
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from ddrsapc.ct import CTError, read_mask, read_volume, write_mask
from tests.ct.series_files import ORIENTATIONS, phantom, write_series
from tests.ct.test_images import LPS_RAS, write

SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha"]


def labels_of(shape, seed=3):
    labels = np.zeros(shape, np.uint8)
    labels[1:4] = np.random.default_rng(seed).integers(0, 4, (3, *shape[1:]))
    return labels


@pytest.fixture(params=["axial", "feet_first", "oblique"])
def scan(request, tmp_path):
    write_series(tmp_path / "scan", phantom(), orientation=ORIENTATIONS[request.param])
    return read_volume(tmp_path / "scan")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mask_lies_on_its_scan(scan, tmp_path, suffix):
    labels = labels_of(scan.hu.shape)
    path = tmp_path / f"mask{suffix}"
    write_mask(labels, scan, path)
    assert np.array_equal(read_mask(path, scan), labels)
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    for point in ((0, 0, 0), (31, 23, 4)):
        ours = (scan.affine @ (*point, 1))[:3]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(point), ours, atol=1e-4)
    if suffix.startswith(".nii"):
        theirs = nib.load(path)
        assert np.array_equal(np.asanyarray(theirs.dataobj).T, labels)
        np.testing.assert_allclose(theirs.affine, LPS_RAS @ scan.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mask_has_exactly_the_geometry_of_an_image(tmp_path, suffix):
    path = write(tmp_path / f"scan{suffix}", phantom(), spacing=(0.488, 0.488, 3.0), orientation="oblique")
    scan = read_volume(path)
    write_mask(labels_of(scan.hu.shape), scan, tmp_path / f"mask{suffix}")
    one, two = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / f"mask{suffix}"))
    assert two.GetOrigin() == pytest.approx(one.GetOrigin(), rel=1e-7, abs=1e-7)
    assert two.GetSpacing() == pytest.approx(one.GetSpacing(), rel=1e-7)
    assert two.GetDirection() == pytest.approx(one.GetDirection(), abs=1e-7)
    if suffix == ".nii":
        for key in ("srow_x", "srow_y", "srow_z", "quatern_b", "pixdim"):
            np.testing.assert_allclose(
                nib.load(tmp_path / "mask.nii").header[key], nib.load(path).header[key], rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_exchanged_and_flipped_axes_are_turned_back(scan, tmp_path, axes, flips):
    labels = labels_of(scan.hu.shape)
    image = nib.Nifti1Image(labels.T, LPS_RAS @ scan.affine)
    turned = image.as_reoriented(np.stack([axes, flips], axis=1))
    nib.save(turned, tmp_path / "mask.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "mask.nii.gz", scan), labels)


def test_masks_of_other_scans(tmp_path):
    scan = read_volume(write(tmp_path / "scan.nii", phantom()))
    labels = labels_of(scan.hu.shape)
    for values, geometry, message in (
        (labels[:4], {}, r"size \(32, 24, 4\) instead of \(32, 24, 5\)"),
        (labels, {"spacing": (0.75, 0.5, 1.5)}, r"spacing \(0.75, 0.5, 1.5\) instead of \(0.75, 0.5, 2\)"),
        (labels, {"origin": (0.0, 20.0, 300.0)}, r"origin \(0, 20, 300\) instead of \(-100, 20, 300\)"),
        (labels, {"origin": (-100.75, 20.0, 300.0)}, "origin"),
        (labels, {"origin": (-99.9, 20.0, 300.0)}, "origin"),
        (labels, {"orientation": "oblique"}, "direction"),
    ):
        path = write(tmp_path / "mask.nrrd", values, **geometry)
        with pytest.raises(CTError, match=f"mask.nrrd: lies on another scan: {message}") as caught:
            read_mask(path, scan)
        assert "\n" not in str(caught.value)
    for value in (-1, 256, 0.5, np.nan):
        values = labels.astype(np.float32)
        values[0, 0, 0] = value
        with pytest.raises(CTError, match="expected labels, whole numbers from 0 to 255"):
            read_mask(write(tmp_path / "mask.nrrd", values), scan)
    with pytest.raises(CTError, match="no such file"):
        read_mask(tmp_path / "absent.nii", scan)
    (tmp_path / "mask.txt").write_text("text")
    with pytest.raises(CTError, match="mask.txt: cannot be read as DICOM"):
        read_mask(tmp_path / "mask.txt", scan)


def test_labels_that_cannot_be_written(scan, tmp_path):
    labels = labels_of(scan.hu.shape)
    for values, path, message in (
        (labels[:2], "mask.nii", "do not fit a scan of shape"),
        (labels * 1.5, "mask.nii", "expected labels"),
        (labels, "mask.txt", "masks are written as"),
        (labels, "mask.mhd", "masks are written as"),
        (labels, "absent/mask.nii", "cannot be written"),
        (labels, "absent/mask.dcm", "cannot be written"),
        (labels + 1, "mask.dcm", "expected one of LM, LAD, LCX, RCA for each label"),
    ):
        with pytest.raises(CTError, match=message):
            write_mask(values, scan, tmp_path / path)
    with pytest.raises(CTError, match="expected one of LM, LAD"):
        write_mask(labels, scan, tmp_path / "mask.dcm", vessels=("LAD", "aorta", "RCA"))
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".dcm"])
def test_a_failed_write_leaves_the_old_file(scan, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"mask{suffix}"
    write_mask(labels_of(scan.hu.shape), scan, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CTError, match=r"cannot be written \(.*No space left on device"):
        write_mask(labels_of(scan.hu.shape, seed=4), scan, path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "scan"]


def frames_of(path, files):
    """Labels (Z, H, W) of a SEG by pydicom alone: each frame at the slice of its ImagePositionPatient."""
    places = [tuple(pydicom.dcmread(file).ImagePositionPatient) for file in files]
    dataset = pydicom.dcmread(path)
    frames = np.atleast_3d(dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns))
    labels = np.zeros((len(files), *frames.shape[1:]), np.uint8)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(groups.PlanePositionSequence[0].ImagePositionPatient)
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[places.index(place)][frame > 0] = number
    return labels


def test_seg_equals_the_labels_to_pydicom(scan, tmp_path):
    for labels in (labels_of(scan.hu.shape), np.zeros(scan.hu.shape, np.uint8), (scan.hu == 800).astype(np.uint8)):
        write_mask(labels, scan, tmp_path / "mask.dcm")
        assert np.array_equal(frames_of(tmp_path / "mask.dcm", scan.meta.files), labels)
        assert np.array_equal(read_mask(tmp_path / "mask.dcm", scan), labels)


def test_seg_says_what_it_is(scan, tmp_path):
    write_mask(labels_of(scan.hu.shape), scan, tmp_path / "mask.dcm", vessels=("LM", "LCX", "RCA"))
    dataset = pydicom.dcmread(tmp_path / "mask.dcm")
    regions = [segment.AnatomicRegionSequence[0].CodeValue for segment in dataset.SegmentSequence]
    assert regions == ["3227004", "57396003", "13647002"]
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["LM calcium", "LCX calcium", "RCA calcium"]
    assert {segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in dataset.SegmentSequence} == {
        "237897009"
    }
    referred = {
        item.ReferencedSOPInstanceUID for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {pydicom.dcmread(file).SOPInstanceUID for file in scan.meta.files}


def test_rounded_cosines(tmp_path):
    """Of three decimals: not quite at right angles, which ITK does not read from NIfTI."""

    def edit(dataset, z):
        dataset.ImageOrientationPatient = [round(cosine, 3) for cosine in dataset.ImageOrientationPatient]

    write_series(tmp_path / "scan", phantom(), orientation=ORIENTATIONS["oblique"], edit=edit)
    scan = read_volume(tmp_path / "scan")
    labels = labels_of(scan.hu.shape)
    for suffix in (*SUFFIXES, ".dcm"):
        write_mask(labels, scan, tmp_path / f"mask{suffix}")
        assert np.array_equal(read_mask(tmp_path / f"mask{suffix}", scan), labels)


def test_seg_on_slightly_uneven_slices(tmp_path):
    def edit(dataset, z):
        x, y, mm = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(mm + (0.08 if z == 2 else 0), 4)]

    write_series(tmp_path / "scan", phantom(), edit=edit)
    scan = read_volume(tmp_path / "scan")
    labels = labels_of(scan.hu.shape)
    write_mask(labels, scan, tmp_path / "mask.dcm")
    assert np.array_equal(read_mask(tmp_path / "mask.dcm", scan), labels)


def test_seg_by_place(scan, tmp_path):
    """On a scan that is not made of the slices it refers to; an empty slice inside has no frame."""
    labels = labels_of(scan.hu.shape)
    labels[2] = 0
    write_mask(labels, scan, tmp_path / "mask.dcm")
    assert np.array_equal(frames_of(tmp_path / "mask.dcm", scan.meta.files), labels)
    for suffix in (".nii", ".nrrd"):
        write_mask(labels, scan, tmp_path / f"scan{suffix}")
        assert np.array_equal(read_mask(tmp_path / "mask.dcm", read_volume(tmp_path / f"scan{suffix}")), labels)
    hu = np.pad(phantom(), ((0, 0), (4, 0), (0, 0)))  # of the same UIDs, but another size: by place
    origin = (scan.affine @ (0, -4, 0, 1))[:3]
    orientation = (scan.affine[:3, :2] / (0.75, 0.5)).T.ravel()
    write_series(tmp_path / "larger", hu, origin=origin, orientation=orientation)
    placed = read_mask(tmp_path / "mask.dcm", read_volume(tmp_path / "larger"))
    assert np.array_equal(placed[:, 4:], labels)
    assert not placed[:, :4].any()


def test_seg_of_another_scan(scan, tmp_path):
    write_mask(labels_of(scan.hu.shape), scan, tmp_path / "mask.dcm")
    write_series(tmp_path / "other", phantom(), series="two", origin=(0, 0, 0))
    with pytest.raises(CTError, match="mask.dcm: lies on another scan: .*origin"):
        read_mask(tmp_path / "mask.dcm", read_volume(tmp_path / "other"))
    with pytest.raises(CTError, match="is no mask but of modality CT"):
        read_mask(scan.meta.files[0], scan)
    data = (tmp_path / "mask.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[:-50])
    with pytest.raises(CTError, match="cut.dcm: cannot be read as DICOM"):
        read_mask(tmp_path / "cut.dcm", scan)


def test_seg_needs_dicom_with_uids(tmp_path):
    scan = read_volume(write(tmp_path / "scan.nii", phantom()))
    labels = labels_of(scan.hu.shape)
    with pytest.raises(CTError, match="refers to DICOM slices, this scan has none; write .nii.gz"):
        write_mask(labels, scan, tmp_path / "mask.dcm")
    for keyword in ("SOPInstanceUID", "FrameOfReferenceUID"):
        write_series(tmp_path / keyword, phantom(), edit=lambda dataset, z: setattr(dataset, keyword, ""))  # noqa: B023
        with pytest.raises(CTError, match=f"has no {keyword}, so that no DICOM SEG can refer to it"):
            write_mask(labels, read_volume(tmp_path / keyword), tmp_path / "mask.dcm")
    assert not (tmp_path / "mask.dcm").exists()


def test_real_masks(test_data, tmp_path):
    """From DICOM to SEG, from NIfTI to NIfTI; a mask that belongs to another crop is refused."""
    folder = tmp_path / "scan"
    shutil.copytree(test_data / "dcmqi_ct3slice", folder)
    scan = read_volume(folder)
    labels = np.where(scan.hu >= 130, 1 + (np.arange(512) > 255), 0).astype(np.uint8)
    labels[0] = 0
    write_mask(labels, scan, tmp_path / "mask.dcm")
    assert np.array_equal(frames_of(tmp_path / "mask.dcm", scan.meta.files), labels)
    assert np.array_equal(read_mask(tmp_path / "mask.dcm", scan), labels)

    scan = read_volume(test_data / "totalseg_cta" / "aorta_report_ct_cropped.nii.gz")
    aorta = test_data / "totalseg_cta" / "aorta_report_aorta.nii.gz"
    labels = read_mask(aorta, scan)
    assert np.array_equal(labels, np.asanyarray(nib.load(aorta).dataobj).T)
    write_mask(labels, scan, tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(aorta).affine, atol=1e-4)
    with pytest.raises(CTError, match="lies on another scan"):
        read_mask(test_data / "totalseg_cta" / "pulmonary_report_heart.nii.gz", scan)

    scan = read_volume(test_data / "totalseg_dicom_j2k")
    with pytest.raises(CTError, match="has no SOPClassUID, so that no DICOM SEG can refer to it"):
        write_mask(np.zeros_like(scan.hu), scan, tmp_path / "none.dcm")


def test_segments_are_told_by_their_arteries_not_their_numbers(tmp_path):
    """Another program may number them otherwise: the codes say which artery is which."""
    write_series(tmp_path / "series", phantom())
    volume = read_volume(tmp_path / "series")
    labels = np.zeros(volume.hu.shape, np.uint8)
    labels[1, 2:5, 3:6], labels[2, 8:11, 9:12], labels[3, 1:4, 20:23] = 1, 2, 3
    write_mask(labels, volume, tmp_path / "mask.dcm", vessels=("RCA", "LAD", "LCX"))
    expected = np.choose(labels, [0, 3, 1, 2])
    assert np.array_equal(read_mask(tmp_path / "mask.dcm", volume), expected)
