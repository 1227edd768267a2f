"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from ddrsapc.ct import Volume
from ddrsapc.report.overlay import IGNORED, PALETTE, WINDOW
from ddrsapc.report.sheet import listed
from ddrsapc.scoring import RESEARCH_ONLY, VESSELS, CalciumScore

__all__ = ["Figure", "Pictures", "report_page"]

MOST_LESIONS = 200  # rows of the table
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Figure:
    """A slice in the report; the pictures are PNG files."""

    index: int
    position_mm: float
    lesions: Sequence[int]
    zoom: float
    pictures: Mapping[str, bytes]
    """By what they show."""


@dataclass(frozen=True)
class Pictures:
    """All pictures of the report."""

    sheet: bytes
    sheet_note: str
    figures: Sequence[Figure]
    figures_note: str
    not_counted: int
    """Voxels with a label that do not count."""


def report_page(
    volume: Volume,
    score: CalciumScore,
    pictures: Pictures,
    *,
    title: str,
    about: Mapping[str, Any],
    warnings: Sequence[str],
) -> bytes:
    """The report; every text is escaped, pictures are in it as data.

    Args:
        volume: the scan.
        score: its score.
        pictures: of it.
        title: what the scan is called.
        about: of the network, see `write_report`.
        warnings: sentences.
    """
    head = _e(
        "head",
        _e("meta", charset="utf-8"),
        _e("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        _e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _e("title", f"Coronary calcium: {title}"),
        _e("style", Path(__file__).with_name("page.css").read_text(encoding="utf-8")),
    )
    body = _e(
        "body",
        _e("h1", f"Coronary calcium: {title}"),
        _e("p", RESEARCH_ONLY, class_="note"),
        *(_e("p", _e("strong", "Warning: "), text, class_="warning", role="note") for text in warnings),
        _cards(score),
        *_scores(score, pictures.not_counted),
        _e("h2", "Contact sheet"),
        _e("p", pictures.sheet_note),
        _e("div", _image(pictures.sheet, f"Contact sheet of {title}"), class_="scroll sheet", tabindex="0"),
        *_lesions(score),
        *_figures(pictures, score),
        _e(
            "div",
            _facts("Scan", _scan(volume, title)),
            _facts("Scoring", _settings(score)),
            _facts("Network", _network(about)),
            class_="grid",
        ),
    )
    text: str = tostring(_e("html", head, body, lang="en"), encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n".encode()


def _e(tag: str, *children: Element | str, **attributes: str) -> Element:
    """An element; what cannot be printed or encoded is replaced, the rest escaped when it is written."""
    element = Element(tag, {key.rstrip("_"): _clean(value) for key, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + _clean(child)
        else:
            element.text = (element.text or "") + (child if tag == "style" else _clean(child))
    return element


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _image(png: bytes, alt: str) -> Element:
    return _e("img", src=f"data:image/png;base64,{base64.b64encode(png).decode()}", alt=alt)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Element | str]], last: Sequence[str] = ()) -> Element:
    """A table whose first column names the rows; `last` is the sum."""
    body = _e("tbody", *(_row(row) for row in rows))
    foot = [_e("tfoot", _row(last))] if last else []
    head = _e("thead", _e("tr", *(_e("th", column, scope="col") for column in columns)))
    return _e("div", _e("table", head, body, *foot), class_="scroll", tabindex="0")


def _row(cells: Sequence[Element | str]) -> Element:
    first, *others = cells
    return _e("tr", _e("th", first, scope="row"), *(_e("td", cell) for cell in others))


def _cards(score: CalciumScore) -> Element:
    cards = {
        "Agatston score": f"{score.agatston:.1f}",
        "Risk category": score.category,
        "CAC-DRS": score.cac_drs,
        "Volume": f"{score.volume_mm3:.1f} mm\N{SUPERSCRIPT THREE}",
        "Mass": "-" if score.mass_mg is None else f"{score.mass_mg:.1f} mg",
        "Lesions": str(len(score.lesions)),
    }
    return _e("dl", *(_e("div", _e("dt", name), _e("dd", value)) for name, value in cards.items()), class_="cards")


def _scores(score: CalciumScore, not_counted: int) -> list[Element]:
    labels = {name: label for label, name in score.settings.vessels.items()}
    numbers = {name: sum(lesion.vessel == name for lesion in score.lesions) for name in score.vessels}
    columns = ("Vessel", "Agatston", "Volume, mm\N{SUPERSCRIPT THREE}", "Mass, mg", "Lesions")
    rows = [
        (_swatched(name, labels[name]), f"{part.agatston:.1f}", f"{part.volume_mm3:.1f}", _mg(part.mass_mg),
         str(numbers[name]))
        for name, part in score.vessels.items()
    ]  # fmt: skip
    total = ("Total", f"{score.agatston:.1f}", f"{score.volume_mm3:.1f}", _mg(score.mass_mg), str(len(score.lesions)))
    found = [_e("h2", "Scores"), _table(columns, rows, total)]
    if score.mass_mg is None:
        found.append(_e("p", "Mass is not given: it needs a mass factor, from a calibration of the scanner."))
    counts = (
        "the left main artery counts with LAD, so N is at most 3"
        if dict(score.settings.vessels) == dict(VESSELS)
        else f"here of {len(score.vessels)} classes"
    )
    found.append(
        _e("p", f"Risk category by Agatston score: zero 0, minimal to 10, mild to 100, moderate to 400, severe above. "
                f"CAC-DRS: A0 0, A1 below 100, A2 below 300, A3 from 300; N is the number of vessels with calcium "
                f"({counts}).")
    )  # fmt: skip
    if not_counted:
        size = _least(score)
        text = (
            f"{not_counted:,} labelled voxels do not count: they have less than {score.settings.threshold_hu:g} HU, or "
            f"lie in spots below the least size ({size})."
        )
        found.append(_e("p", _swatch(IGNORED), text))
    return found


def _lesions(score: CalciumScore) -> list[Element]:
    if not score.lesions:
        return [_e("h2", "Lesions"), _e("p", "No calcium was found.")]
    labels = {name: label for label, name in score.settings.vessels.items()}
    columns = ("No.", "Vessel", "Slices", "Centre (slice, row, column)", "Peak, HU", "Mean, HU",
               "Area, mm\N{SUPERSCRIPT TWO}", "Volume, mm\N{SUPERSCRIPT THREE}", "Agatston", "Mass, mg")  # fmt: skip
    largest = sorted(score.lesions, key=lambda lesion: -lesion.agatston)[:MOST_LESIONS]
    rows = [
        (str(one.number), _swatched(one.vessel, labels[one.vessel]),
         str(one.slices[0]) if one.slices[0] == one.slices[1] else f"{one.slices[0]} to {one.slices[1]}",
         ", ".join(f"{axis:.0f}" for axis in one.centroid_index), f"{one.peak_hu:.0f}", f"{one.mean_hu:.0f}",
         f"{one.area_mm2:.1f}", f"{one.volume_mm3:.1f}", f"{one.agatston:.1f}", _mg(one.mass_mg))
        for one in sorted(largest, key=lambda lesion: lesion.number)
    ]  # fmt: skip
    text = "Numbers are those in the pictures; slices, rows and columns count from 0, as they are stored."
    if len(rows) < len(score.lesions):
        text += f" These are the {len(rows)} largest of {len(score.lesions)}; lesions.csv has all."
    return [_e("h2", "Lesions"), _e("p", text), _table(columns, rows)]


def _figures(pictures: Pictures, score: CalciumScore) -> list[Element]:
    if not pictures.figures:
        return []
    found = [_e("h2", "Slices"), _e("p", pictures.figures_note)]
    vessels = {lesion.number: lesion.vessel for lesion in score.lesions}
    for figure in pictures.figures:
        name = f"Slice {figure.index}, z {figure.position_mm:.1f} mm"
        lesions = [f"{number} {vessels[number]}" for number in figure.lesions]
        text = f"Lesions: {listed(lesions)}." + (f" Enlarged {figure.zoom:g} times." if figure.zoom > 1 else "")
        caption = _e("figcaption", _e("h3", name), text)
        panels = [
            _e("div", _e("span", heading), _image(png, f"{name}: {heading.lower()}"))
            for heading, png in figure.pictures.items()
        ]
        found.append(_e("figure", caption, _e("div", *panels, class_="panels")))
    return found


def _facts(heading: str, facts: Mapping[str, str]) -> Element:
    rows = [_row((name, value)) for name, value in facts.items()]
    return _e("section", _e("h2", heading), _e("table", _e("tbody", *rows), class_="facts"))


def _scan(volume: Volume, title: str) -> dict[str, str]:
    meta = volume.meta
    z, y, x = volume.hu.shape
    spacing = "not known" if volume.spacing is None else " x ".join(f"{mm:g}" for mm in volume.spacing)
    thickness = "" if meta.slice_thickness is None else f"{meta.slice_thickness:g} mm"
    facts = {
        "Name": title,
        "Format": meta.format,
        "Series": meta.series_description,
        "Manufacturer": meta.manufacturer,
        "Slices": f"{z} of {y} x {x} pixels (rows x columns)",
        "Spacing": f"{spacing} mm (slices, rows, columns)",
        "Slice thickness": thickness,
    }
    return {name: value for name, value in facts.items() if value}


def _settings(score: CalciumScore) -> dict[str, str]:
    settings = score.settings
    factor = settings.mass_factor_mg_per_ml_hu
    return {
        "Threshold": f"{settings.threshold_hu:g} HU",
        "Tube voltage": "not known" if settings.kvp is None else f"{settings.kvp:g} kVp",
        "Least size in a slice": f"{_least(score)} ({settings.preset or 'as given'})",
        "Slice increment": f"{settings.increment_mm:g} mm",
        "Neighbours": f"{settings.connectivity_in_slice} in a slice, {settings.connectivity_of_lesions} in space",
        "Mass factor": "none" if factor is None else f"{factor:g} mg/(ml HU)",
        "Window of the pictures": "{:g} to {:g} HU".format(*WINDOW),
    }


def _network(about: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "network": "Network",
        "network_args": "Arguments",
        "input": "Input",
        "weights_sha256": "Weights, SHA-256",
        "ddrsapc": "ddrsapc",
    }
    values = {name: about[key] for key, name in names.items() if about.get(key)}
    return {
        name: ", ".join(f"{key}: {json.dumps(part)}" for key, part in value.items())
        if isinstance(value, Mapping)
        else str(value)
        for name, value in values.items()
    }


def _least(score: CalciumScore) -> str:
    """The least size of a calcification in a slice."""
    area, pixels = score.settings.min_area_mm2, score.settings.min_pixels
    return f"{area:g} mm\N{SUPERSCRIPT TWO}" if area else f"{pixels} pixel(s)"


def _mg(mass: float | None) -> str:
    return "-" if mass is None else f"{mass:.1f}"


def _swatch(label: int) -> Element:
    red, green, blue = PALETTE[label].tolist()
    return _e("span", class_="swatch", style=f"background: rgb({red}, {green}, {blue})")


def _swatched(name: str, label: int) -> Element:
    return _e("span", _swatch(label), name)
