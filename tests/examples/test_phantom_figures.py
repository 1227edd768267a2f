"""The page of slices and its figures."""

import json

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra phantom is not installed")


@pytest.fixture
def figures(example):
    pytest.importorskip("SimpleITK", reason="the extra ct is not installed")
    return example("phantom_figures")


@pytest.fixture
def measures(example):
    return example("phantom_measures")


def test_distances_of_histograms(measures):
    first = np.repeat(np.arange(0, 50, 5), 4).astype(np.int16)
    assert measures.hu_distances(first, first, -100, 200) == {"total_variation": 0, "earth_mover_hu": 0}
    assert measures.hu_distances(first, first + 100, -100, 200) == {"total_variation": 1, "earth_mover_hu": 100}


def test_the_spectrum_of_white_noise_is_flat(measures):
    noise = np.random.default_rng(0).normal(0, 3, (60, 64, 64))
    spectrum = measures.radial_spectrum(noise, 0.5, np.arange(0.1, 0.95, 0.1))
    assert spectrum == pytest.approx(1 / 8, rel=0.05)


def test_patches_of_the_insert_are_plastic_and_each_of_its_own(measures):
    patches = measures.simulated_insert()
    assert patches.shape[1:] == (48, 48)
    assert len({patch.tobytes() for patch in patches}) == len(patches) == 48
    assert patches.max() < 75 + 6 * 21.6  # no calcium
    assert patches.mean((1, 2)) == pytest.approx(75, abs=5)


def test_blooming_grows_with_contrast(measures):
    plain, contrasted = measures.blooming(3, size=96), measures.blooming(3, contrast_hu=300, size=96)
    assert 1.2 < plain < 1.7  # of the coarse pixels too
    assert contrasted > 1.4 * plain


def test_neighbouring_pixels_of_smooth_noise_are_alike(measures):
    noise = np.random.default_rng(0).normal(0, 3, (60, 64, 66))
    assert measures.autocorrelation(noise) == pytest.approx([0, 0, 0], abs=0.02)
    smooth = noise[..., :-2] + noise[..., 1:-1] + noise[..., 2:]
    assert measures.autocorrelation(smooth) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.02)


def test_peaks_of_fat_and_soft_tissue(measures):
    rng = np.random.default_rng(0)
    hu = np.concatenate([rng.normal(mean, 12, 20_000) for mean in (-90, 46, -800)]).astype(np.int16)
    assert measures.tissue_peaks(hu) == pytest.approx([-90, 46], abs=6)


def test_volumes_are_those_of_the_cases(measures):
    found = measures.volumes(12)
    drawn = [measures.draw_case(0, index, split="test") for index in range(12)]
    lad = [sum(item.volume_mm3 for item in draw.lesions if item.site == "LAD") for draw in drawn]
    lad = [1.35 * mm3 for mm3 in lad if mm3]
    assert found["LAD"]["cases"] == len(lad)
    assert found["LAD"]["mean"] == pytest.approx(np.mean(lad), abs=0.5)
    assert found["LAD"]["median"] == pytest.approx(np.median(lad), abs=0.5)


def test_a_page_without_real_scans(figures, measures, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SIMULATED", ((0, 0, 20),))
    monkeypatch.setattr(measures, "REPEATS", 1)
    assert figures.main(["--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "phantom.jpg").read_bytes()[:2] == b"\xff\xd8"
    written = json.loads((tmp_path / "out" / "phantom.json").read_text())
    assert set(written["calibration"]) == {"L800", "M800", "L400", "M400", "L200", "M200"}


def test_no_real_scans_where_they_are_looked_for(figures, measures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "calibration", lambda: pytest.fail("measured before it looked"))
    assert figures.main(["--real", str(tmp_path / "nowhere"), "--all", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
    assert not (tmp_path / "out").exists()


def test_no_cases(figures, monkeypatch, capsys):
    monkeypatch.setattr(figures, "calibration", lambda: pytest.fail("measured before it looked"))
    with pytest.raises(SystemExit):
        figures.main(["--cases", "0"])
    assert "--cases must be at least 1, got 0" in capsys.readouterr().err


@pytest.fixture
def committed(root):
    """What `examples/phantom_figures.py --all` wrote when it was run last."""
    return json.loads((root / "docs/results/phantom/phantom.json").read_text(encoding="utf-8"))


@pytest.fixture
def page(root):
    return " ".join((root / "docs/phantom.md").read_text(encoding="utf-8").split())


def test_the_page_has_the_figures_of_cylinders_and_volumes(committed, page):
    for name, cylinder in committed["calibration"].items():
        mm, density = {"L": 5, "M": 3}[name[0]], name[1:]
        assert abs(cylinder["sds_off"]) < 2
        assert (
            f"| {mm} mm, {density} mg/ml | {cylinder['mean']} +- {cylinder['sd']} | {cylinder['reference_mean']} +- "
            f"{cylinder['reference_sd']} | {cylinder['sds_off']:.1f} SD |"
        ) in page
    for site in ("LM", "LAD", "LCX", "RCA", "aortic wall", "aortic valve", "mitral annulus"):
        of = committed["volumes"][site]
        assert f"| {site} | {of['cases']} | {of['mean']} +- {of['sd']} | {of['median']} |" in page


def test_the_page_has_the_figures_of_histograms_and_noise(committed, page):
    names = ("liver dome (dcmqi)", "upper abdomen (TotalSegmentator)", "contrast CT (TotalSegmentator)")
    titles = (
        names[0],
        "upper abdomen, contrast (TotalSegmentator)",
        "chest, contrast (TotalSegmentator)",
    )
    for name, title in zip(names, titles, strict=True):
        soft, lung = (committed[name][f"{part} HU"] for part in ("soft tissue, -200 to 300", "lung, -1000 to -600"))
        row = (
            f"| {title} | {soft['total_variation']:.2f} | {soft['earth_mover_hu']} HU | {lung['total_variation']:.2f} |"
        )
        assert row in page
    fat, soft_tissue = committed["peaks of fat and soft tissue"]
    assert f"The peaks of fat and soft tissue are at {fat} and {soft_tissue} HU" in page
    assert committed["speed"]["per processor second"] > 20
    assert f"Speed: {committed['speed']['per processor second']} slices per second of processor time" in page
    noise = committed["noise of the insert"]
    real, here = noise["sd_hu"]
    assert f"SD {here} HU here, {real} HU in the real scan" in page
    assert f"by a total variation of {noise['spectrum_total_variation']}" in page


def test_the_page_has_the_figures_of_labels_and_threshold(committed, page):
    wide = committed["labelled volume over the lesions' own, 36 cases of 512 x 512, by the blood's HU"]
    assert f"point spread and the threshold: {wide['no contrast']} times" in page
    assert f"{wide['150']} times at 150 HU of the blood, {wide['300']} at 300 and {wide['450']} at 450" in page
    some, many = (committed[f"130 HU in the heart, {size} x {size}"] for size in (256, 512))
    rows = {
        "all slices, any vessel, pooled IoU (the gate: below 0.4)": ("IoU of any vessel", "{:.3f}"),
        "without contrast (36 and 52), any vessel, pooled IoU": ("IoU of any vessel, without contrast", "{:.2f}"),
        "of these, through calcium (27 and 36): median IoU of a slice": ("median IoU of a slice", "{:.2f}"),
        "of these, IoU below 0.5": ("part of slices below 0.5", "{:.0%}"),
        "calcium found": ("part of the calcium found", "{:.0%}"),
    }
    for title, (key, form) in rows.items():
        assert f"| {title} | {form.format(some[key])} | {form.format(many[key])} |".replace("%", " %") in page
    one, other = (", ".join(f"{iou:.2f}" for iou in of["IoU of one vessel, without contrast"]) for of in (some, many))
    assert f"all of it called LAD, or LCX, or RCA: IoU | {one} | {other} |" in page
