"""Truth and prediction of slices side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ddrsapc.ct.errors import needs_extra
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.report.overlay import IGNORED, crop_around, legend, panel

with needs_extra():
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["ComparedSlice", "comparison"]

CROP, MARGIN = 96, 16  # smallest side of a crop, pixels around the foreground
TEXT, GAP, LINE = 220, 12, 18  # width of the text beside the panels, space between, height of a line
FRAME = "cyan"


@dataclass(frozen=True)
class ComparedSlice:
    """HU, true and predicted labels, (H, W) each; 255 in the truth does not count."""

    name: str
    hu: Tensor
    truth: Tensor
    prediction: Tensor

    @cached_property
    def pixels(self) -> tuple[int, int]:
        """Foreground in the truth, and in the prediction."""
        return int(((self.truth > 0) & (self.truth != IGNORED)).sum()), int((self.prediction > 0).sum())


def comparison(shown: ComparedSlice, names: Sequence[str], side: int) -> Image.Image:
    """Input, truth and prediction around the foreground; beside them what they are, where in the slice, and the legend.

    Args:
        shown: the slice.
        names: of the classes, background first.
        side: of the three panels in pixels, about.
    """
    marked = (shown.truth > 0) & (shown.truth != IGNORED) | (shown.prediction > 0)  # (H, W)
    rows, columns, zoom = crop_around(marked, side, least=CROP, margin=MARGIN)
    confusion = ConfusionMatrix(len(names))
    confusion.update(shown.prediction, shown.truth)
    iou = confusion.scores().foreground_mean_iou
    lines = [*textwrap.wrap(shown.name, 26), "no foreground" if math.isnan(iou) else f"foreground IoU {iou:.3f}",
             "{} px true, {} predicted".format(*shown.pixels), f"rows {rows.start}-{rows.stop - 1}, enlarged {zoom} x",
             f"columns {columns.start}-{columns.stop - 1} in:"]  # fmt: skip
    whole = panel(shown.hu)
    ImageDraw.Draw(whole).rectangle(
        (columns.start, rows.start, columns.stop - 1, rows.stop - 1), outline=FRAME, width=max(whole.size) // CROP + 1
    )
    whole.thumbnail((CROP, CROP), Image.Resampling.BOX)
    labels = {"Input": None, "Truth": shown.truth, "Prediction": shown.prediction}
    cut = [None if x is None else x[rows, columns] for x in labels.values()]
    panels = [panel(shown.hu[rows, columns], x, zoom) for x in cut]
    colours = legend({**dict(enumerate(names[1:], 1)), IGNORED: "does not count"})
    below = GAP + LINE * len(lines) + whole.height + GAP  # where the legend begins
    height = max(panels[0].height + GAP + LINE + 6, below + colours.height) + GAP
    canvas = Image.new("RGB", (TEXT + 3 * (panels[0].width + GAP), height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    draw.multiline_text((GAP, GAP), "\n".join(lines), "black", font, spacing=LINE - 14)
    canvas.paste(whole, (GAP, below - GAP - whole.height))
    canvas.paste(colours, (GAP, below))
    for i, (heading, image) in enumerate(zip(labels, panels, strict=True)):
        left = TEXT + i * (image.width + GAP)
        draw.text((left, GAP), heading, "black", font)
        canvas.paste(image, (left, GAP + LINE + 6))
    return canvas
