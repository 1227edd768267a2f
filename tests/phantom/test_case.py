from dataclasses import replace

import numpy as np
import pytest

from ddrsapc.ct.volume import Volume, VolumeMeta, check_axial
from ddrsapc.phantom import PhantomParameters, draw_case, make_case
from ddrsapc.phantom.anatomy import draw_anatomy
from ddrsapc.phantom.draws import slice_of_item
from ddrsapc.phantom.render import case_clouds, render_slice
from ddrsapc.scoring import score_volume

CALM = PhantomParameters(
    positive_rate=1.0, shift=(0, 0), shift_z=(0, 0), field_of_view=(200, 260), contrast_rate=0.0, undershoot=(0, 0)
)


@pytest.fixture(scope="module")
def case():
    return make_case(3, 1, split="test", size=128, parameters=CALM)


def test_shapes_and_types(case):
    assert case.hu.shape == case.labels.shape == case.density.shape == (40, 128, 128)
    assert (case.hu.dtype, case.labels.dtype, case.density.dtype) == (np.int16, np.uint8, np.float32)
    assert case.hu.min() >= -1024
    assert case.hu.max() <= 3071
    assert case.name == "test3c00001"
    assert case.spacing[0] == 3.0
    assert np.linalg.norm(case.affine[:3, :3], axis=0).tolist() == list(case.spacing[::-1])
    assert (case.affine @ (63.5, 63.5, 19.5, 1))[:3] == pytest.approx(0)


def test_it_fits_into_a_volume_and_is_scored(case):
    positions = case.affine[2, 3] + 3.0 * np.arange(40)
    volume = Volume(case.hu, case.spacing, case.affine, positions, VolumeMeta("nifti", ()))
    check_axial(volume)
    score = score_volume(case.hu, case.labels, case.spacing, mass_factor=1 / 1.4)
    assert score.agatston > 0
    # the threshold leaves out the rim: the measured mass is of the order of the true one
    assert 0.3 * case.mass_mg < score.mass_mg < 1.2 * case.mass_mg


def test_the_density_map_has_the_true_mass(case):
    lesions = case.draw.lesions
    assert lesions
    assert case.mass_mg == pytest.approx(sum(item.mass_mg for item in lesions), rel=0.01)


def test_a_sharp_kernel_leaves_the_density_map_negative_around_lesions_and_the_mass_as_it_is():
    sharp = replace(CALM, sharp_rate=1.0, undershoot=(0.35, 0.35))
    case = make_case(3, 1, split="test", size=96, parameters=sharp)
    assert -0.15 * case.density.max() < case.density.min() < -1
    assert case.mass_mg == pytest.approx(sum(item.mass_mg for item in case.draw.lesions), rel=0.01)


def test_labels_are_where_calcium_is_and_the_voxel_is_bright(case):
    labelled = case.labels > 0
    assert labelled.any()
    assert case.hu[labelled].min() >= 130
    assert case.density[labelled].min() >= 10 / 1.4 - 1e-3
    # and nowhere else is both
    assert np.array_equal(labelled, (case.hu >= 130) & (case.density >= np.float32(10 / 1.4)))
    assert set(np.unique(case.labels)) - {0} == {item.label for item in case.draw.lesions}


def test_labels_of_a_vessel_are_at_its_lesions(case):
    for label in np.unique(case.labels[case.labels > 0]):
        z, row, column = np.nonzero(case.labels == label)
        points = (case.affine @ np.stack([column, row, z, np.ones(len(z))]))[:3].T
        clouds = [item.shape.cloud(0.8).points for item in case.draw.lesions if item.label == label]
        distance = np.linalg.norm((points[:, None] - np.concatenate(clouds)[::5]) * (1, 1, 0.5), axis=2).min(1)
        assert distance.max() < 6


def test_hard_negatives_are_bright_and_never_labelled():
    only_mimics = PhantomParameters(
        positive_rate=0.0, aortic_wall_rate=1, aortic_valve_rate=1, mitral_annulus_rate=1, lymph_node_rate=1,
        pericardium_rate=1, stent_rate=1, lead_rate=1, contrast_rate=0, field_of_view=(200, 240), shift=(0, 0),
    )  # fmt: skip
    case = make_case(0, size=96, parameters=only_mimics)
    assert not case.labels.any()
    assert not case.density.any()
    assert case.mass_mg == 0
    assert {item.site for item in case.draw.mimics} == {
        "aortic wall", "aortic valve", "mitral annulus", "lymph node", "pericardium", "stent", "lead",
    }  # fmt: skip
    brightest = dict.fromkeys((item.site for item in case.draw.mimics), -1024)
    for item in case.draw.mimics:
        points = item.shape.cloud(0.5).points
        column, row, z = np.rint(np.linalg.inv(case.affine) @ np.c_[points, np.ones(len(points))].T).astype(int)[:3]
        inside = (np.minimum(row, column) >= 0) & (np.maximum(row, column) < 96) & (z >= 0) & (z < 40)
        if inside.any():
            hu = case.hu[z[inside], row[inside], column[inside]]
            brightest[item.site] = max(brightest[item.site], int(hu.max()))
    assert min(brightest.values()) > 130, brightest  # at every site, if not of its smallest piece


def test_a_slice_alone_is_the_same_as_in_its_case(case):
    draw = draw_case(3, 1, split="test", size=128, parameters=CALM)
    for z in (8, 25):
        alone = render_slice(draw, z)
        assert np.array_equal(alone.hu, case.hu[z])
        assert np.array_equal(alone.labels, case.labels[z])
        assert np.array_equal(alone.density, case.density[z])
    assert len(case_clouds(draw)) == len(draw.lesions) + len(draw.mimics)


def test_motion_smears_the_rca_alone():
    moving = PhantomParameters(positive_rate=1.0, motion_rate=1.0, motion=(6, 6))
    still = PhantomParameters(positive_rate=1.0, motion_rate=0.0, motion=(6, 6))
    for index in range(20):
        draws = [draw_case(1, index, parameters=p) for p in (moving, still)]
        if {1, 3} <= {item.label for item in draws[0].lesions}:
            break
    else:
        pytest.fail("no case has lesions of the RCA and of another vessel")
    extent = [[np.ptp(c.points[:, :2], axis=0).sum() for c in case_clouds(draw)] for draw in draws]
    for item, moved, rested in zip(draws[0].lesions, *extent, strict=False):
        assert (moved > rested + 1) == (item.label == 3)


def test_tissues_have_their_hu():
    quiet = PhantomParameters(
        noise_sd=(0, 0), streak_sd=(0, 0), contrast_rate=0, scale=(1, 1), shift=(0, 0), rotation=(0, 0),
        shift_z=(0, 0), deformation=(0, 0), field_of_view=(300, 300), usual_field_of_view=300,
    )  # fmt: skip
    draw = draw_case(0, 0, size=256, parameters=quiet)
    z = 20
    image, place = render_slice(draw, z).hu, draw.placement

    def at(x, y):
        column, row = place.pixels(x, y, place.frame_z(z))
        return np.median(image[round(row) - 2 : round(row) + 3, round(column) - 2 : round(column) + 3])

    value = draw.anatomy.values
    assert at(13, 62) == pytest.approx(value["blood"], abs=6)  # the descending aorta
    assert at(30, 0) == pytest.approx(value["blood"], abs=8)  # the left ventricle
    assert at(90, 40) == pytest.approx(value["lung"], abs=60)
    assert at(-21, 84) > 60  # a vertebra
    assert at(-21, 105.5) < 60  # its canal


def test_contrast_is_in_the_blood():
    def blood(seed, rate):
        anatomy = draw_anatomy(PhantomParameters(contrast_rate=rate), np.random.default_rng(seed))
        return anatomy.values["blood"], anatomy.values["right_blood"]

    left, right = np.array([blood(seed, 1.0) for seed in range(30)]).T
    assert left.min() >= 150
    assert left.max() <= 450
    assert (right <= left).all()
    assert right.min() >= 25
    rate = np.mean([blood(seed, PhantomParameters().contrast_rate)[0] > 100 for seed in range(400)])
    assert 0.08 < rate < 0.18


def test_splits_and_seeds_have_no_case_in_common():
    names = [("train", 0, 0), ("val", 0, 0), ("test", 0, 0), ("shifted", 0, 0), ("train", 1, 0), ("train", 0, 1)]
    places = {draw_case(seed, index, split=split).placement.shift for split, seed, index in names}
    assert len(places) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 0, "index": -1}, "index"),
        ({"seed": 2**32}, "seed must be below 4294967296"),  # its draws would be those of val's seed 0
        ({"seed": 0, "index": 2**32}, "index must be below"),
        ({"seed": 0, "size": 31}, "size"),
        ({"seed": 0, "size": "512"}, "size"),
        ({"seed": 0, "split": "all"}, "split must be one of train, val, test, shifted"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_case(**arguments)


def test_an_items_slice_goes_through_calcium():
    draw = draw_case(3, 1, split="test", size=64, parameters=CALM)
    z = draw.placement.slice_z(slice_of_item(draw, 1.0))
    assert any(low <= z <= high for low, high in (item.shape.z_range for item in draw.lesions))


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ImportError, match=r'pip install "ddrsapc\[phantom\]"'):
        render_slice(draw_case(0, 0, size=64), 3)
