"""What is bright and no coronary calcium in the slices that `pretrain.py` trains on."""

import numpy as np
import pytest

ndimage = pytest.importorskip("scipy.ndimage", reason="the extra phantom is not installed")


@pytest.fixture
def pretrain_data(example):
    return example("pretrain_data")


@pytest.fixture
def pretrain_decoys(example):
    return example("pretrain_decoys")


@pytest.mark.parametrize("vessels", [False, True])
@pytest.mark.parametrize("bones", [None, {"part": 0.5}, {"part": 0.5, "ribs": True}])
def test_decoys_are_bright_away_from_the_arteries_and_are_not_labelled(bones, vessels, pretrain_data, pretrain_decoys):
    plain = pretrain_data.slices(128, 8, 0, (200.0, 300.0))
    bones = bones and pretrain_decoys.Bones(**bones)
    decoys, spots = pretrain_decoys.Decoys(plain, bones=bones, vessels=vessels), 0
    for index in range(8):
        (image, label, name), changed = plain[index], decoys[index]
        assert changed.image.equal(decoys[index].image)
        assert changed.label.equal(label)
        added = (changed.image.int() - image).numpy()
        assert (added >= 0).all() or bones
        draw, z = pretrain_data.case_of(plain, index, name)
        assert not (added[pretrain_data.near_arteries(draw, z, 4.0) > 0] > 50).any()
        spots += int((added > 90).sum())
    assert spots > 20


def test_vessels_of_a_bundle_are_equally_bright(pretrain_decoys):
    hu, free = np.full((200, 200), -80, np.float32), np.zeros((50, 50), bool)
    free[20:30, 20:30] = True
    pretrain_decoys.add_vessels(hu, free, 4, 0.7, np.random.default_rng(3))
    assert (hu >= -80).all()
    middles = ndimage.maximum_filter(hu, 5)
    levels = np.unique(np.round(hu[(hu == middles) & (hu > 100)] / 25))
    assert 1 <= len(levels) <= 6  # of at most three bundles
    rows, columns = np.nonzero(hu > -70)
    far = 4 * 1.5 + 8 / 0.7  # pixels, from a vessel's middle
    assert min(rows.min(), columns.min()) > 80 - far
    assert max(rows.max(), columns.max()) < 120 + far


@pytest.mark.parametrize(("bones", "hollow"), [(0.0, False), (1.0, True)])
def test_bones_have_a_shell_around_marrow(bones, hollow, pretrain_data, pretrain_decoys):
    plain = pretrain_data.slices(256, 12, 0, (200.0, 240.0))
    changed = pretrain_decoys.Decoys(plain, bones=pretrain_decoys.Bones(part=bones))
    middles = []
    for i in range(len(plain)):
        added = (changed[i].image.int() - plain[i].image).numpy()
        spots, _ = ndimage.label(ndimage.binary_fill_holes(added > 40))
        for index, box in enumerate(ndimage.find_objects(spots), 1):
            inside = ndimage.distance_transform_edt(spots[box] == index)
            if 5 < inside.max() < 8:  # pixels: one spot, not small
                middles.append(added[box][inside == inside.max()].mean() / added[box].max())
    assert len(middles) > 5
    assert (np.median(middles) < 0.7) == hollow


def test_places_in_the_wall_lie_around_the_cavity(pretrain_data, pretrain_decoys):
    plain = pretrain_data.abdomens(512, 4, 0, (300.0, 550.0))
    for index in range(4):
        draw, z = pretrain_data.case_of(plain, index, plain[index].name)
        cavity, place = draw.anatomy.cavity, draw.placement
        xs, ys = place.frame_grid(round(z / place.slice_mm + (place.slices - 1) / 2), np.arange(512.0))
        for angle in np.linspace(-np.pi, np.pi, 9)[:-1]:
            row, column, direction = pretrain_decoys.in_wall(draw, z, angle, 10.0)
            before, after = (pretrain_decoys.in_wall(draw, z, angle + step, 10.0) for step in (-0.2, 0.2))
            chord = np.arctan2(after[0] - before[0], after[1] - before[1])
            assert np.cos(direction - chord) > 0.95
            if not (0 <= row < 512 and 0 <= column < 512):
                continue
            x, y = xs[row, column] - cavity.x, ys[row, column] - cavity.y
            assert np.hypot(x / (cavity.a + 10), y / (cavity.b + 10)) == pytest.approx(1, abs=0.05)
            assert np.arctan2(y / cavity.b, x / cavity.a) == pytest.approx(angle, abs=0.1) or abs(angle) > 3


def test_ribs_lie_along_the_wall(pretrain_data, pretrain_decoys):
    plain = pretrain_data.abdomens(512, 6, 0, (400.0, 550.0))
    changed, inside = pretrain_decoys.Decoys(plain, bones=pretrain_decoys.Bones(part=1.0, ribs=True)), []
    for index in range(6):
        draw, z = pretrain_data.case_of(plain, index, plain[index].name)
        cavity, place = draw.anatomy.cavity, draw.placement
        xs, ys = place.frame_grid(round(z / place.slice_mm + (place.slices - 1) / 2), np.arange(512.0))
        added = (changed[index].image.int() - plain[index].image).numpy() > 250
        far = np.hypot((xs - cavity.x) / (cavity.a + 7), (ys - cavity.y) / (cavity.b + 7))[added]
        inside.append((abs(far - 1) < 0.2).mean() if added.any() else np.nan)
    assert np.nanmean(inside) > 0.5


def test_more_spots_lie_in_the_aorta(pretrain_data, pretrain_decoys):
    plain, inside = pretrain_data.slices(512, 40, 0, (160.0, 500.0)), {False: 0, True: 0}
    for index in range(40):
        image, _, name = plain[index]
        draw, z = pretrain_data.case_of(plain, index, name)
        rows, columns = np.indices(image.shape)
        place = draw.placement
        frame_z = (z - place.shift[2]) / place.scale
        aorta = np.zeros(image.shape, bool)
        for kind in ("aorta", "descending_aorta"):
            ellipse = draw.anatomy.structures[kind].at(frame_z)
            if ellipse is not None:
                column, row = place.pixels(ellipse.x, ellipse.y, frame_z)
                reach = 1.3 * max(ellipse.a, ellipse.b) * place.scale / place.pixel_mm
                aorta |= np.hypot(rows - row, columns - column) < reach
        for more in inside:
            options = {"bones": pretrain_decoys.Bones(part=0.4), "aorta": more}
            hu = pretrain_decoys.with_decoys(image, draw, z, np.random.default_rng(index), **options)
            near = pretrain_data.near_arteries(draw, z, 3.0) > 0
            added = (hu.int() - image).numpy()
            assert (abs(added[near]) < 50).all()
            inside[more] += int(((added > 100) & aorta).sum())
    assert inside[True] > 4 * inside[False]
