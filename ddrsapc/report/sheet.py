"""Pictures of a scored scan: a slice with its lesions numbered, and the contact sheet."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ddrsapc.report.overlay import IGNORED, Crop, crop_around, legend, panel, stack
from ddrsapc.report.views import ScanViews, SliceView

__all__ = ["contact_sheet", "crop_of", "legend_names", "listed", "numbered", "slice_picture", "whole_slice"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of a picture."""

SIDE = 560  # of a large picture's panels, about
LARGEST = 1100  # sides of a panel are no longer
TEXT, GAP, FONT = 230, 12, 14  # width of the text beside the panels, space between, letters
SHEET = 1100  # width of the contact sheet
MOST_NUMBERED = 40  # lesions of a slice, the largest
SLICE_MM, MARGIN_MM = 60, 8  # least side of what a large picture shows, around lesions
HEART_MM, HEART_MARGIN_MM = 110, 10  # the same of the contact sheet's
FRAME, OPACITY = "cyan", 0.8


def legend_names(vessels: Mapping[int, str], views: ScanViews) -> dict[int, str]:
    """What the colours mean."""
    return {**vessels, **({IGNORED: "does not count"} if views.not_counted else {})}


def crop_of(view: SliceView) -> Crop:
    """The part of a slice that its large picture shows."""
    pixel = min(view.spacing)
    least, margin = round(SLICE_MM / pixel), round(MARGIN_MM / pixel)
    return crop_around(view.lesions > 0, SIDE, least=least, margin=margin, spacing=view.spacing)


def numbered(
    view: SliceView, crop: Crop, *, zoom: float | None = None, overlay: bool = True, smooth: bool = False
) -> Image.Image:
    """A part of a slice with marks of orientation and, in an overlay, the lesions in colours and their numbers.

    Args:
        view: the slice.
        crop: the part.
        zoom: instead of the crop's.
        overlay: show labels.
        smooth: as of `panel`.
    """
    part = (crop.rows, crop.columns)
    hu, labels = view.hu[part], view.labels[part] if overlay else None
    zoom = min(crop.zoom if zoom is None else zoom, LARGEST / max(_shown_size(hu.shape, view.spacing)))
    image = panel(hu, labels, zoom, opacity=OPACITY, spacing=view.spacing, smooth=smooth)
    marks = _draw_marks(image)
    if overlay:
        _draw_numbers(image, view.lesions[part], marks)
    return image


def _font_of(image: Image.Image) -> tuple[ImageFont.ImageFont | ImageFont.FreeTypeFont, int]:
    """The font for a picture's size, and the height of its letters."""
    size = FONT if max(image.size) < SIDE / 2 else FONT + 4
    return ImageFont.load_default(size), size


def _draw_marks(image: Image.Image) -> list[Box]:
    """Draw where the patient's right, left, front and back are; the places, with some room."""
    width, height = image.size
    marks = {
        "R": ((4, height / 2), "lm"),
        "L": ((width - 4, height / 2), "rm"),
        "A": ((width / 2, 4), "mt"),
        "P": ((width / 2, height - 4), "mb"),
    }
    draw, (font, _) = ImageDraw.Draw(image), _font_of(image)
    boxes = []
    for text, (place, anchor) in marks.items():
        draw.text(place, text, "white", font, anchor, stroke_width=1, stroke_fill="black")
        left, top, right, bottom = draw.textbbox(place, text, font, anchor)
        boxes.append((left - 8, top - 8, right + 8, bottom + 8))
    return boxes


def _draw_numbers(image: Image.Image, lesions: NDArray[np.int32], taken: Sequence[Box]) -> None:
    """Draw numbers (H, W) of lesions beside them, where nothing else is; with a line where that is farther away."""
    x, y = image.width / lesions.shape[1], image.height / lesions.shape[0]
    inside, pixels = np.unique(lesions[lesions > 0], return_counts=True)
    boxes: dict[int, Box] = {}
    for number in inside[np.argsort(-pixels, kind="stable")[:MOST_NUMBERED]].tolist():
        rows, columns = np.nonzero(lesions == number)
        boxes[number] = (columns.min() * x, rows.min() * y, (columns.max() + 1) * x, (rows.max() + 1) * y)
    draw, (font, letters) = ImageDraw.Draw(image), _font_of(image)
    sizes = {number: (font.getlength(str(number)) + 2, letters + 1.0) for number in boxes}
    for number, box in _places(boxes, sizes, taken, image.size).items():
        lesion = boxes[number]
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        near = (min(max(middle[0], lesion[0]), lesion[2]), min(max(middle[1], lesion[1]), lesion[3]))
        start = (min(max(near[0], box[0]), box[2]), min(max(near[1], box[1]), box[3]))
        if max(abs(near[0] - start[0]), abs(near[1] - start[1])) > 6:
            draw.line((*start, *near), "white")
        draw.text(middle, str(number), "white", font, "mm", stroke_width=2, stroke_fill="black")


def _shown_size(shape: Sequence[int], spacing: tuple[float, float]) -> tuple[float, float]:
    """(H, W) in lengths of a pixel's shorter side."""
    return shape[0] * spacing[0] / min(spacing), shape[1] * spacing[1] / min(spacing)


def _places(
    lesions: Mapping[int, Box], sizes: Mapping[int, tuple[float, float]], taken: Sequence[Box], canvas: tuple[int, int]
) -> dict[int, Box]:
    """Where numbers of these sizes go: beside their lesions, on nothing; a number without such a place is left out."""
    placed: dict[int, Box] = {}
    for number, (left, top, right, bottom) in lesions.items():
        width, height = sizes[number]
        for gap in (3, 10, 20, 34, 50, 70, 95):
            right_of, left_of, above, below = right + gap, left - gap - width, top - gap - height, bottom + gap
            x, y = (left + right - width) / 2, (top + bottom - height) / 2
            corners = [(right_of, y), (left_of, y), (x, above), (x, below)]
            corners += [(across, along) for across in (right_of, left_of) for along in (above, below)]
            boxes = [(x, y, x + width, y + height) for x, y in corners]
            others = [*taken, *placed.values(), *lesions.values()]
            free = [
                box
                for box in boxes
                if box[0] >= 2 and box[1] >= 2 and box[2] <= canvas[0] - 2 and box[3] <= canvas[1] - 2
                if not any(_overlap(box, other) for other in others)
            ]
            if free:
                placed[number] = free[0]
                break
    return placed


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def whole_slice(view: SliceView, crop: Crop, side: int) -> Image.Image:
    """A small picture of a slice, framed in it the part that another one shows."""
    zoom = side / max(_shown_size(view.hu.shape, view.spacing))
    image = panel(view.hu, None, zoom, spacing=view.spacing, smooth=True)
    y, x = image.height / view.hu.shape[0], image.width / view.hu.shape[1]
    left, top = crop.columns.start * x, crop.rows.start * y
    box = (left, top, max(left, crop.columns.stop * x - 1), max(top, crop.rows.stop * y - 1))
    ImageDraw.Draw(image).rectangle(box, outline=FRAME)
    return image


def slice_picture(view: SliceView, names: Mapping[int, str], *, title: str, num_slices: int) -> Image.Image:
    """A slice without and with its lesions, beside them what it is and where, and the legend."""
    crop = crop_of(view)
    panels = {"Input": numbered(view, crop, overlay=False), "Calcium": numbered(view, crop)}
    lines = [
        *textwrap.wrap(_drawable(title), 28),
        f"slice {view.index} (0 to {num_slices - 1}), z {view.position_mm:.1f} mm",
        *textwrap.wrap(f"lesions {listed(view.numbers)}", 30),
        "the part shown, in the slice:",
    ]
    font, line = ImageFont.load_default(FONT), FONT + 5
    text = Image.new("RGB", (TEXT, line * len(lines) + GAP), "white")
    ImageDraw.Draw(text).multiline_text((0, 0), "\n".join(lines), "black", font, spacing=5)
    whole = whole_slice(view, crop, TEXT - 2 * GAP)
    beside = stack([text, whole, Image.new("RGB", (TEXT, GAP), "white"), legend(names)])
    width = sum(image.width + GAP for image in panels.values())
    height = max(beside.height, *(image.height + GAP + FONT for image in panels.values()))
    canvas = Image.new("RGB", (TEXT + GAP + width, height + 2 * GAP), "white")
    canvas.paste(beside, (GAP, GAP))
    left = TEXT + GAP
    for heading, image in panels.items():
        ImageDraw.Draw(canvas).text((left, GAP), heading, "black", font)
        canvas.paste(image, (left, 2 * GAP + FONT))
        left += image.width + GAP
    return canvas


def contact_sheet(
    views: ScanViews, indices: Sequence[int], names: Mapping[int, str], *, title: str, note: str
) -> Image.Image:
    """The same part of several slices, with their calcium, on one sheet.

    Args:
        views: the scan.
        indices: of the slices, at least one, in the order in which they are shown.
        names: what the colours mean.
        title: of the sheet.
        note: below the title.
    """
    many = len(indices)
    columns = many if many <= 3 else min((5, 4), key=lambda count: -many % count)  # the fewest empty places
    side = SHEET // max(columns, 3) - GAP
    first = views.view(indices[0])
    pixel = min(first.spacing)
    least, margin = round(HEART_MM / pixel), round(HEART_MARGIN_MM / pixel)
    crop = crop_around(views.region(), 1, least=least, margin=margin, spacing=first.spacing)
    shape = (crop.rows.stop - crop.rows.start, crop.columns.stop - crop.columns.start)
    zoom = side / max(_shown_size(shape, first.spacing))
    tiles = []
    font = ImageFont.load_default(FONT)
    for index in indices:
        view = views.view(index)
        image = numbered(view, crop, zoom=zoom, smooth=True)
        tile = Image.new("RGB", (image.width + GAP, image.height + FONT + GAP), "white")
        tile.paste(image, (0, 0))
        ImageDraw.Draw(tile).text((0, image.height + 2), f"slice {index}, z {view.position_mm:.1f} mm", "black", font)
        tiles.append(tile)
    width = max(columns * tiles[0].width + GAP, SHEET // 2)
    across = legend(names, across=True)
    head = [_text(title, width - 2 * GAP, 20), _text(note, width - 2 * GAP, FONT)]
    head.append(across if across.width <= width - 2 * GAP else legend(names))
    top = stack(head)
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (width, top.height + 2 * GAP + rows * tiles[0].height), "white")
    canvas.paste(top, (GAP, GAP))
    for i, tile in enumerate(tiles):
        place = (GAP + i % columns * tile.width, top.height + 2 * GAP + i // columns * tile.height)
        canvas.paste(tile, place)
    return canvas


def _text(text: str, width: int, size: int) -> Image.Image:
    """Text in lines that fit into a width."""
    lines = textwrap.wrap(_drawable(text), int(width / (0.52 * size)))
    image = Image.new("RGB", (width, len(lines) * (size + 6) + 4), "white")
    ImageDraw.Draw(image).multiline_text((0, 0), "\n".join(lines), "black", ImageFont.load_default(size), spacing=6)
    return image


def _drawable(text: str) -> str:
    """Without accents, as the font has letters of ASCII only."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def listed(things: Sequence[object], most: int = 12) -> str:
    """The first of them, and how many more there are."""
    rest = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(map(str, things[:most])) + rest
