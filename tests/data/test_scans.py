"""CT scans and masks of every format become arrays, once."""

import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from ddrsapc.ct import read_volume, write_mask
from ddrsapc.data import DataError, Readers, SliceDataset, find_scans, load_splits, prepare_scans, scans
from ddrsapc.inference import predict
from tests.ct.series_files import ORIENTATIONS, change, write_series
from tests.ct.test_coca import plist, region
from tests.ct.test_images import write
from tests.training.small import small_network

SHAPE = (3, 34, 40)


def scan_of(seed=0):
    """Air, tissue and a dense block of each class; HU and labels (Z, H, W)."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 15, SHAPE).astype(np.int16)
    hu[:, :3] = -900
    labels = np.zeros(SHAPE, np.uint8)
    for c in (1, 2, 3):
        row, column = rng.integers(4, 28, 2)
        labels[1:, row : row + 5, column : column + 4] = c
    hu[labels > 0] = 150 + 200 * labels[labels > 0].astype(np.int16)
    return hu, labels


def add(folder, name, seed=0, *, suffix=".nii.gz", mask=".nii.gz"):
    """A scan and its mask, as files of these formats; "" is a DICOM series."""
    hu, labels = scan_of(seed)
    path = folder / "images" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix:
        write(path, hu)
    else:
        write_series(path, hu, series=name)
    target = folder / "labels" / f"{name}{mask}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if mask == ".mhd":
        write(target, labels)
    else:
        write_mask(labels, read_volume(path), target)
    return hu, labels


def arrays(item):
    return np.load(item.image), np.load(item.label)


def problems_of(prepared):
    """By the end of the file's path."""
    with pytest.raises(DataError) as caught:
        prepared.raise_for_problems()
    lines = str(caught.value).splitlines()[1:]
    return {line.strip().partition(": ")[0].removeprefix(f"{prepared.folder}/"): line for line in lines}


@pytest.mark.parametrize(
    ("suffix", "mask"),
    [("", ".nii.gz"), ("", ".dcm"), (".nii", ".mha"), (".mhd", ".mhd"), (".nrrd", ".nii"), (".mha", ".nrrd")],
)
def test_formats(tmp_path, suffix, mask):
    hu, labels = add(tmp_path / "data", "p01", suffix=suffix, mask=mask)
    prepared = prepare_scans(tmp_path / "data", tmp_path / "into")
    prepared.raise_for_problems()
    (item,) = prepared.scans
    assert (item.image, item.label) == (tmp_path / "into/images/p01.npy", tmp_path / "into/labels/p01.npy")
    image, label = arrays(item)
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    assert image.flags.c_contiguous
    assert np.array_equal(image, hu)
    assert np.array_equal(label, labels)


@pytest.mark.parametrize("stored", ["LPS", "RPS", "LAS", "RAS", "PLS", "ARS", "ALS"])
def test_slices_are_upright_however_they_are_stored(tmp_path, stored):
    """The mask may be stored otherwise; a network sees the same in training as when it predicts."""
    hu, labels = scan_of()
    for kind, array, axes in (("images", hu, stored), ("labels", labels, "RAS")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        path = write(tmp_path / "data" / kind / "p01.nii.gz", array)
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), axes), str(path))
    (item,) = prepare_scans(tmp_path / "data", tmp_path / "into").scans
    image, label = arrays(item)
    assert np.array_equal(image, hu)
    assert np.array_equal(label, labels)
    network = small_network().eval()
    volume = read_volume(tmp_path / "data/images/p01.nii.gz")
    found = sitk.GetImageFromArray(predict(network, volume, threshold=None))
    found.CopyInformation(sitk.ReadImage(str(tmp_path / "data/images/p01.nii.gz")))
    x = network.input_config.normalize(torch.from_numpy(image))[:, None]
    with torch.inference_mode():
        expected = network(x).argmax(1).numpy()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS")), expected)


@pytest.mark.parametrize("orientation", ["prone", "feet_first"])
def test_dicom_series_are_upright(tmp_path, orientation):
    hu, labels = scan_of()
    write_series(tmp_path / "data/images/p01", hu, orientation=ORIENTATIONS[orientation])
    (tmp_path / "data/labels").mkdir()
    volume = read_volume(tmp_path / "data/images/p01")
    write_mask(np.ascontiguousarray(labels), volume, tmp_path / "data/labels/p01.nii.gz")
    image, label = arrays(prepare_scans(tmp_path / "data", tmp_path / "into").scans[0])
    flip = (1, 2) if orientation == "prone" else 2
    assert np.array_equal(image, np.flip(hu, flip))
    assert np.array_equal(label, np.flip(labels, flip))


def test_coca(tmp_path):
    """As the data set has it: patient/0/<series>/*.dcm and calcium_xml/0.xml."""
    hu, _ = scan_of()
    hu[0, 8:20, 8:20] = 300
    series = tmp_path / "data/images/0/Pro_Gated_CS_3.0_I30f_3_70%"
    files = write_series(series, hu)
    for z, file in enumerate(files):
        file.rename(file.with_name(f"IM-{9 - z:04d}.dcm"))
    (tmp_path / "data/labels").mkdir()
    volume = read_volume(series)
    plist(tmp_path / "data/labels/0.xml", (0, [region(volume, 0)]))
    add(tmp_path / "data", "1/a", mask=".nii.gz")
    prepared = prepare_scans(tmp_path / "data", tmp_path / "into")
    prepared.raise_for_problems()
    item = prepared.scans[0]
    assert item.pair.name == "0/Pro_Gated_CS_3.0_I30f_3_70%"
    _, label = arrays(item)
    assert set(np.unique(label)) == {0, 3}
    assert (label[0, 9:14, 9:14] == 3).all()
    (tmp_path / "data/labels/0.xml").rename(tmp_path / "data/labels/0.plist")
    assert prepare_scans(tmp_path / "data", tmp_path / "into").written == 1


def test_orcascore(tmp_path):
    _, labels = add(tmp_path / "data", "TRV1P1", suffix=".mhd", mask=".mhd")
    labels[labels == 2] = 4
    write(tmp_path / "data/labels/TRV1P1.mhd", labels)
    prepared = prepare_scans(tmp_path / "data", tmp_path / "into")
    with pytest.raises(DataError, match=r"labels/TRV1P1.mhd: has labels 4 outside the 4 classes"):
        load_splits(tmp_path / "data", scans=prepared)
    with pytest.raises(DataError, match="was made with another orcascore; give another folder"):
        prepare_scans(tmp_path / "data", tmp_path / "into", orcascore=True)
    prepared = prepare_scans(tmp_path / "data", tmp_path / "other", orcascore=True)
    assert prepared.written == 1
    _, label = arrays(prepared.scans[0])
    assert np.array_equal(label, np.where(labels == 4, 255, labels))


def test_what_is_wrong_is_listed_with_its_file_and_the_rest_is_done(tmp_path):
    data = tmp_path / "data"
    add(data, "good")
    add(data, "p1/moved")
    write(data / "labels/p1/moved.nii.gz", scan_of()[1], origin=(0.0, 0.0, 0.0))
    add(data, "torn")
    (data / "images/torn.nii.gz").write_bytes((data / "images/torn.nii.gz").read_bytes()[:-200])
    add(data, "no_mask")
    (data / "labels/no_mask.nii.gz").unlink()
    add(data, "no_scan")
    (data / "images/no_scan.nii.gz").unlink()
    add(data, "series", suffix="")
    change(next((data / "images/series").iterdir()), PixelSpacing=None)
    add(data, "two", suffix="")
    for file in write_series(data / "images/other", scan_of()[0], series="another"):
        file.rename(data / "images/two" / f"other{file.name}")
    (data / "images/other").rmdir()
    add(data, "coronal")
    for kind in ("images", "labels"):
        path = str(data / kind / "coronal.nii.gz")
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "LSP"), path)
    add(data, "twice")
    write(data / "images/twice.nrrd", scan_of()[0])
    (data / "labels/bad.xml").write_text("<plist>")
    write_series(data / "images/bad", scan_of()[0])
    (data / "images/loose.dcm").write_bytes(b"")
    (data / "images/.DS_Store").write_bytes(b"")

    prepared = prepare_scans(data, tmp_path / "into")
    found = problems_of(prepared)
    expected = {
        "labels/p1/moved.nii.gz": "lies on another scan: origin (0, 0, 0) instead of (-100, 20, 300)",
        "images/torn.nii.gz": "is damaged or cut short",
        "images/no_mask.nii.gz": "is a scan without a mask labels/no_mask.* (.nii, .nii.gz, ",
        "labels/no_scan.nii.gz": "is a mask without a scan images/no_scan",
        "images/two": "holds 2 CT series; choose one by",
        "images/coronal.nii.gz": "its slices are not axial",
        "images/twice.nrrd": "has the same name as twice.nii.gz",
        "labels/bad.xml": "cannot be read as a plist",
        "images/loose.dcm": "lies directly in images/; give each DICOM series a folder there",
    }
    (series,) = found.keys() - expected.keys()
    assert Path(series).parent == Path("images/series")
    assert "has no PixelSpacing" in found[series]
    for file, message in expected.items():
        assert message in found[file]
    done = [item.pair.name for item in prepared.scans if item.problem is None]
    assert done == ["good", "twice"]
    assert (
        sorted(path.name for path in (tmp_path / "into").rglob("*.npy")) == ["good.npy", "good.npy"] + ["twice.npy"] * 2
    )
    with pytest.raises(DataError) as caught:
        load_splits(data, scans=prepared)
    assert all(message in str(caught.value) for message in expected.values())
    assert str(caught.value).startswith("10 problem(s) in ")
    assert prepare_scans(data, tmp_path / "other", series="another").scans[-1].pair.name == "two"


def test_a_series_is_chosen_by_its_name(tmp_path):
    add(tmp_path / "data", "p1", suffix="")
    add(tmp_path / "data", "p2")  # an image has no series
    for file in write_series(tmp_path / "other", scan_of(1)[0], series="other", description="Lung"):
        file.rename(tmp_path / "data/images/p1" / f"other{file.name}")
    prepared = prepare_scans(tmp_path / "data", tmp_path / "into", series="CaScore 3.0")
    prepared.raise_for_problems()
    assert np.array_equal(arrays(prepared.scans[0])[0], scan_of()[0])


def test_done_scans_are_passed_over(tmp_path):
    data, into = tmp_path / "data", tmp_path / "into"
    for i in range(3):
        add(data, f"p{i}", seed=i)
    assert prepare_scans(data, into).written == 3
    times = {path: path.stat().st_mtime_ns for path in into.rglob("*.npy")}
    assert len(times) == 6
    assert prepare_scans(data, into).written == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    os.utime(data / "labels/p1.nii.gz", (0, 0))
    (into / "images/p2.npy").unlink()
    prepared = prepare_scans(data, into)
    assert prepared.written == 2
    assert (into / "images/p0.npy").stat().st_mtime_ns == times[into / "images/p0.npy"]
    for i, item in enumerate(prepared.scans):
        assert all(map(np.array_equal, arrays(item), scan_of(i)))
    data.rename(tmp_path / "moved")
    assert prepare_scans(tmp_path / "moved", into).written == 0
    for i in range(3):
        add(tmp_path / "other", f"p{i}", seed=9 - i)
    with pytest.raises(DataError, match=r"p0.npy was made with another scan; give another folder"):
        prepare_scans(tmp_path / "other", into)


def test_a_mask_and_a_scaled_image_are_no_scans(tmp_path):
    hu, labels = scan_of()
    add(tmp_path, "mask")
    write(tmp_path / "images/mask.nii.gz", labels)
    add(tmp_path, "scaled")
    write(tmp_path / "images/scaled.nii.gz", (hu - hu.min()) / np.float32(np.ptp(hu)))
    prepared = prepare_scans(tmp_path, tmp_path / "into")
    assert all("as masks and scaled images have; expected HU" in item.problem.message for item in prepared.scans)
    assert not list((tmp_path / "into").rglob("*.npy"))


def test_values_beside_a_header_count(tmp_path):
    add(tmp_path / "data", "p1", suffix=".mhd")
    prepare_scans(tmp_path / "data", tmp_path / "into")
    raw = tmp_path / "data/images/p1.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert prepare_scans(tmp_path / "data", tmp_path / "into").written == 1


def test_stopped_at_any_moment(tmp_path, monkeypatch):
    """Before every change of the file system: what is there is whole, and never half of an older making."""
    data, into = tmp_path / "data", tmp_path / "into"
    (data / "labels").mkdir(parents=True)
    count = [0]

    def stopping(change):
        def changed(*arguments, **how):
            count[0] -= 1
            if not count[0]:
                raise KeyboardInterrupt
            return change(*arguments, **how)

        return changed

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, stopping(getattr(Path, name)))
    stopped = 0
    for moment in range(1, 12):
        add(data, "p1", seed=0)
        prepare_scans(data, into)
        before = [data / kind / "p1.nii.gz" for kind in ("images", "labels")]
        kept = [(path.read_bytes(), path.stat()) for path in before]
        add(data, "p1", seed=1)
        count[0] = moment
        try:
            prepare_scans(data, into)
        except KeyboardInterrupt:
            stopped += 1
        count[0] = 0
        for path, (content, about) in zip(before, kept, strict=True):  # as if nothing had been changed
            path.write_bytes(content)
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        (item,) = prepare_scans(data, into).scans
        assert all(map(np.array_equal, arrays(item), scan_of(0))), moment
        assert not list(into.rglob("*.part")), moment
    assert 3 < stopped < 11


def test_a_full_disk(tmp_path, monkeypatch):
    for i in range(2):
        add(tmp_path / "data", f"p{i}")
    calls = []

    def full(_):
        calls.append(1)
        if len(calls) > 6:  # the first scan's files and folders are written
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"p1.nii.gz: cannot be prepared in .*into \(No space left on device\)"):
        prepare_scans(tmp_path / "data", tmp_path / "into")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "into").rglob("*") if path.is_file()) == [
        ".lock",
        "p0.json",
        "p0.npy",
        "p0.npy",
    ]
    assert prepare_scans(tmp_path / "data", tmp_path / "into").written == 1


def test_one_scan_at_a_time(tmp_path, monkeypatch):
    for i in range(3):
        add(tmp_path / "data", f"p{i}")
    seen = []

    def read(*arguments, **how):
        assert all(earlier() is None for earlier in seen)
        volume = read_volume(*arguments, **how)
        seen.append(weakref.ref(volume))
        return volume

    monkeypatch.setattr(scans, "read_volume", read)
    prepare_scans(tmp_path / "data", tmp_path / "into").raise_for_problems()
    assert len(seen) == 3


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_another_process_is_waited_for(tmp_path):
    add(tmp_path / "data", "p1")
    (tmp_path / "into").mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print('has it'); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "into" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "has it\n"
        thread = threading.Thread(target=prepare_scans, args=(tmp_path / "data", tmp_path / "into"))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not list((tmp_path / "into").rglob("*.npy"))
        other.communicate("\n")
        thread.join(60)
    assert len(list((tmp_path / "into").rglob("*.npy"))) == 2


def test_arrays_need_neither_a_folder_nor_the_extra(add_pair, tmp_path, monkeypatch):
    for name in ("SimpleITK", "pydicom"):
        monkeypatch.setitem(sys.modules, name, None)
    for module in ("images", "dicom", "series"):
        monkeypatch.delitem(sys.modules, f"ddrsapc.ct.{module}", raising=False)
    for i in range(3):
        add_pair(tmp_path / "data", f"p{i}")
    prepared = prepare_scans(tmp_path / "data", tmp_path / "into")
    assert (prepared.scans, prepared.unpaired) == ((), ())
    assert not (tmp_path / "into").exists()
    assert len(load_splits(tmp_path / "data", scans=prepared)[0].train) == 1
    (tmp_path / "data/images/p4.nii").write_bytes(b"")
    (tmp_path / "data/labels/p4.nii").write_bytes(b"")
    with pytest.raises(ImportError, match=r'pip install "ddrsapc\[ct\]"'):
        prepare_scans(tmp_path / "data", tmp_path / "into")


def test_scans_beside_arrays_and_splits_by_folders(add_pair, tmp_path):
    data = tmp_path / "data"
    hu, labels = scan_of()
    add(data / "train", "s1", suffix="")
    add_pair(data / "train", "p1")
    add(data / "val", "s2")
    add_pair(data / "val", "p2")
    prepared = prepare_scans(data, data / "prepared")  # beside the images is a good place
    splits, reports = load_splits(data, scans=prepared)
    assert [[case.name for case in cases] for cases in splits] == [["p1", "s1"], ["p2", "s2"], []]
    image, label, name = SliceDataset(splits.train)[2]
    assert name == "s1[1]"
    assert np.array_equal(image, hu[1])
    assert np.array_equal(label, labels[1])
    assert sum(report.cases[1].shape[0] for report in reports) == 2 * SHAPE[0]
    assert "2 patients, 2 files, 4 slices; 0 problem(s)" in reports[0].summary()
    # what was prepared can be trained on by itself
    assert len(SliceDataset(load_splits(data / "prepared")[0].val)) == SHAPE[0]
    with pytest.raises(DataError, match="s1: is a CT scan, of which prepare_scans must make an array first"):
        load_splits(data)
    write(data / "val/images/p2.nii", hu)
    write(data / "val/labels/p2.nii", labels)
    with pytest.raises(DataError, match=r"p2.nii: has the same name as p2.npy"):
        load_splits(data, scans=prepare_scans(data, data / "prepared"))


def test_too_small_slices_are_told_of_the_scan(tmp_path):
    for kind, array in (("images", scan_of()[0]), ("labels", scan_of()[1])):
        (tmp_path / "data" / kind).mkdir(parents=True)
        write(tmp_path / "data" / kind / "p1.nii", np.ascontiguousarray(array[:, :20]))
    with pytest.raises(DataError, match=r"images/p1.nii: is 3 x 20 x 40; expected"):
        load_splits(tmp_path / "data", scans=prepare_scans(tmp_path / "data", tmp_path / "into"))


def test_what_is_a_scan(tmp_path):
    """DICOM files without a suffix; a reader of one's own comes first; an index of a medium is none."""
    data = tmp_path / "data"
    for file in write_series(data / "images/p1/DICOM/A", scan_of()[0]):
        file.rename(file.with_suffix(""))
    (data / "images/p1/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (data / "images/p2").mkdir()
    (data / "images/p2/notes.txt").write_text("DICM")
    (data / "labels").mkdir()
    (data / "labels/p1.nii.gz").write_bytes(b"")
    (pair,) = find_scans(data).pairs
    assert (pair.name, pair.mask.name) == ("p1/DICOM/A", "p1.nii.gz")
    (data / "labels/p1").mkdir()
    (data / "labels/p1/DICOM").mkdir()
    (data / "labels/p1/DICOM/A.mha").write_bytes(b"")  # the nearest name wins
    found = find_scans(data)
    assert found.pairs[0].mask.name == "A.mha"
    assert [problem.file.name for problem in found.problems] == ["p1.nii.gz"]
    own = Readers(labels={".nii.gz": np.load, ".mha": np.load})
    assert find_scans(data, own).pairs == ()
    with pytest.raises(DataError, match="is no folder"):
        prepare_scans(tmp_path / "missing", tmp_path / "into")
    for into in (data, data / "images", data / "labels/x"):
        with pytest.raises(DataError, match="is a part of the data"):
            prepare_scans(data, into)
