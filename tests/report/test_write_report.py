"""The folder that a person looks at."""

import base64
import io
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddrsapc.ct import CTError
from ddrsapc.report import lesions_csv, scores_csv, sheet, write_report
from tests.report.pages import Page
from tests.report.scans import SPOTS, scan_of, volume_of

ABOUT = {
    "network": "ddr_sapc_u",
    "network_args": {"num_classes": 4, "width": 32},
    "input": {"hu_window": [-1000, 1000]},
    "weights_sha256": "ab" * 32,
    "threshold_hu": 130.0,
    "series": "1.2.826.1",
    "scan": "cd" * 32,
    "ddrsapc": "0.1.0",
}
NOTE = "For research only; not a medical device."


def report(folder, scan, about=ABOUT, **options):
    """Write the report and read its page."""
    write_report(folder, *scan, about=about, **options)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    return Page(html)


def size_of(path):
    with Image.open(path) as image:
        return image.size


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder, page and score of a usual scan."""
    folder = tmp_path_factory.mktemp("usual")
    scan = scan_of(SPOTS, mass_factor=0.8, kvp=120.0, series_description="CaScore 3.0", manufacturer="ACME")
    return folder, report(folder, scan, warnings=["mind the tube voltage"]), scan[2]


def test_the_files(written):
    folder, _, score = written
    overlays = [f"overlays/{z:02}.png" for z in (1, 2, 4)]
    assert files_in(folder) == ["contact_sheet.png", "lesions.csv", *overlays, "report.html", "scores.csv"]
    assert (folder / "scores.csv").read_bytes() == scores_csv(score)
    assert (folder / "lesions.csv").read_bytes() == lesions_csv(score)
    for name in ["contact_sheet.png", *overlays]:
        assert size_of(folder / name) > (600, 100)


def test_the_page_needs_nothing_else(written):
    _, page, _ = written
    for tag, attributes in page.elements:
        for key in ("src", "href", "srcset", "data", "action", "poster", "background"):
            assert attributes.get(key, "data:").startswith(("data:image/png;base64,", "data:", "#"))
        assert not any(key.startswith("on") for key in attributes)
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert "url(" not in attributes.get("style", "")
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", html)


def test_the_page_is_valid(written):
    _, page, _ = written
    charset, *_ = page.all("meta")
    assert charset == {"charset": "utf-8"}
    assert len(page.all("h1")) == len(page.all("title")) == 1
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    images = page.all("img")
    assert len({image["alt"] for image in images}) == len(images) == 1 + 3 * 3
    for image in images:
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        assert Image.open(io.BytesIO(png)).format == "PNG"
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)


def test_the_numbers_are_the_scores(written):
    _, page, score = written
    scores, lesions, *_ = page.tables
    assert scores[0] == ["Vessel", "Agatston", "Volume, mm³", "Mass, mg", "Lesions"]
    for row, (name, part) in zip(scores[1:], [*score.vessels.items(), ("Total", score)], strict=True):
        assert row[:4] == [name, f"{part.agatston:.1f}", f"{part.volume_mm3:.1f}", f"{part.mass_mg:.1f}"]
    assert [row[4] for row in scores[1:]] == ["2", "1", "1", "4"]
    for row, lesion in zip(lesions[1:], score.lesions, strict=True):
        assert row[:2] == [str(lesion.number), lesion.vessel]
        assert row[-3:] == [f"{lesion.volume_mm3:.1f}", f"{lesion.agatston:.1f}", f"{lesion.mass_mg:.1f}"]
    assert lesions[1][2:4] == ["1 to 2", "2, 12, 22"]
    for text in (
        f"Risk category{score.category}",
        f"CAC-DRS{score.cac_drs}",
        "N is at most 3",
        "Mass factor0.8 mg/(ml HU)",
    ):
        assert text in page.text
    assert page.text.count(NOTE) == 1


def test_scan_settings_network_and_warnings(written):
    _, page, _ = written
    facts = {row[0]: row[1] for table in page.tables[2:] for row in table}
    assert facts == {
        "Name": "p07.nii.gz",
        "Format": "nifti",
        "Series": "CaScore 3.0",
        "Manufacturer": "ACME",
        "Tube voltage": "120 kVp",
        "Slices": "6 of 60 x 80 pixels (rows x columns)",
        "Spacing": "3 x 0.5 x 0.5 mm (slices, rows, columns)",
        "Threshold": "130 HU",
        "Least size in a slice": "1 mm² (literature)",
        "Slice increment": "3 mm",
        "Neighbours": "8 in a slice, 26 in space",
        "Mass factor": "0.8 mg/(ml HU)",
        "Window of the pictures": "-160 to 840 HU",
        "Network": "ddr_sapc_u",
        "Arguments": "num_classes: 4, width: 32",
        "Input": "hu_window: [-1000, 1000]",
        "Weights, SHA-256": "ab" * 32,
        "ddrsapc": "0.1.0",
    }
    assert "Warning: mind the tube voltage" in page.text
    assert "Slice 4, z 112.0 mm" in page.text
    assert "Lesions: 2 LAD, 4 RCA." in page.text


def test_without_a_mass_factor_it_is_said_why(tmp_path):
    page = report(tmp_path, scan_of(SPOTS[:1]), about={})
    assert page.tables[0][-1] == ["Total", "16.0", "12.0", "-", "1"]
    assert "Mass is not given: it needs a mass factor" in page.text
    assert "Tube voltagenot known" in page.text
    assert "Warning" not in page.text


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\x00b\ud800 & ü <b>"]
)
def test_texts_of_files_are_escaped(text, tmp_path):
    where = {"files": (Path("/folder") / text,), "series_description": text, "manufacturer": text, "format": text}
    vessels = {1: text.replace("\ud800", ""), 2: "b"}
    about = {"network": text, "network_args": {text: text}, "weights_sha256": text}
    page = report(tmp_path, scan_of(SPOTS[:1], vessels=vessels, **where), about=about, warnings=[text])
    assert not {"script", "b"} & {tag for tag, _ in page.elements}
    assert not any("onerror" in attributes for _, attributes in page.elements)
    shown = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    facts = {row[0]: row[1] for table in page.tables[2:] for row in table}
    assert facts["Series"] == facts["Network"] == shown
    assert page.tables[0][1][0] == vessels[1].replace("\x00", "\ufffd")
    assert f"Warning: {shown}" in page.text


def test_nothing_tells_who_the_patient_is(tmp_path):
    folder = Path("/archive/DOE^JANE/CT 12")
    scan = scan_of(SPOTS[:1], format="dicom", files=(folder / "1.dcm", folder / "2.dcm"), series_uid="1.2.826.1.77")
    page = report(tmp_path, scan)
    assert "CT 12" in page.text
    for word in ("DOE", "archive", "1.2.826", "cd" * 32):
        assert word not in page.text


def test_without_calcium_the_report_says_so(tmp_path):
    volume, labels, score = scan_of([], shape=(9, 40, 40))
    page = report(tmp_path, (volume, labels, score))
    assert files_in(tmp_path) == ["contact_sheet.png", "lesions.csv", "report.html", "scores.csv"]
    assert "No calcium was found; 6 of 9 slices, from head to feet." in page.text
    assert page.tables[0][-1] == ["Total", "0.0", "0.0", "-", "0"]
    assert "Risk categoryzero" in page.text
    assert len(page.all("img")) == 1
    assert size_of(tmp_path / "contact_sheet.png")[1] > 400  # slices are shown


def test_labels_that_do_not_count_are_told(tmp_path):
    volume, labels, score = scan_of(SPOTS[:1])
    labels[3, 5, 5:8] = 2
    page = report(tmp_path, (volume, labels, score))
    assert "3 labelled voxels do not count" in page.text


def test_many_calcified_slices_and_lesions_are_bounded(tmp_path, monkeypatch):
    """The sheet and the page have as much of 300 slices as of 75."""
    monkeypatch.setattr(sheet, "SIDE", 128)  # all the same, only faster
    spots = [(1 + z % 3, z, 4 + z % 20, 8) for z in range(75)]
    spots += [(1 + z % 2, z, y, x) for z in (30, 32, 34, 36) for y in range(24, 60, 5) for x in range(2, 60, 8)]
    scan = scan_of(spots, shape=(75, 64, 64), spacing=(1.0, 0.5, 0.5))
    page = report(tmp_path, scan)
    assert len(list((tmp_path / "overlays").iterdir())) == 75
    assert "75 of 75 slices have calcium; shown are 60" in page.text
    assert "20 of 75 slices with calcium; shown are 20" in page.text
    assert len(page.all("img")) == 1 + 20 * 3
    assert {f"Slice {z}, z {100 + z}.0 mm: calcium" for z in (30, 32, 34, 36)} < {i["alt"] for i in page.all("img")}
    width, height = size_of(tmp_path / "contact_sheet.png")
    assert width * height < 4e6
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert len(page.tables[1]) - 1 == 200 < len(scan[2].lesions)
    assert f"the 200 largest of {len(scan[2].lesions)}; lesions.csv has all" in page.text


def test_other_classes(tmp_path):
    vessels = {label: f"class {label}" for label in range(1, 8)}
    spots = [(label, label % 3, 5 + 6 * label, 10) for label in vessels]
    page = report(tmp_path, scan_of(spots, vessels=vessels))
    assert [row[0] for row in page.tables[0][1:]] == [*vessels.values(), "Total"]
    assert "here of 7 classes" in page.text
    assert "at most 3" not in page.text


def test_slices_that_are_not_axial_are_refused(tmp_path):
    volume, labels, score = scan_of(SPOTS[:1])
    coronal = volume_of(volume.hu, axes=((1, 0, 0), (0, 0, -1), (0, 1, 0)))
    with pytest.raises(CTError, match="not axial"):
        write_report(tmp_path, coronal, labels, score, about={})
    assert not list(tmp_path.iterdir())


def test_without_pillow_nothing_is_written(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ddrsapc.report.")]:
        if name.rpartition(".")[2] not in {"tables", "writing"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"PIL is missing; install it with: pip install \"ddrsapc\[ct\]\""):
        write_report(tmp_path, *scan_of(SPOTS[:1]), about={})
    assert not list(tmp_path.iterdir())
