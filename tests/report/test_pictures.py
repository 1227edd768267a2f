"""Slices upright, with their lesions in colours and numbered, and the sheet of them."""

import numpy as np
import pytest

from ddrsapc.report import sheet
from ddrsapc.report.overlay import IGNORED, WINDOW, Crop
from ddrsapc.report.views import ScanViews
from ddrsapc.scoring import score_volume
from tests.report.scans import SPOTS, scan_of, volume_of

NAMES = {1: "LAD", 2: "LCX", 3: "RCA"}


@pytest.fixture(scope="module")
def views():
    return ScanViews(*scan_of(SPOTS))


def stored(volume, labels, order, spacing):
    """The same patient's scan, stored otherwise: axes exchanged (rows with columns) and then flipped."""
    exchange, *flips = order
    axes = [np.array([1, 0, 0]), np.array([0, 1, 0]), np.array([0, 0, 1])]
    arrays = [volume.hu, labels]
    if exchange:
        axes[0], axes[1] = axes[1], axes[0]
        arrays = [x.swapaxes(1, 2) for x in arrays]
        spacing = (spacing[0], spacing[2], spacing[1])
    for axis in flips:  # of the array (z, y, x)
        axes[2 - axis] = -axes[2 - axis]
        arrays = [np.flip(x, axis) for x in arrays]
    hu, labels = (np.ascontiguousarray(x) for x in arrays)
    return volume_of(hu, spacing, axes=axes), labels, score_volume(hu, labels, spacing)


@pytest.mark.parametrize("order", [(0, 1), (0, 2), (0, 1, 2), (1,), (1, 1), (1, 2), (1, 1, 2)])
def test_pictures_do_not_depend_on_how_slices_are_stored(order):
    spacing = (3.0, 0.6, 0.5)
    volume, labels, score = scan_of([(1, 1, 10, 20), (2, 1, 30, 50)], spacing=spacing)
    as_usual = ScanViews(volume, labels, score)
    other = ScanViews(*stored(volume, labels, order, spacing))
    one, two = as_usual.view(1), other.view(1)
    assert two.spacing == (0.6, 0.5)
    for x, y in ((one.hu, two.hu), (one.labels, two.labels), (one.lesions, two.lesions)):
        assert np.array_equal(x, y)
    pictures = [
        (
            sheet.slice_picture(views.view(1), NAMES, title="scan", num_slices=6),
            sheet.contact_sheet(views, views.calcified(), NAMES, title="scan", note="note"),
        )
        for views in (as_usual, other)
    ]
    assert pictures[0] == pictures[1]


def test_slices_go_from_head_to_feet(views):
    volume, labels, _ = scan_of(SPOTS)
    downwards = ScanViews(*stored(volume, labels, (0, 0), (3.0, 0.5, 0.5)))
    assert views.calcified() == [4, 2, 1]
    assert downwards.calcified() == [1, 3, 4]
    assert views.head_first == [5, 4, 3, 2, 1, 0]
    assert downwards.head_first == [0, 1, 2, 3, 4, 5]
    assert views.position(0) == 100.0
    assert [downwards.position(z) for z in (0, 1)] == [100.0, 97.0]
    assert np.array_equal(views.view(4).hu, downwards.view(1).hu)


def test_views_hold_what_was_counted():
    volume, labels, _ = scan_of(SPOTS)
    labels[2, 50, 70:72] = 3  # too small, and not dense
    labels.setflags(write=False)
    hu = volume.hu.copy()
    hu[2, 50, 70] = 300
    volume = volume_of(hu)
    volume.hu.setflags(write=False)
    views = ScanViews(volume, labels, score_volume(hu, labels, volume.spacing))
    view = views.view(2)
    assert views.not_counted == 2
    assert sheet.legend_names(NAMES, views)[IGNORED] == "does not count"
    expected = np.where(labels[2] == 3, IGNORED, labels[2])
    assert np.array_equal(view.labels, expected)
    assert set(np.unique(view.lesions)) == {0, *view.numbers}
    assert np.array_equal(view.lesions > 0, (expected > 0) & (expected < IGNORED))


def test_the_slices_with_the_largest_lesions_come_first(views):
    assert views.calcified(3) == [4, 2, 1]
    volume, labels, score = scan_of(
        [(1, 0, 5, 5), (1, 1, 5, 5), (1, 1, 9, 5), (2, 3, 5, 5), (3, 5, 5, 5), (3, 5, 20, 5)]
    )
    some = ScanViews(volume, labels, score)  # lesion 1 is larger in slice 1, two lesions of RCA in slice 5
    assert some.calcified(2) == [5, 1]
    assert some.calcified(3) == [5, 3, 1]
    assert some.calcified() == [5, 3, 1, 0]
    assert some.evenly(3) == [4, 2, 0]
    assert some.evenly(100) == some.head_first


def at(picture, crop, row, column):
    """The RGB of a pixel's place, in the middle of it."""
    return picture.getpixel(
        (int((column - crop.columns.start + 0.5) * crop.zoom), int((row - crop.rows.start + 0.5) * crop.zoom))
    )


def test_lesions_are_in_colours_and_the_input_is_grey(views):
    view = views.view(2)
    crop = sheet.crop_of(view)
    coloured, grey = sheet.numbered(view, crop), sheet.numbered(view, crop, overlay=False)
    assert coloured.size == grey.size
    low, high = WINDOW
    for (row, column), strong, hu in (((13, 22), {0}, 450), ((31, 51), {1}, 500)):
        rgb = at(coloured, crop, row, column)
        assert {i for i in range(3) if rgb[i] > 200} == strong
        assert at(grey, crop, row, column) == (int((hu - low) / (high - low) * 255),) * 3
    array = np.asarray(grey)
    assert (array[..., 0] == array[..., 1]).all()
    view = views.view(4)
    crop = sheet.crop_of(view)
    red, green, blue = at(sheet.numbered(view, crop), crop, 41, 13)
    assert min(red, green) > 200 > 2 * blue


def test_crops_are_around_the_lesions_of_the_slice():
    views = ScanViews(*scan_of([(1, 0, 300, 200)], shape=(1, 512, 512)))
    crop = sheet.crop_of(views.view(0))
    assert crop == Crop(slice(232, 372), slice(132, 272), 4)  # 60 mm or more, as large as fits
    image = sheet.whole_slice(views.view(0), crop, 256)
    assert image.size == (256, 256)
    assert {image.getpixel((66, 150)), image.getpixel((100, 116)), image.getpixel((135, 150))} == {(0, 255, 255)}


def test_numbers_lie_on_nothing():
    rng = np.random.default_rng(1)
    lesions = {}
    for number in range(1, 30):
        x, y = rng.integers(10, 480, 2).tolist()
        lesions[number] = (x, y, x + 12, y + 9)
    lesions[30] = (495, 495, 500, 500)  # in the corner
    marks = [(240, 4, 260, 20)]
    placed = sheet._places(lesions, dict.fromkeys(lesions, (24, 15)), marks, (500, 500))
    assert len(placed) >= 29
    boxes = list(placed.values())
    for i, box in enumerate(boxes):
        assert min(box) >= 0
        assert max(box) <= 500
        for other in [*boxes[:i], *lesions.values(), *marks]:
            assert not (box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3])
    distances = [
        max(lesions[n][0] - box[2], box[0] - lesions[n][2], lesions[n][1] - box[3], box[1] - lesions[n][3])
        for n, box in placed.items()
    ]
    assert np.median(distances) == 3


def test_a_slice_full_of_lesions_has_numbers_for_the_largest():
    spots = [(1, 0, y, x) for y in range(0, 200, 8) for x in range(0, 200, 8)]
    volume, labels, score = scan_of(spots, shape=(1, 200, 200))
    view = ScanViews(volume, labels, score).view(0)
    assert len(view.numbers) == 625
    picture = sheet.slice_picture(view, NAMES, title="scan", num_slices=1)
    assert picture.width < 1500
    assert sheet.listed(view.numbers) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 613 more"


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 32, 32), (3, 0.5, 0.5)),
        ((2, 40, 300), (3, 2.0, 0.5)),
        ((2, 60, 40), (3, 0.01, 50.0)),
        ((1, 900, 40), (1, 1, 1)),
    ],
)
def test_odd_slices_in_true_proportions_and_bounded(shape, spacing):
    volume, labels, score = scan_of([(1, 0, 10, 20), (2, 0, 26, 8)], shape=shape, spacing=spacing)
    views = ScanViews(volume, labels, score)
    view = views.view(0)
    for picture in (
        sheet.slice_picture(view, NAMES, title="x" * 200, num_slices=2),
        sheet.contact_sheet(views, [0], NAMES, title="x" * 200, note="note " * 50),
    ):
        assert max(picture.size) < 2700
    crop = sheet.crop_of(view)
    image = sheet.numbered(view, crop)
    pixels = ((crop.rows.stop - crop.rows.start) * spacing[1], (crop.columns.stop - crop.columns.start) * spacing[2])
    scale = image.width / pixels[1]  # of the longer side, which is rounded the least
    assert image.height == pytest.approx(max(1, pixels[0] * scale), abs=1)


def test_the_sheet_has_its_slices_in_rows(views):
    sizes = [sheet.contact_sheet(views, [0] * many, NAMES, title="t", note="n").size for many in (1, 3, 4, 5, 10, 60)]
    widths, heights = zip(*sizes, strict=True)
    assert max(widths) <= 1112
    row = heights[4] - heights[3]
    assert row > 150
    assert heights[5] == heights[3] + 11 * row  # rows of five
    many = {i: f"class {i}" for i in range(1, 30)}
    assert sheet.contact_sheet(views, [0], many, title="t", note="n").height > heights[0] + 400  # one below the other


def test_text_that_the_font_has_no_letters_for():
    assert sheet._drawable("Pät 7 \u4e2d") == "Pat 7 ?"
