import json
import sys
import warnings

import numpy as np
import pytest
import torch

from ddrsapc.scoring import UNKNOWN, TubeVoltageWarning, lesion_voxels, mass_factor_from_rods, score_volume
from tests.scoring import reference

pytest.importorskip("SimpleITK")

PRESET_SIZES = {"literature": (1.0, 1), "philips": (0.5, 1), "canon": (0, 3), "siemens": (0, 1)}


def blobs(seed, *, shape=(6, 14, 13), classes=4):
    """Noise whose HU and labels are smooth enough that many components of all sizes touch."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(150, 130, shape)
    hu = (hu + np.roll(hu, 1, 0) + np.roll(hu, 1, 1) + np.roll(hu, 1, 2)) / 2 - 150
    labels = np.repeat(np.repeat(rng.integers(0, classes, shape), 3, 1), 3, 2)[:, : shape[1], : shape[2]]
    return hu.round(1), labels.astype(np.uint8)


def block():
    """The specification's: 400 HU in 4 x 2 pixels on 2 slices."""
    hu, labels = np.full((4, 12, 12), 40, np.int16), np.zeros((4, 12, 12), np.uint8)
    hu[1:3, 4:8, 5:7], labels[1:3, 4:8, 5:7] = 400, 2
    return hu, labels


def test_by_hand():
    score = score_volume(*block(), (0.5, 0.5, 0.5))
    assert score.agatston == pytest.approx(16 * 0.5 / 3)
    assert score.volume_mm3 == pytest.approx(2.0)
    assert score.mass_mg is None
    assert (score.category, score.cac_drs) == ("minimal", "A1/N1")
    assert {name: vessel.agatston for name, vessel in score.vessels.items()} == {
        "LAD": 0,
        "LCX": pytest.approx(16 * 0.5 / 3),
        "RCA": 0,
    }


def test_lesion_table_by_hand():
    hu, labels = block()
    hu[1, 4, 5], hu[2, 7, 6] = 600, 250  # the peak, and a sum 50 higher
    hu[0, 0:2, 0:2], labels[0, 0:2, 0:2] = 210, 3  # its corner touches nothing of the vessel
    score = score_volume(hu, labels, (0.5, 1, 0.25), mass_factor=0.8)
    first, second = score.lesions
    assert (first.number, first.vessel, first.slices) == (1, "LCX", (1, 2))
    assert first.centroid_index == (1.5, 5.5, 5.5)
    assert first.centroid_mm == (0.75, 5.5, 1.375)
    assert (first.peak_hu, first.mean_hu) == (600, pytest.approx(400 + 50 / 16))
    assert (first.area_mm2, first.volume_mm3) == (pytest.approx(4.0), pytest.approx(2.0))
    assert first.agatston == pytest.approx(16 * 0.5 / 3)
    assert first.mass_mg == pytest.approx(0.8 * (400 + 50 / 16) * 2 / 1000)
    assert (second.number, second.vessel, second.slices) == (2, "RCA", (0, 0))
    assert second.agatston == pytest.approx(1 * 2 * 0.5 / 3)
    assert score.vessels["RCA"].mass_mg == pytest.approx(0.8 * 210 * 0.5 / 1000)
    assert score.vessels["LAD"].mass_mg == 0


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_plain_reference(seed):
    hu, labels = blobs(seed)
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.3, 1.2, 3).round(3).tolist())
    positions = np.cumsum(rng.uniform(0.8, 1.1, len(hu)))
    increments = np.gradient(positions)  # half the way to either neighbour
    for preset, (min_area, min_pixels) in PRESET_SIZES.items():
        sizes = {"min_area": min_area, "min_pixels": min_pixels}
        for places, slices in ((None, None), (positions, increments)):
            ours = score_volume(hu, labels, spacing, preset=preset, slice_positions=places, mass_factor=0.75)
            plain = reference.score(hu, labels, spacing, increments=slices, **sizes)
            assert plain.agatston > 10
            assert ours.agatston == pytest.approx(plain.agatston, rel=1e-9)
            assert ours.volume_mm3 == pytest.approx(plain.volume_mm3, rel=1e-9)
            assert ours.mass_mg == pytest.approx(0.75 * plain.hu_ml, rel=1e-9)
            assert len(ours.lesions) == plain.lesions > 10
    assert ours.vessels.keys() == {"LAD", "LCX", "RCA"}
    assert sum(vessel.agatston for vessel in ours.vessels.values()) == pytest.approx(ours.agatston)


def test_the_result_does_not_depend_on_how_the_arrays_lie():
    hu, labels = blobs(1)
    hu = hu.round()
    spacing = (0.7, 0.5, 0.6)
    score = score_volume(hu, labels, spacing, mass_factor=0.8)
    for integers in (np.int16, np.int32, ">i2", np.float32, np.float16):
        for kind in (np.uint8, np.int64, ">u2"):
            assert score_volume(hu.astype(integers), labels.astype(kind), spacing, mass_factor=0.8) == score
    tensors = torch.from_numpy(hu.astype(np.int16)), torch.from_numpy(labels)
    assert score_volume(*tensors, spacing, mass_factor=0.8) == score
    assert score_volume(np.asfortranarray(hu), labels[:, ::1], list(spacing), mass_factor=0.8) == score
    for axes in ((0, 1, 2), (0, 2, 1)):
        for flip in ([], [0], [1], [2], [0, 1, 2]):
            moved = [np.flip(array.transpose(axes), flip) for array in (hu, labels)]
            other = score_volume(*moved, [spacing[axis] for axis in axes], mass_factor=0.8)
            for name in ("agatston", "volume_mm3", "mass_mg"):
                assert getattr(other, name) == pytest.approx(getattr(score, name), rel=1e-12)
            assert len(other.lesions) == len(score.lesions)


def test_parts_along_z_add_up():
    hu, labels = blobs(2)
    whole = score_volume(hu, labels, (0.5, 0.5, 0.5), mass_factor=0.8)
    parts = [
        score_volume(hu[z], labels[z], (0.5, 0.5, 0.5), mass_factor=0.8) for z in (np.s_[:2], np.s_[2:3], np.s_[3:])
    ]
    for name in ("agatston", "volume_mm3", "mass_mg"):
        assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_inputs_are_not_changed():
    hu, labels = blobs(3)
    before = hu.copy(), labels.copy()
    hu.flags.writeable = labels.flags.writeable = False
    score_volume(hu, labels, (0.5, 0.5, 0.5))
    assert np.array_equal(hu, before[0])
    assert np.array_equal(labels, before[1])


def test_vessels_are_scored_apart():
    hu, labels = np.full((1, 4, 8), 40), np.zeros((1, 4, 8), np.uint8)
    hu[0, 1, 2:6] = 150, 150, 450, 450
    labels[0, 1, 2:6] = 1, 1, 2, 2
    assert score_volume(hu, labels, (3, 0.5, 0.5)).agatston == 0  # 0.5 mm2 each
    apart = score_volume(hu, labels, (3, 1, 1))
    assert (apart.vessels["LAD"].agatston, apart.vessels["LCX"].agatston) == (2, 8)
    assert [lesion.vessel for lesion in apart.lesions] == ["LAD", "LCX"]


@pytest.mark.parametrize(
    ("preset", "pixels"), [("literature", 4), ("ge", 4), ("terarecon", 4), ("philips", 2), ("canon", 3), ("siemens", 1)]
)
def test_preset_drops_smaller_calcifications(preset, pixels):
    hu, labels = np.full((1, 12, 12), 40), np.zeros((1, 12, 12), np.uint8)
    for size in range(1, 6):  # of 0.25 mm2 each
        hu[0, 2 * size, :size], labels[0, 2 * size, :size] = 150, 1
    score = score_volume(hu, labels, (3, 0.5, 0.5), preset=preset)
    assert sorted(round(lesion.area_mm2 / 0.25) for lesion in score.lesions) == list(range(pixels, 6))
    assert score.settings.preset == preset


def test_min_area_replaces_the_preset():
    hu, labels = np.full((1, 2, 8), 150), np.ones((1, 2, 8), np.uint8)
    assert score_volume(hu, labels, (3, 0.5, 0.5), min_area=4).agatston == pytest.approx(4)
    dropped = score_volume(hu, labels, (3, 0.5, 0.5), min_area=4.01, preset="siemens")
    assert dropped.agatston == 0
    assert (dropped.settings.preset, dropped.settings.min_area_mm2) == (None, 4.01)


def test_a_spacing_a_little_short_does_not_drop_the_smallest_calcification():
    third = float(np.float32(1 / 3)) - 1e-8  # as a header may have it; 9 pixels are 1 mm2
    assert score_volume(np.full((1, 3, 3), 150), np.ones((1, 3, 3), int), (3, third, third)).agatston > 0.99


def test_irregular_positions():
    hu, labels = np.full((4, 2, 2), 150), np.ones((4, 2, 2), np.uint8)
    score = score_volume(hu, labels, (9, 1, 1), slice_positions=[-7, -4.5, -2.5, 0])
    # steps of 2.5, 2 and 2.5 mm: the outer slices have their only step, the inner ones the mean of two
    assert score.volume_mm3 == pytest.approx(4 * (2.5 + 2.25 + 2.25 + 2.5))
    assert score.agatston == pytest.approx(4 * (2.5 + 2.25 + 2.25 + 2.5) / 3)
    assert score.lesions[0].centroid_mm[0] == pytest.approx((0 + 2.5 + 4.5 + 7) / 4)
    assert score.settings.slice_positions_mm == (-7, -4.5, -2.5, 0)


def test_regular_positions_are_the_same_as_the_spacing():
    hu, labels = blobs(4)
    by_spacing = score_volume(hu, labels, (1.5, 0.5, 0.5))
    for positions in (np.arange(6) * 1.5 - 200, 30 - np.arange(6) * 1.5, torch.arange(6) * 1.5):
        by_position = score_volume(hu, labels, (3, 0.5, 0.5), slice_positions=positions)
        assert by_position.agatston == pytest.approx(by_spacing.agatston, rel=1e-12)
        assert by_position.settings.increment_mm == pytest.approx(1.5)
    one = score_volume(hu[:1], labels[:1], (1.5, 0.5, 0.5), slice_positions=[12])
    assert one.agatston == score_volume(hu[:1], labels[:1], (1.5, 0.5, 0.5)).agatston > 0


def test_a_missing_slice_is_not_counted_as_a_thick_one():
    hu, labels = blobs(5)
    keep = [0, 1, 3, 4, 5]
    with pytest.raises(ValueError, match=r"slices 1 and 2 are 6 mm apart.*3 mm; slices are missing.*score the parts"):
        score_volume(hu[keep], labels[keep], (3, 0.5, 0.5), slice_positions=np.array(keep) * 3)
    with pytest.raises(ValueError, match="slices are missing"):  # of three
        score_volume(hu[:3], labels[:3], (3, 0.5, 0.5), slice_positions=[0, 3, 9])


def test_mass_needs_a_factor():
    hu, labels = block()
    assert score_volume(hu, labels, (0.5, 0.5, 0.5)).mass_mg is None
    assert all(vessel.mass_mg is None for vessel in score_volume(hu, labels, (0.5, 0.5, 0.5)).vessels.values())
    factor = mass_factor_from_rods(255, 5)
    assert score_volume(hu, labels, (0.5, 0.5, 0.5), mass_factor=factor).mass_mg == pytest.approx(0.8 * 400 * 2 / 1000)
    assert score_volume(hu, 0 * labels, (0.5, 0.5, 0.5), mass_factor=factor).mass_mg == 0


def test_other_tube_voltages_warn_and_rescale_nothing():
    hu, labels = block()
    plain = score_volume(hu, labels, (0.5, 0.5, 0.5))
    with pytest.warns(
        TubeVoltageWarning, match="130 HU is for 120 kVp, this scan has 100 kVp; give a threshold"
    ) as seen:
        warned = score_volume(hu, labels, (0.5, 0.5, 0.5), kvp=100)
    assert seen[0].filename == __file__
    assert warned.agatston == plain.agatston
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_volume(hu, labels, (0.5, 0.5, 0.5), kvp=120.0)
        high = score_volume(hu, labels, (0.5, 0.5, 0.5), kvp=100, threshold=401)
    assert high.agatston == 0
    assert (high.settings.threshold_hu, high.settings.kvp) == (401, 100)


def test_n_of_cac_drs():
    hu, labels = np.full((1, 4, 16), 150), np.zeros((1, 4, 16), np.uint8)
    labels[0, :, 0:3], labels[0, :, 6:9], labels[0, :, 12:14] = 1, 2, 4
    names = {1: "LAD", 2: "LCX", 3: "RCA", 4: UNKNOWN}
    assert score_volume(hu, labels, (3, 1, 1), vessels=names).cac_drs == "A1/N2"
    assert score_volume(hu, labels, (3, 1, 1), vessels={**names, 4: "RCA2"}).cac_drs == "A1/N3"
    assert score_volume(hu, labels * (labels == 4), (3, 1, 1), vessels=names).cac_drs == "A1/N1"
    assert score_volume(hu, labels * 0, (3, 1, 1)).cac_drs == "A0/N0"


def test_to_dict_is_json_with_units():
    hu, labels = block()
    score = score_volume(hu, labels, (0.5, 0.5, 0.5), mass_factor=0.8, slice_positions=np.arange(4) / 2, kvp=120)
    content = score.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert (content["category"], content["cac_drs"]) == ("minimal", "A1/N1")
    assert content["agatston"] == score.agatston
    assert content["vessels"]["LCX"] == {"agatston": score.agatston, "volume_mm3": 2.0, "mass_mg": score.mass_mg}
    assert content["lesions"][0]["slices"] == [1, 2]
    assert "research" in content["note"]
    assert content["settings"] == {
        "threshold_hu": 130.0,
        "preset": "literature",
        "min_area_mm2": 1.0,
        "min_pixels": 1,
        "increment_mm": 0.5,
        "slice_positions_mm": [0.0, 0.5, 1.0, 1.5],
        "pixel_spacing_mm": [0.5, 0.5],
        "mass_factor_mg_per_ml_hu": 0.8,
        "kvp": 120.0,
        "vessels": {"1": "LAD", "2": "LCX", "3": "RCA"},
        "connectivity_in_slice": 8,
        "connectivity_of_lesions": 26,
    }


def test_without_simpleitk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    hu, labels = block()
    for labelled in (labels, 0 * labels):
        with pytest.raises(ImportError, match=r'pip install "ddrsapc\[ct\]"'):
            score_volume(hu, labelled, (0.5, 0.5, 0.5))


@pytest.mark.parametrize("preset", PRESET_SIZES)
def test_lesion_voxels_are_those_that_were_counted(preset):
    hu, labels = blobs(3)
    score = score_volume(hu, labels, (2, 0.9, 0.7), preset=preset)
    by_slice = lesion_voxels(hu, labels, score)
    assert list(by_slice) == sorted(by_slice)
    voxels = np.concatenate([np.insert(places, 0, z, axis=0) for z, (places, _) in by_slice.items()], axis=1)
    numbers = np.concatenate([numbers for _, numbers in by_slice.values()])
    assert len(score.lesions) > 3
    assert sorted(set(numbers)) == [lesion.number for lesion in score.lesions]
    for lesion in score.lesions:
        z, y, x = inside = voxels[:, numbers == lesion.number]
        assert inside.mean(axis=1) == pytest.approx(lesion.centroid_index)
        assert (z.min(), z.max()) == lesion.slices
        assert hu[z, y, x].max() == lesion.peak_hu
        assert len(z) * 0.63 == pytest.approx(lesion.area_mm2)
        assert {score.settings.vessels[label] for label in labels[z, y, x]} == {lesion.vessel}


def test_without_calcium_there_are_no_lesion_voxels():
    hu, labels = block()
    assert lesion_voxels(hu, labels * 0, score_volume(hu, labels * 0, (1, 1, 1))) == {}
