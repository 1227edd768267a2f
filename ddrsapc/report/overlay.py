"""Slices as pictures, their labels in the paper's colours."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddrsapc.ct.errors import needs_extra

with needs_extra():
    from PIL import Image, ImageColor, ImageDraw, ImageFont

__all__ = ["IGNORED", "OPACITY", "PALETTE", "WINDOW", "Crop", "crop_around", "legend", "panel", "png_bytes", "stack"]

IGNORED = 255
"""The label of what does not count."""
WINDOW = (-160.0, 840.0)
"""HU from black to white."""
OPACITY = 0.65
"""Of labels through which the slice is seen."""
_COLOURS = ("red", "lime", "yellow", "dodgerblue", "magenta", "darkorange", "mediumpurple", "pink")
PALETTE: NDArray[np.uint8] = np.array(
    [(0, 0, 0), *map(ImageColor.getrgb, (_COLOURS * 32)[:254]), ImageColor.getrgb("#5f587d")], np.uint8
)
"""RGB by label, (256, 3): none black, LAD red, LCX green and RCA yellow as in the paper, `IGNORED` a dull violet."""
_LINE = 9 / 7
"""Height of a line of text, in letter heights."""


class Crop(NamedTuple):
    """A part of a slice, and how much larger it is shown."""

    rows: slice
    columns: slice
    zoom: int


def panel(
    hu: NDArray[Any] | Tensor,
    labels: NDArray[Any] | Tensor | None = None,
    zoom: float = 1,
    *,
    window: tuple[float, float] = WINDOW,
    opacity: float = 1.0,
    spacing: tuple[float, float] = (1.0, 1.0),
    smooth: bool = False,
) -> Image.Image:
    """Draw one slice: grey values, on them labels in the colours of `PALETTE`.

    Args:
        hu: Hounsfield units (H, W).
        labels: 0 to 255, (H, W); 0 leaves the slice as it is.
        zoom: how many pixels of the picture are as long as a pixel of the slice on its shorter side.
        window: HU from black to white.
        opacity: of the labels; with 1 their colours are exact.
        spacing: (y, x) of a pixel; the longer side is stretched, so that proportions are true.
        smooth: interpolate grey values where they are enlarged; labels keep their edges.

    Returns:
        An RGB picture of `zoom` times the slice's size.
    """
    low, high = window
    grey = ((np.asarray(hu).astype(np.float32).clip(low, high) - low) / (high - low) * 255).astype(np.uint8)
    y, x = (zoom * mm / min(spacing) for mm in spacing)
    size = (max(1, round(grey.shape[1] * x)), max(1, round(grey.shape[0] * y)))
    shown = np.zeros_like(grey) if labels is None else np.asarray(labels).astype(np.uint8)
    if smooth and zoom > 1:
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
        shown = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.NEAREST))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    where = shown > 0
    rgb[where] = ((1 - opacity) * rgb[where] + opacity * PALETTE[shown[where]]).astype(np.uint8)
    # averages where it gets smaller: no labelled pixel is lost
    return Image.fromarray(rgb).resize(size, Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.BOX)


def crop_around(
    marked: NDArray[np.bool_] | Tensor,
    side: int,
    *,
    least: int,
    margin: int,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Crop:
    """The square around marked pixels, or the whole slice where there are none, as large as fits into a picture.

    Args:
        marked: (H, W).
        side: of the picture; it is exceeded where the marked pixels do not fit.
        least: side of the smallest square, in pixels of the slice, of their shorter side.
        margin: around the marked pixels, likewise.
        spacing: (y, x) of a pixel.
    """
    stretch = [mm / min(spacing) for mm in spacing]
    pixels = np.stack(np.nonzero(np.asarray(marked)))  # (2, n)
    bounds = [(int(i.min()), int(i.max()) + 1) for i in pixels] if pixels.size else [(0, n) for n in marked.shape]
    marked_sides = [(stop - start) * factor for (start, stop), factor in zip(bounds, stretch, strict=True)]
    whole = max(n * factor for n, factor in zip(marked.shape, stretch, strict=True))
    size = math.ceil(min(max(least, *(one + 2 * margin for one in marked_sides)), whole))
    zoom = max(1, side // size)
    size = max(size, side // zoom)
    parts = []
    for (first, stop), n, factor in zip(bounds, marked.shape, stretch, strict=True):
        length = math.ceil(size / factor)
        start = min(max((first + stop - length) // 2, 0), max(n - length, 0))
        parts.append(slice(start, min(start + length, n)))
    return Crop(parts[0], parts[1], zoom)


def legend(
    names: Mapping[int, str], *, window: tuple[float, float] = WINDOW, font_size: int = 14, across: bool = False
) -> Image.Image:
    """The colours of labels with their names, and the window.

    Args:
        names: by label.
        window: HU from black to white.
        font_size: height of the letters in pixels.
        across: one beside the other, not one below the other.
    """
    font, line = ImageFont.load_default(font_size), round(_LINE * font_size)
    texts = [*names.values(), "CT window {:g} to {:g} HU".format(*window)]
    lengths = [round(font.getlength(text)) + 2 * font_size + line for text in texts]
    size = (sum(lengths), line) if across else (max(lengths), line * len(texts))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for i, (label, text) in enumerate(zip([*names, None], texts, strict=True)):
        left, top = (sum(lengths[:i]), 0) if across else (0, line * i)
        if label is None:
            draw.text((left, top), text, "dimgrey", font)
            continue
        draw.rectangle((left, top, left + font_size, top + font_size), tuple(PALETTE[label].tolist()), "black")
        draw.text((left + round(1.5 * font_size), top), text, "black", font)
    return canvas


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures, one or more, below each other on white."""
    canvas = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        canvas.paste(one, (0, top))
        top += one.height
    return canvas


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)  # noise gets no smaller from more, it only takes longer
    return buffer.getvalue()
