"""NIfTI, MetaImage, NRRD and pictures, against nibabel and SimpleITK."""

import gzip
import os
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from ddrsapc.ct import CTError, read_volume
from tests.ct.series_files import ORIENTATIONS, phantom

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
FORMATS = {".nii": "nifti", ".nii.gz": "nifti", ".mha": "metaimage", ".mhd": "metaimage", ".nrrd": "nrrd"}


def image_of(values, *, spacing=(0.75, 0.5, 2.0), origin=(-100.0, 20.0, 300.0), orientation="axial"):
    """An ITK image; spacing and origin in its order x, y, z."""
    row, column = np.reshape(np.array(ORIENTATIONS[orientation], float), (2, 3))
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
    return image


def write(path, values, **geometry):
    sitk.WriteImage(image_of(values, **geometry), str(path))
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", ["axial", "feet_first", "oblique"])
def test_images_lie_where_itk_sees_them(tmp_path, suffix, orientation):
    hu = phantom()
    path = write(tmp_path / f"scan{suffix}", hu, orientation=orientation)
    volume = read_volume(path)
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, hu)
    assert volume.spacing == pytest.approx((2.0, 0.5, 0.75))
    assert np.diff(volume.slice_positions) == pytest.approx(2.0)
    assert (volume.meta.format, volume.meta.files) == (FORMATS[suffix], (path,))
    image = sitk.ReadImage(str(path))
    for point in ((0, 0, 0), (31, 23, 4), (3, 2, 1)):
        ours = (volume.affine @ (*point, 1))[:3]
        np.testing.assert_allclose(ours, image.TransformIndexToPhysicalPoint(point), atol=1e-9)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, 1, -1)])
def test_nibabels_affines(tmp_path, signs):
    """Written by nibabel, right- and left-handed: the same voxels at the same places."""
    hu = phantom()
    affine = LPS_RAS @ np.block([[np.diag(signs) * [0.75, 0.5, 2.0], np.array([[5], [6], [7]])], [np.zeros(3), 1]])
    nib.save(nib.Nifti1Image(hu.T, affine), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    assert np.array_equal(volume.hu, hu)
    np.testing.assert_allclose(LPS_RAS @ volume.affine, affine, atol=1e-6)
    assert (np.diff(volume.slice_positions) > 0).all()


@pytest.mark.parametrize("name", ["pulmonary_report_ct_cropped", "aorta_report_ct_cropped", "qrm_insert_crop"])
def test_real_nifti(test_data, name):
    (path,) = test_data.glob(f"*/{name}.nii.gz")
    volume = read_volume(path)
    theirs = nib.load(path)
    np.testing.assert_allclose(LPS_RAS @ volume.affine, theirs.affine, atol=1e-4)
    values = np.asanyarray(theirs.dataobj).T
    assert np.array_equal(volume.hu, np.maximum(np.rint(values), -1024))
    assert np.array_equal(volume.hu, np.maximum(np.rint(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))), -1024))


def test_floats_are_rounded_and_padding_is_air(tmp_path):
    values = phantom().astype(np.float32) + 0.4
    values[0, 0, 0] = -3024
    volume = read_volume(write(tmp_path / "scan.nii.gz", values))
    expected = phantom()
    expected[0, 0, 0] = -1024
    assert np.array_equal(volume.hu, expected)


def test_slope_in_the_header(tmp_path):
    image = nib.Nifti1Image(phantom().T + 1024, np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nib.save(image, tmp_path / "scan.nii")
    assert np.array_equal(read_volume(tmp_path / "scan.nii").hu, phantom())


def test_a_fourth_axis_of_one(tmp_path):
    nib.save(nib.Nifti1Image(phantom().T[..., None], np.eye(4)), tmp_path / "scan.nii")
    assert np.array_equal(read_volume(tmp_path / "scan.nii").hu, phantom())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6, -1e6])
def test_values_that_are_no_hu(tmp_path, value):
    values = phantom().astype(np.float32)
    values[2, 1, 1] = value
    path = write(tmp_path / "scan.nii.gz", values)
    with pytest.raises(CTError, match=r"scan.nii.gz: (slice 2 )?has values"):
        read_volume(path)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_the_last_value_of_an_odd_number_is_checked(tmp_path, dtype):
    """And what follows it is not: 45 values, then others that are not finite."""
    hu = phantom(3, 3, 5)
    nib.save(nib.Nifti1Image(hu.T.astype(dtype), np.eye(4), nib.Nifti1Header(endianness=dtype[0])), tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    tail = np.full(9, np.nan, dtype).tobytes()
    (tmp_path / "a.nii").write_bytes(data + tail)
    assert np.array_equal(read_volume(tmp_path / "a.nii").hu, hu)
    (tmp_path / "a.nii").write_bytes(data[: -int(dtype[2])] + tail)
    with pytest.raises(CTError, match="has values that are not finite"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_cut_short(tmp_path, suffix, share):
    """ITK itself reads a NIfTI file that is cut short, and fills up."""
    path = write(tmp_path / f"scan{suffix}", phantom())
    data = path.with_suffix(".raw") if suffix == ".mhd" else path
    data.write_bytes(data.read_bytes()[: int(data.stat().st_size * share)])
    with pytest.raises(CTError, match=rf"scan{suffix}: ") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_nifti_that_is_cut_short_before_packing(tmp_path):
    path = write(tmp_path / "scan.nii", phantom())
    packed = tmp_path / "packed.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()[:-100]))
    with pytest.raises(CTError, match="is cut short, 7932 of 8032 bytes"):
        read_volume(packed)


def test_images_that_are_no_scans(tmp_path):
    path = tmp_path / "scan.nii.gz"
    for values in (phantom()[0], np.stack([phantom()] * 2)):
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=False), str(path))
        with pytest.raises(CTError, match="expected one 3D image of single values"):
            read_volume(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([phantom()] * 3, -1), isVector=True), str(path))
    with pytest.raises(CTError, match=r"with 3 value\(s\) each"):
        read_volume(path)
    with pytest.raises(CTError, match=r"mm \(z, y, x\) apart"):
        read_volume(write(path, phantom(), spacing=(0.5, 0.5, 500.0)))
    path.write_text("text")
    with pytest.raises(CTError, match="scan.nii.gz: cannot be read"):
        read_volume(path)


def set_header(path, offset, values, dtype):
    data = bytearray(path.read_bytes())
    part = np.array(values, dtype).tobytes()
    data[offset : offset + len(part)] = part
    path.write_bytes(bytes(data))


def test_nifti_headers_that_claim_too_much(tmp_path):
    path = write(tmp_path / "scan.nii", phantom())
    set_header(path, 42, [30000, 30000, 30000], "<i2")  # dim
    with pytest.raises(CTError, match="claims to have 30000 x 30000 x 30000 voxels"):
        read_volume(path)


def test_other_headers_named_nifti(tmp_path):
    path = write(tmp_path / "scan.nii", phantom())
    set_header(path, 344, [0], "<i4")  # Analyze 7.5, which has no orientation
    with pytest.raises(CTError, match="is no NIfTI-1 file"):
        read_volume(path)
    nib.save(nib.Nifti2Image(phantom().T, np.eye(4)), path)
    with pytest.raises(CTError, match="scan.nii: "):
        read_volume(path)


@pytest.mark.parametrize("distance", [0.0, -1.0, np.nan, 1e9])
def test_nifti_without_spacing(tmp_path, distance):
    path = write(tmp_path / "scan.nii", phantom())
    set_header(path, 80, [distance], "<f4")  # pixdim[1]
    set_header(path, 252, [0, 0], "<i2")  # no qform and no sform that it could be taken from
    with pytest.raises(CTError, match=r"scan.nii: "):
        read_volume(path)


def test_nifti_that_contradicts_itself(tmp_path):
    image = nib.Nifti1Image(phantom().T, np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_qform(np.diag([1.0, 1.0, 2.0, 1.0]), code=1)
    nib.save(image, tmp_path / "scan.nii")
    with pytest.raises(CTError, match="its sform contradicts its qform or pixdim"):
        read_volume(tmp_path / "scan.nii")


def test_pictures(tmp_path):
    hu = phantom()[2]
    path = tmp_path / "slice.png"
    Image.fromarray((hu + 1024).astype(np.uint16)).save(path)
    volume = read_volume(path)
    assert np.array_equal(volume.hu, hu[None])
    assert volume.spacing is None
    assert np.array_equal(volume.affine, np.eye(4))
    volume = read_volume(path, spacing=(3.0, 0.5, 0.75))
    assert volume.spacing == (3.0, 0.5, 0.75)
    assert np.array_equal(volume.affine, np.diag([0.75, 0.5, 3.0, 1.0]))
    with pytest.raises(CTError, match=r"mm \(z, y, x\) apart"):
        read_volume(path, spacing=(0.0, 0.5, 0.5))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_of_8_bits_need_a_window(tmp_path, suffix):
    path = tmp_path / f"slice{suffix}"
    Image.fromarray(np.full((32, 32), 51, np.uint8)).save(path)
    with pytest.raises(CTError, match="8-bit grey values, not HU"):
        read_volume(path)
    assert (read_volume(path, window=(-160, 840)).hu == 40).all()
    with pytest.raises(CTError, match="expected a window"):
        read_volume(path, window=(5, 5))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CTError, match=rf"slice{suffix}: "):
        read_volume(path, window=(-160, 840))


def test_colour_pictures_are_refused(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "slice.jpeg")
    with pytest.raises(CTError, match="is a colour picture"):
        read_volume(tmp_path / "slice.jpeg")
    Image.fromarray(np.full((32, 32), 60000, np.uint16)).save(tmp_path / "slice.png")
    with pytest.raises(CTError, match="values up to 58976 HU"):
        read_volume(tmp_path / "slice.png")


def test_fractions_are_cut_so_that_thresholds_hold(tmp_path):
    """129.6 HU are not 130; what float32 makes of 130 is."""
    values = np.full((2, 4, 4), 129.6, np.float32)
    values[1] = np.float32(1300) * np.float32(0.1) - np.float32(1e-5)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nii"))
    hu = read_volume(tmp_path / "a.nii").hu
    assert np.unique(hu[0]).tolist() == [129]
    assert np.unique(hu[1]).tolist() == [130]


def test_sheared_axes_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
    image.SetDirection((1, 0.3, 0, 0, 0.954, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(CTError, match="axes are not at right angles"):
        read_volume(tmp_path / "a.mha")


def test_a_nifti_that_does_not_say_where_it_lies_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(CTError, match="does not say where it lies"):
        read_volume(tmp_path / "a.nii")


def test_an_sform_of_other_pixels_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((512, 512, 2), np.int16), np.diag([0.5, 0.5, 3, 1]))
    image.set_sform(np.diag([0.501, 0.501, 3, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(CTError, match="sform contradicts its qform"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_name_that_is_no_text_is_refused_before_itk_sees_it(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"scan\xff.nii.gz")
    with open(path, "wb") as file:
        file.write(b"anything")
    with pytest.raises(CTError, match="the name is not in UTF-8; rename it"):
        read_volume(os.fsdecode(path))
