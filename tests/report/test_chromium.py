"""The report in a browser, opened from the disk."""

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from PIL import Image

from ddrsapc.report import write_report
from tests.report.scans import SPOTS, scan_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr"),
)
WIDTHS = (1280, 390)
# a window cannot be as narrow as a phone; a frame can
FRAMES = """<!DOCTYPE html><title>frames</title>
<iframe src="report.html" width="1280" height="900"></iframe>
<iframe src="report.html" width="390" height="900"></iframe>
<pre></pre>
<script>
addEventListener("load", () => {
  const pages = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument);
  document.querySelector("pre").textContent = JSON.stringify(pages.map(page => ({
    title: page.title,
    wide: page.documentElement.scrollWidth,
    letters: page.defaultView.getComputedStyle(page.querySelector("td")).fontSize,
    pictures: [...page.images].map(one => [one.complete, one.naturalWidth, one.getBoundingClientRect().width]),
    beyond: [...page.querySelectorAll("h1, h2, p, img, dl, figure")].filter(
      one => !one.closest(".scroll") && one.getBoundingClientRect().right > page.documentElement.clientWidth + 0.5
    ).map(one => one.outerHTML.slice(0, 80)),
  })));
});
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; Debian's package is chromium"),
]


def chromium(folder, *arguments):
    """What the browser prints; on the console of its pages there is nothing."""
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    long_name = "a_rather_long_name_without_any_space_in_it_" * 3
    scan = scan_of(SPOTS, mass_factor=0.8, series_description=f"<script>console.log('{long_name}')</script>")
    write_report(folder, *scan, about={"network": "unet", "weights_sha256": "ab" * 32}, warnings=[long_name])
    return folder


def test_on_a_desktop_and_on_a_phone(folder):
    (folder / "frames.html").write_text(FRAMES)
    dom = chromium(folder, "--allow-file-access-from-files", "--dump-dom", f"file://{folder}/frames.html")
    pages = json.loads(unescape(re.search("<pre>(.*)</pre>", dom, re.DOTALL)[1]))
    assert len(pages) == 2
    for width, page in zip(WIDTHS, pages, strict=True):
        assert page["title"] == "Coronary calcium: p07.nii.gz"
        assert page["wide"] <= width  # nothing to scroll sideways
        assert page["beyond"] == []
        assert float(page["letters"].removesuffix("px")) >= 13
        assert len(page["pictures"]) == 1 + 3 * 3
        for complete, natural, shown in page["pictures"]:
            assert complete
            assert natural > 100
            assert shown > 100


def test_what_is_seen(folder):
    dom = chromium(folder, "--dump-dom", f"file://{folder}/report.html")
    assert "Agatston" in dom
    shot = folder / "shot.png"
    chromium(folder, f"--screenshot={shot}", "--window-size=1280,3000", f"file://{folder}/report.html")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (3000, 1280, 3)
    red, green, blue = (pixels[..., i] > 200 for i in range(3))
    for seen in (red & ~green & ~blue, ~red & green & ~blue, red & green & ~blue):  # LAD, LCX, RCA
        assert np.count_nonzero(seen) > 1000  # more than in the legends
    pictures = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max(axis=2) < 3
    assert np.count_nonzero(pictures & (pixels[..., 0] < 100)) > 500_000  # grey slices
