"""DICOM series, invented and real, against SimpleITK's own series reader."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless, RLELossless

from ddrsapc.ct import CTError, list_series, read_volume
from tests.ct.series_files import ORIENTATIONS, change, phantom, uid_of, write_series


def read_by_itk(files):
    """The same files, in the order of their positions, by SimpleITK."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return reader.Execute()


def assert_same_place(volume, image):
    """Voxel (x, y, z) lies where ITK says it does."""
    depth, height, width = volume.hu.shape
    assert image.GetSize() == (width, height, depth)
    for x, y, z in ((0, 0, 0), (width - 1, 0, 0), (0, height - 1, 0), (width - 1, height - 1, depth - 1), (3, 2, 1)):
        ours = volume.affine @ (x, y, z, 1)
        np.testing.assert_allclose(ours[:3], image.TransformIndexToPhysicalPoint((x, y, z)), atol=1e-3)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_series_lies_where_itk_sees_it(tmp_path, orientation):
    hu = phantom()
    files = write_series(tmp_path, hu, orientation=ORIENTATIONS[orientation])
    (tmp_path / "README").write_text("not a slice")
    (tmp_path / "more").mkdir()
    volume = read_volume(tmp_path)
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, hu)
    assert volume.spacing == pytest.approx((2.0, 0.5, 0.75), abs=1e-5)
    assert np.diff(volume.slice_positions) == pytest.approx(2.0, abs=1e-4)
    assert volume.meta.files == tuple(files)
    image = read_by_itk(files)
    assert_same_place(volume, image)
    assert np.array_equal(volume.hu, sitk.GetArrayFromImage(image))


def test_header_values(tmp_path):
    def edit(dataset, z):
        dataset.CalciumScoringMassFactorPatient = 0.75
        dataset.CalciumScoringMassFactorDevice = [0.5, 0.625, 0.75]

    write_series(tmp_path, phantom(), edit=edit)
    meta = read_volume(tmp_path).meta
    assert (meta.format, meta.modality, meta.kvp, meta.manufacturer) == ("dicom", "CT", 120.0, "Invented")
    assert (meta.slice_thickness, meta.series_description) == (3.0, "CaScore 3.0")
    assert (meta.series_uid, meta.mass_factor) == (uid_of("one"), 0.75)
    assert meta.mass_factor_device == (0.5, 0.625, 0.75)
    assert meta.contrast_agent == ""


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *((agent, agent) for agent in ("ISOVUE 370", "APPLIED", "Omnipaque", "oral", "IV contrast", "NONIONIC")),
        *((text, "") for text in ("None", "NO", "w/o", "", None, "No contrast.", "without contrast", "NON-CONTRAST")),
        *((text, "") for text in ("no IV contrast", "N/A", "-", "unenhanced")),
    ],
)
def test_contrast_agent(tmp_path, written, read):
    write_series(tmp_path, phantom(), edit=lambda dataset, z: setattr(dataset, "ContrastBolusAgent", written))
    assert read_volume(tmp_path).meta.contrast_agent == read


def test_slope_and_intercept_are_each_slices_own(tmp_path):
    hu = phantom()
    files = write_series(tmp_path, hu, slopes=(1.0, 0.5, 2.0), intercepts=(-1024.0, 0.0, -1000.0))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.hu[[0, 1, 3, 4]], hu[[0, 1, 3, 4]])
    assert np.abs(volume.hu[2] - hu[2]).max() <= 1  # stored in steps of 2
    for z, file in enumerate(files):
        assert np.array_equal(volume.hu[z], sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0])


def test_fractions_of_a_slope_are_cut(tmp_path):
    write_series(tmp_path, phantom(), slopes=(0.3,), intercepts=(-1000.25,))
    stored = pydicom.dcmread(read_volume(tmp_path).meta.files[0]).pixel_array
    expected = np.maximum(np.floor(stored * 0.3 - 1000.25 + 1e-3), -1024)
    assert np.array_equal(read_volume(tmp_path).hu[0], expected)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_compressed(tmp_path, syntax):
    hu = phantom(height=64, width=96)
    files = write_series(tmp_path, hu, syntax=syntax)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read_volume(tmp_path).hu, hu)


@pytest.mark.parametrize("unsigned", [False, True])
def test_lossless_jpeg(tmp_path, unsigned):
    """Written by ITK, as pydicom has no encoder."""
    hu = (phantom(1) + 1024).astype(np.uint16) if unsigned else phantom(1)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    image = sitk.GetImageFromArray(hu)
    image.SetMetaData("0008|0060", "CT")
    for key, value in {"0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0018|0050": "3"}.items():
        image.SetMetaData(key, value)
    writer.SetFileName(str(tmp_path / "slice.dcm"))
    writer.Execute(image)
    assert "JPEG Lossless" in pydicom.dcmread(tmp_path / "slice.dcm").file_meta.TransferSyntaxUID.name
    assert np.array_equal(read_volume(tmp_path / "slice.dcm").hu, hu)


def with_pixels(syntax, data, **values):
    """Put compressed pixels into a slice."""

    def edit(dataset, z):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([data])
        dataset["PixelData"].is_undefined_length = True

    return edit


def test_jpeg_of_8_bits(tmp_path):
    """Lossy: as Pillow decodes it, whichever decoder is there; within the 1 that decoders differ by."""
    grey = np.clip(phantom(1)[0] // 4 + 100, 0, 255).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, "JPEG")
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    write_series(tmp_path, phantom(1), edit=with_pixels(JPEGBaseline8Bit, jpeg.getvalue(), **bits))
    decoded = np.asarray(Image.open(jpeg)).astype(np.int16)
    assert np.abs(read_volume(tmp_path).hu[0] + 1024 - decoded).max() <= 1


def test_jpeg_of_12_bits_says_what_decodes_it(tmp_path):
    write_series(tmp_path, phantom(1), edit=with_pixels(JPEGExtended12Bit, bytes(99)))
    with pytest.raises(CTError, match="compressed by JPEG Extended .*pip install pylibjpeg-libjpeg"):
        read_volume(tmp_path)


@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (63536, None), (-2000, -1500), (1500, None)])
def test_padding_is_air(tmp_path, value, limit):
    hu = phantom()

    def edit(dataset, z):
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(hu.shape[1:]).copy()
        stored[0, 0] = np.array(value).astype(np.int16)
        stored[0, 1] = stored[0, 0] if limit is None else -1800
        stored[1, 0] = 1024 - 3024
        dataset.PixelData = stored.tobytes()
        dataset.add_new("PixelPaddingValue", "US" if value > 32767 else "SS", value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)

    write_series(tmp_path, hu, edit=edit)
    expected = hu.copy()
    expected[:, 0, :2] = expected[:, 1, 0] = -1024
    assert np.array_equal(read_volume(tmp_path).hu, expected)


def test_unused_bits_are_not_read(tmp_path):
    """Twelve bits stored, something else (an overlay of old) above them."""
    hu = phantom()

    def edit(dataset, z):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        stored = np.frombuffer(dataset.PixelData, "<u2") | 0x1000
        dataset.PixelData = stored.astype("<u2").tobytes()

    write_series(tmp_path, hu, edit=edit)
    assert np.array_equal(read_volume(tmp_path).hu, hu)


def test_several_series_are_listed_and_chosen(tmp_path):
    a, b = phantom(5), phantom(3, seed=1)
    write_series(tmp_path / "a", a, series="one", description="CaScore 3.0")
    write_series(tmp_path / "b", b, series="two", description="Lung")
    write_series(tmp_path / "c", b, series="three", edit=lambda dataset, z: setattr(dataset, "Modality", "MR"))
    folder = tmp_path / "all"
    folder.mkdir()
    for part in "abc":
        for file in (tmp_path / part).iterdir():
            shutil.copy(file, folder / f"{part}{file.name}")
    (folder / "DICOMDIR").write_text("index")
    found = list_series(folder)
    assert (found[0].description, found[0].modality, len(found[0].files)) == ("CaScore 3.0", "CT", 5)
    assert {info.modality for info in found} == {"CT", "MR"}
    with pytest.raises(CTError) as caught:
        read_volume(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder}: holds 2 CT series; choose one by series=... or --series")
    assert f"{uid_of('one')}: CT, 5 slices, CaScore 3.0" in said
    assert f"{uid_of('two')}: CT, 3 slices, Lung" in said
    for wanted in (uid_of("two"), uid_of("two")[-8:], "lung"):
        assert np.array_equal(read_volume(folder, series=wanted).hu, b)
    with pytest.raises(CTError, match="no CT series is called 'three'"):
        read_volume(folder, series="three")
    shutil.copytree(tmp_path / "a", folder, dirs_exist_ok=True)
    for file in write_series(tmp_path / "d", b, series="four", description="Lung"):
        shutil.copy(file, folder / f"d{file.name}")
    with pytest.raises(CTError, match="2 CT series are called 'Lung'; give the UID"):
        read_volume(folder, series="Lung")


def test_one_file_is_one_slice(tmp_path):
    hu = phantom()
    files = write_series(tmp_path, hu)
    nameless = tmp_path / "IM0001"
    files[2].rename(nameless)
    volume = read_volume(nameless)
    assert np.array_equal(volume.hu, hu[2:3])
    assert volume.spacing == (3.0, 0.5, 0.75)  # no neighbour: the thickness
    change(nameless, SpacingBetweenSlices=2.0)
    assert read_volume(nameless).spacing == (2.0, 0.5, 0.75)
    change(nameless, SpacingBetweenSlices=None, SliceThickness=None)
    with pytest.raises(CTError, match="one slice without SliceThickness"):
        read_volume(nameless)


def test_slightly_uneven_positions_are_kept(tmp_path):
    def edit(dataset, z):
        x, y, mm = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(mm + (0.04 if z == 2 else 0), 4)]

    write_series(tmp_path, phantom(), edit=edit)
    volume = read_volume(tmp_path)
    assert volume.spacing[0] == 2.0
    assert volume.slice_positions == pytest.approx([300, 302, 304.04, 306, 308])


def test_uids_may_be_removed(tmp_path):
    """As anonymisers do."""
    hu = phantom()

    def edit(dataset, z):
        dataset.SOPClassUID = dataset.SOPInstanceUID = dataset.SeriesInstanceUID = dataset.StudyInstanceUID = ""

    write_series(tmp_path, hu, edit=edit)
    assert np.array_equal(read_volume(tmp_path).hu, hu)
    assert str(list_series(tmp_path)[0]) == "(no UID): CT, 5 slices, CaScore 3.0"


def shift(axis, mm, where=None):
    def edit(dataset, z):
        position = list(dataset.ImagePositionPatient)
        position[axis] += mm * z if where is None else mm * (z == where)
        dataset.ImagePositionPatient = position

    return edit


def put(**values):
    def edit(dataset, z):
        if z == 2:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return edit


def drop(keyword):
    return lambda dataset, z: delattr(dataset, keyword) if z == 2 else None


BAD = {
    "duplicate": (shift(2, 2.0, where=1), "is at the same position as"),
    "gap": (lambda dataset, z: z != 3, "slices are missing between 304 and 308 mm"),
    "tilt": (shift(1, 0.1), "tilted by 2.9 degrees"),
    "beside": (shift(0, 5.0, where=2), "lies 5.0 mm beside the first slice"),
    "size": (put(Rows=12, Columns=64), "differs in size"),
    "spacing": (put(PixelSpacing=[0.6, 0.75]), "differs in PixelSpacing"),
    "orientation": (put(ImageOrientationPatient=list(ORIENTATIONS["oblique"])), "differs in ImageOrientationPatient"),
    "kvp": (put(KVP=80), "differs in KVP"),
    "modality": (put(Modality="MR"), "is no CT image but of modality MR"),
    "class": (put(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "is no CT image"),
    "localizer": (put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
    "frames": (put(NumberOfFrames=2), "several frames"),
    "enhanced": (put(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "several frames"),
    "colour": (put(SamplesPerPixel=3), "is a colour picture"),
    "unit": (put(RescaleType="MGML"), "values in MGML, not HU"),
    "slope": (put(RescaleSlope=0), "RescaleSlope is 0"),
    "huge slope": (put(RescaleSlope=1e300), "which are no HU"),
    "axes": (put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not two unit vectors"),
    "zero axes": (put(ImageOrientationPatient=[0] * 6), "not two unit vectors"),
    "position": (put(ImagePositionPatient=[1, 2]), "expected 3 finite number"),
    "pixels": (put(PixelData=b"\0\0"), "cannot be read as DICOM"),
    "no pixels": (drop("PixelData"), "cannot be read as DICOM"),
    **{
        f"no {keyword}": (drop(keyword), f"has no {keyword}")
        for keyword in (
            *("Rows", "Columns", "PixelSpacing", "ImagePositionPatient"),
            *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "Modality"),
        )
    },
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path, what):
    edit, message = BAD[what]
    files = write_series(tmp_path, phantom(), edit=edit)
    with pytest.raises(CTError, match=message) as caught:
        read_volume(tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    assert any(said.startswith(f"{file}: ") for file in files)


@pytest.mark.parametrize("spacing", [(2.0, 0.5, 1000.0), (2.0, 1e-9, 0.5), (2.0, 0.0, 0.5), (300.0, 0.5, 0.5)])
def test_absurd_spacing(tmp_path, spacing):
    write_series(tmp_path, phantom(), spacing=spacing)
    with pytest.raises(CTError, match=r"mm \(z, y, x\) apart; expected three numbers from 0.01 to 50 mm"):
        read_volume(tmp_path)


def test_folders_without_slices(tmp_path):
    with pytest.raises(CTError, match="no such file or folder"):
        read_volume(tmp_path / "absent")
    (tmp_path / "README").write_text("nothing here")
    with pytest.raises(CTError, match=r"holds no DICOM files \(but 1 others\)"):
        read_volume(tmp_path)
    with pytest.raises(CTError, match="README: is of no format that can be read"):
        read_volume(tmp_path / "README")
    (tmp_path / "notes.dcm").write_text("text")
    with pytest.raises(CTError, match="notes.dcm: is no DICOM file, though named like one"):
        read_volume(tmp_path)
    write_series(tmp_path / "mr", phantom(2), edit=lambda dataset, z: setattr(dataset, "Modality", "MR"))
    with pytest.raises(CTError, match="is no CT image but of modality MR"):
        read_volume(tmp_path / "mr")


@pytest.mark.filterwarnings("ignore:The value length")  # of writing
def test_many_series_are_not_all_listed(tmp_path):
    for number in range(25):
        for file in write_series(tmp_path / "one", phantom(1), series=number, description="a  b" + "\1" * 999):
            file.rename(tmp_path / f"{number}.dcm")
    with pytest.raises(CTError, match=r"holds 25 CT series; .*a b\?\?.*; and 5 more\)") as caught:
        read_volume(tmp_path)
    assert str(caught.value).isprintable()


def test_a_header_cut_short_is_no_other_series(tmp_path):
    """What is left of it could pass for a series of its own, and the last slice would be missed."""
    files = write_series(tmp_path, phantom())
    files[-1].write_bytes(files[-1].read_bytes()[:420])
    with pytest.raises(CTError, match=f"{files[-1].name}: has no Modality"):
        read_volume(tmp_path)


def test_options_that_do_not_fit(tmp_path):
    files = write_series(tmp_path, phantom())
    with pytest.raises(CTError, match="has a spacing of its own"):
        read_volume(tmp_path, spacing=(1, 1, 1))
    with pytest.raises(CTError, match="has HU of its own"):
        read_volume(tmp_path, window=(0, 1))
    with pytest.raises(CTError, match="leave out series"):
        read_volume(files[0], series="x")


def test_without_the_extra():
    """The package imports; using it says what to install; `import ddrsapc` does not import it."""
    code = (
        "import sys; sys.modules['pydicom'] = sys.modules['SimpleITK'] = None; import ddrsapc; "
        "assert not any(name.startswith('ddrsapc.ct') for name in sys.modules); import ddrsapc.ct\n"
        "for call in (ddrsapc.ct.read_volume, ddrsapc.ct.list_series):\n"
        "    try: call('.')\n"
        "    except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['pydicom is missing; install it with: pip install "ddrsapc[ct]"'] * 2


# 12 and 5 slices with a gap between them
REAL = {
    "qrm_cci_canon": ([12, 5], 3.0, 3.0),
    "dcmqi_ct3slice": ([3], 1.0, 1.25),
    "totalseg_dicom_j2k": ([8], 2.0, 3.0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_series(test_data, tmp_path, name):
    counts, distance, thickness = REAL[name]
    files = sorted((test_data / name).glob("*.dcm"), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    if len(counts) > 1:
        with pytest.raises(CTError, match=r"30440815.dcm: the next slice is 12 mm away, others 3 mm"):
            read_volume(test_data / name)
    for part, count in enumerate(counts):
        own = files[sum(counts[:part]) :][:count]
        folder = tmp_path / str(part)
        folder.mkdir()
        for file in own:
            shutil.copyfile(file, folder / file.name)
        volume = read_volume(folder)
        assert volume.spacing[0] == distance
        assert volume.meta.slice_thickness == thickness
        image = read_by_itk(own)
        assert_same_place(volume, image)
        assert np.array_equal(volume.hu, np.maximum(sitk.GetArrayFromImage(image), -1024))


@pytest.mark.parametrize("content", [b"", b"cut short"])
@pytest.mark.parametrize("which", [0, 2, -1])
def test_a_damaged_slice_without_a_suffix_is_not_passed_over(tmp_path, content, which):
    """As on the discs of hospitals: IM0001, IM0002, ...; beside them there may be a README."""
    for i, file in enumerate(write_series(tmp_path, phantom())):
        file.rename(tmp_path / f"IM{i:04}")
    (tmp_path / "README").write_text("about this disc")
    assert len(read_volume(tmp_path).hu) == 5
    file = sorted(tmp_path.glob("IM*"))[which]
    file.write_bytes(content)
    with pytest.raises(CTError, match=f"{file.name}: is no DICOM file, though named like the slices"):
        read_volume(tmp_path)


def test_a_tilt_is_refused_once_it_is_half_a_pixel(tmp_path):
    def tilt(shift):
        def edit(dataset, z):
            x, y, place = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, float(y) + shift * z, place]

        return edit

    write_series(tmp_path / "a", phantom(), edit=tilt(0.02))  # 0.08 mm at the last of five
    assert len(read_volume(tmp_path / "a").hu) == 5
    write_series(tmp_path / "b", phantom(depth=30), edit=tilt(0.02))  # 0.6 degrees, 0.58 mm at the last
    with pytest.raises(CTError, match="over half a pixel"):
        read_volume(tmp_path / "b")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("KVP", 0), ("CalciumScoringMassFactorPatient", 0), ("CalciumScoringMassFactorDevice", [1.0])],
)
def test_odd_facts_that_are_not_needed_do_not_stop_a_scan(tmp_path, keyword, value):
    write_series(tmp_path, phantom(), edit=lambda dataset, _: setattr(dataset, keyword, value))
    meta = read_volume(tmp_path).meta
    assert (meta.kvp, meta.mass_factor, meta.mass_factor_device) in ((None, None, None), (120.0, None, None))


def test_a_scout_view_beside_the_series_is_passed_over(tmp_path):
    hu = phantom()
    write_series(tmp_path, hu)

    def scout(dataset, z):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    coronal = ORIENTATIONS["coronal"]
    write_series(
        tmp_path / "of", phantom(depth=9), series="scout", description="Topogram", orientation=coronal, edit=scout
    )
    for file in (tmp_path / "of").iterdir():
        file.rename(tmp_path / f"scout {file.name}")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.hu, hu)
    assert [info.description for info in list_series(tmp_path)] == ["Topogram", "CaScore 3.0"]
    with pytest.raises(CTError, match="is a localizer"):
        read_volume(tmp_path, series="Topogram")
