"""What is written of a scored scan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct import Volume
from ddrsapc.ct.errors import needs_extra
from ddrsapc.ct.volume import check_axial
from ddrsapc.files import write_atomically
from ddrsapc.report.tables import lesions_csv, scores_csv
from ddrsapc.scoring import CalciumScore

__all__ = ["write_report"]

MOST_IN_SHEET, MOST_IN_PAGE, WITHOUT_CALCIUM = 60, 20, 6  # slices


def write_report(
    folder: str | os.PathLike[str],
    volume: Volume,
    labels: NDArray[np.uint8],
    score: CalciumScore,
    *,
    about: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> None:
    """Write what a person looks at: `report.html`, pictures and tables.

    `overlays/NN.png` is a picture of each slice NN that has calcium, `contact_sheet.png` has them on one sheet, up to
    60, and `report.html`, which needs no other file, up to 20 of them large; where there are more, those in which
    lesions are largest. Slices are shown upright, from head to feet, however they are stored. `scores.csv` has a row
    per vessel, `lesions.csv` one per lesion.

    The names of the scan's file or folder and series are shown; other facts that could tell who the patient is are not.

    Args:
        folder: where to; it exists.
        volume: the scan.
        labels: those that were scored, (Z, H, W).
        score: their score.
        about: of the network, as far as known: `network`, `network_args`, `input`, `weights_sha256`, `ddrsapc`.
        warnings: sentences that are shown on top of the report.

    Raises:
        CTError: if the slices are not axial.
        ImportError: without the extra `ct`.
        OSError: if the files cannot be written.
    """
    with needs_extra():
        from ddrsapc.report import sheet  # noqa: PLC0415  # an extra
        from ddrsapc.report.overlay import png_bytes  # noqa: PLC0415
        from ddrsapc.report.page import Figure, Pictures, report_page  # noqa: PLC0415
        from ddrsapc.report.views import ScanViews  # noqa: PLC0415

    check_axial(volume)
    folder = Path(folder)
    title = _title(volume)
    views = ScanViews(volume, labels, score)
    names = sheet.legend_names(score.settings.vessels, views)
    calcified = views.calcified()
    if calcified:
        (folder / "overlays").mkdir(exist_ok=True)
    digits = max(2, len(str(len(views) - 1)))
    for index in calcified:
        picture = sheet.slice_picture(views.view(index), names, title=title, num_slices=len(views))
        write_atomically(folder / "overlays" / f"{index:0{digits}}.png", png_bytes(picture))

    shown = views.calcified(MOST_IN_SHEET) or views.evenly(WITHOUT_CALCIUM)
    if not calcified:
        note = f"No calcium was found; {len(shown)} of {len(views)} slices, from head to feet."
    else:
        note = f"{len(calcified)} of {len(views)} slices have calcium{_left_out(len(shown), len(calcified))}."
    note += " Slices count from 0, as they are stored; R and L are the patient's right and left, A front, P back."
    contact = png_bytes(sheet.contact_sheet(views, shown, names, title=title, note=note))
    write_atomically(folder / "contact_sheet.png", contact)

    figures = []
    large = views.calcified(MOST_IN_PAGE)
    for view in map(views.view, large):
        crop = sheet.crop_of(view)
        pictures = {
            "Input": sheet.numbered(view, crop, overlay=False),
            "Calcium": sheet.numbered(view, crop),
            "Where in the slice": sheet.whole_slice(view, crop, 200),
        }
        images = {name: png_bytes(image) for name, image in pictures.items()}
        figures.append(Figure(view.index, view.position_mm, view.numbers, crop.zoom, images))
    figures_note = f"{len(large)} of {len(calcified)} slices with calcium{_left_out(len(large), len(calcified))}."
    page = report_page(
        volume,
        score,
        Pictures(contact, note, figures, figures_note, views.not_counted),
        title=title,
        about=about,
        warnings=warnings,
    )
    write_atomically(folder / "scores.csv", scores_csv(score))
    write_atomically(folder / "lesions.csv", lesions_csv(score))
    write_atomically(folder / "report.html", page)


def _title(volume: Volume) -> str:
    """The name of the scan's file; of several files, their folder's."""
    files = volume.meta.files
    return "scan" if not files else files[0].name if len(files) == 1 else files[0].resolve().parent.name


def _left_out(shown: int, there: int) -> str:
    """What is to be said of slices that are not shown."""
    if shown == there:
        return ", from head to feet"
    return f"; shown are {shown}, in which lesions are largest, from head to feet; overlays/ has all"
