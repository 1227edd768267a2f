import math

import pytest
import torch
import torch.nn.functional as F

from ddrsapc.data.augment import Augmentation, _affine_grid

NOTHING = {"shift": 0.0, "scale": (1.0, 1.0), "rotation": 0.0, "noise": 0.0, "gain": 0.0, "offset": 0.0}
GEOMETRY = {
    "shift": {"shift": 0.2},
    "scale": {"scale": (0.6, 1.6)},
    "rotation": {"rotation": 180.0},
    "crop": {"crop": 40},
    "mirror": {"mirror": 0.5},
    "together": {"shift": 0.1, "scale": (0.8, 1.3), "rotation": 30.0, "crop": 48, "mirror": 0.5},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def augment(hu, labels, seed=0, fill=-1000.0, **options):
    """With these changes only."""
    return Augmentation(**{**NOTHING, **options})(hu, labels, generator=seeded(seed), fill=fill)


def batch(n=3, c=1, h=20, w=30, seed=0):
    hu = (torch.rand(n, c, h, w, generator=seeded(seed)) * 2000 - 1000).round()
    labels = torch.randint(0, 5, (n, h, w), generator=seeded(seed + 1), dtype=torch.uint8)
    labels[:, :2, :2] = 255
    return hu, labels


def square(n=8, h=64, w=80):
    """Bright squares of 20 x 20 pixels near the middle on 0 HU, labelled 3, as an image and labels."""
    labels = torch.zeros(n, h, w, dtype=torch.uint8)
    labels[:, 20:40, 32:52] = 3
    return (labels == 3)[:, None] * 1000.0, labels


def centroid(mask):
    """Mean row and column of the pixels of (H, W)."""
    return mask.nonzero().double().mean(0)


def test_same_seed_same_batch_and_other_seeds_differ():
    hu, labels = batch(c=2)
    first, again, other = (Augmentation(crop=16)(hu, labels, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_every_image_draws_its_own():
    hu, labels = batch(n=1)
    out, moved = Augmentation(noise=0)(hu.expand(2, -1, -1, -1), labels.expand(2, -1, -1), generator=seeded())
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(moved[0], moved[1])


def test_leaves_the_global_rng_and_the_input_alone():
    hu, labels = batch()
    before = torch.get_rng_state(), hu.clone(), labels.clone()
    Augmentation(crop=16, mirror=0.5)(hu, labels, generator=seeded())
    for old, new in zip(before, (torch.get_rng_state(), hu, labels), strict=True):
        assert torch.equal(old, new)


def test_nothing_asked_nothing_changed():
    hu, labels = torch.randn(2, 3, 7, 9, generator=seeded()) * 1000, batch(2, 1, 7, 9)[1]
    out, kept = augment(hu, labels)
    assert torch.equal(out, hu)
    assert torch.equal(kept, labels)


@pytest.mark.parametrize("options", GEOMETRY.values(), ids=GEOMETRY)
def test_labels_and_image_move_together(options):
    hu, labels = square()
    out, moved = augment(hu, labels, fill=0.0, calcium_crops=1.0, **options)
    assert moved.dtype == torch.uint8
    assert out.dtype == torch.float32
    for image, mask in zip(out[:, 0] > 500, moved == 3, strict=True):
        assert (image & mask).sum() / (image | mask).sum() > 0.9


@pytest.mark.parametrize("options", GEOMETRY.values(), ids=GEOMETRY)
def test_no_new_labels(options):
    labels = torch.zeros(4, 33, 47, dtype=torch.uint8)
    labels[:, 8:20, 10:30], labels[:, 20:30, 10:30] = 2, 254
    _, moved = augment(torch.zeros(4, 1, 33, 47), labels, **options)
    assert set(moved.unique().tolist()) <= {0, 2, 254, 255}


def sampled(hu, degrees=0.0, zoom=1.0):
    """`hu` turned and zoomed about its middle by `_affine_grid`, outside zero."""
    n, _, h, w = hu.shape
    grid = _affine_grid(
        (h, w),
        (h, w),
        angle=torch.full((n,), math.radians(degrees)),
        zoom=torch.full((n,), zoom),
        mirrored=torch.zeros(n, dtype=torch.bool),
        fixed=torch.tensor([(h - 1) / 2, (w - 1) / 2])[:, None].expand(2, n),
        place=torch.zeros(2, n),
    )
    return F.grid_sample(hu, grid, align_corners=False)


def test_positive_angles_turn_as_rot90():
    hu = batch(h=24, w=24)[0]
    torch.testing.assert_close(sampled(hu, 90), torch.rot90(hu, 1, (2, 3)), rtol=0, atol=0.1)


def test_turns_without_distortion_where_not_square():
    hu = torch.zeros(1, 1, 32, 64)
    hu[:, :, 8:24, 24:40] = batch(h=16, w=16)[0][:1]  # a square in the middle
    expected = torch.zeros_like(hu)
    expected[:, :, 8:24, 24:40] = torch.rot90(hu[:, :, 8:24, 24:40], 1, (2, 3))
    torch.testing.assert_close(sampled(hu, 90), expected, rtol=0, atol=0.1)


def test_zoom_2_shows_the_middle_half_twice_as_large():
    hu = batch(h=24, w=40)[0]
    expected = F.interpolate(hu, scale_factor=2, mode="bilinear", align_corners=False)[:, :, 12:36, 20:60]
    torch.testing.assert_close(sampled(hu, zoom=2.0), expected, rtol=0, atol=0.1)


def test_rotation_and_zoom_fill_their_ranges():
    labels = torch.zeros(200, 60, 90, dtype=torch.uint8)
    labels[:, 28:32, 43:47], labels[:, 28:32, 57:61] = 1, 2  # in the middle, and 14 pixels to the right
    _, moved = augment(torch.zeros(200, 1, 60, 90), labels, rotation=40.0, scale=(0.8, 1.4))
    down, right = torch.stack([centroid(m == 2) - centroid(m == 1) for m in moved]).unbind(1)
    angle, zoom = torch.rad2deg(torch.atan2(-down, right)), torch.hypot(down, right) / 14
    assert -42 < angle.min() < -36
    assert 36 < angle.max() < 42
    assert 0.76 < zoom.min() < 0.84
    assert 1.34 < zoom.max() < 1.44


def test_shifts_are_fractions_of_each_side():
    labels = torch.zeros(200, 40, 80, dtype=torch.uint8)
    labels[:, 19:21, 39:41] = 1
    _, moved = augment(torch.zeros(200, 1, 40, 80), labels, shift=0.25)
    shifts = torch.stack([centroid(m == 1) for m in moved]) - centroid(labels[0] == 1)
    for shift, bound in zip(shifts.unbind(1), (10, 20), strict=True):
        assert bound - 2 < shift.max() <= bound + 0.5
        assert bound - 2 < -shift.min() <= bound + 0.5


def test_outside_is_fill_and_ignored():
    hu, labels = torch.full((1, 2, 8, 12), 40.0), torch.zeros(1, 8, 12, dtype=torch.uint8)
    out, moved = augment(hu, labels, crop=20, gain=0.1, offset=30.0, fill=-900.0)
    assert (moved == 255).sum() == 20 * 20 - 8 * 12
    assert torch.equal(out[:, 0] == -900, moved == 255)
    assert torch.equal(out[:, 0], out[:, 1])


@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("crop", [1, 12, 15])
@pytest.mark.parametrize("calcium_crops", [0.0, 1.0])
def test_crops_are_copies(crop, calcium_crops, mirror):
    h, w = 37, 51
    hu = torch.arange(4.0 * h * w).reshape(4, 1, h, w) / 4  # every pixel is another number
    labels = batch(4, h=h, w=w)[1]
    out, cut = augment(hu, labels, crop=crop, calcium_crops=calcium_crops, mirror=mirror)
    if mirror:
        out, cut = out.flip(3), cut.flip(2)
    hu, labels = (F.pad(x, (crop,) * 4, value=value) for x, value in ((hu, -1000.0), (labels, 255)))
    for image, mask, x, y in zip(out[:, 0], cut, hu[:, 0], labels, strict=True):
        row, column = divmod(image.argmax().item(), crop)  # the largest is not filled
        there = ((x - image[row, column]).abs() < 1e-3).nonzero()[0].tolist()
        top, left = there[0] - row, there[1] - column
        window = (slice(top, top + crop), slice(left, left + crop))
        torch.testing.assert_close(image, x[window], rtol=0, atol=1e-3)
        assert torch.equal(mask, y[window])


def test_random_crops_reach_all_of_the_image_and_nothing_else():
    hu = torch.arange(7.0 * 9).reshape(1, 1, 7, 9).expand(300, -1, -1, -1)
    out, cut = augment(hu, torch.zeros(300, 7, 9, dtype=torch.uint8), crop=4, calcium_crops=1.0)  # no foreground
    assert (cut == 0).all()
    corners = out[:, 0, 0, 0].round().long()
    assert set(corners.tolist()) == {9 * row + column for row in range(4) for column in range(6)}


@pytest.mark.parametrize("options", [{}, {"shift": 0.5, "scale": (0.4, 2.0), "rotation": 180.0, "mirror": 0.5}])
@pytest.mark.parametrize("pixel", [(0, 0), (20, 33), (39, 59)])
def test_calcium_crops_have_the_pixel_in_their_central_half(pixel, options):
    labels = torch.zeros(200, 40, 60, dtype=torch.uint8)
    labels[:, pixel[0], pixel[1]] = 4
    labels[:, 30, :20] = 255  # not foreground
    _, cut = augment(torch.zeros(200, 1, 40, 60), labels, crop=16, calcium_crops=1.0, **options)
    assert (cut == 4).flatten(1).any(1).all()
    if not options:
        places = (cut == 4).nonzero()[:, 1:]
        assert len(places) == 200
        assert all(set(along.tolist()) == set(range(4, 12)) for along in places.unbind(1))


def test_calcium_crops_come_in_their_share_and_take_all_pixels():
    labels = torch.zeros(400, 100, 100, dtype=torch.uint8)
    labels[:, 0, 0], labels[:, 0, 99], labels[:, 99, 0] = 1, 2, 3
    _, cut = augment(torch.zeros(400, 1, 100, 100), labels, crop=8, calcium_crops=0.6)
    found = [((cut == value).flatten(1).any(1)).double().mean().item() for value in (1, 2, 3)]
    assert found == pytest.approx([0.2] * 3, abs=0.07)


def test_empty_images_beside_others():
    hu, labels = batch(n=2)
    labels[0] = 0
    labels[1] = 255
    out, cut = augment(hu, labels, crop=8, calcium_crops=1.0)
    assert (cut[0] == 0).all()
    assert (cut[1] == 255).all()
    assert out.isfinite().all()


def test_a_mirror_would_swap_the_vessels():
    # Why `mirror` is 0: vessels have a side. Mirrored, calcium labelled LAD lies where the RCA runs
    # and looks like it, and the network would be taught the wrong vessel.
    assert Augmentation().mirror == 0
    lad, rca = 1, 3
    labels = torch.zeros(1, 20, 30, dtype=torch.uint8)
    labels[:, 8:10, 5:7], labels[:, 8:10, 23:25] = rca, lad  # the patient's right is on the image's left
    hu = (labels > 0)[:, None] * 600.0
    as_is, kept = augment(hu, labels)
    mirrored, swapped = augment(hu, labels, mirror=1.0)
    torch.testing.assert_close(mirrored, as_is, rtol=0, atol=1e-3)  # the same picture ...
    assert torch.equal(swapped == lad, kept == rca)  # ... with the other vessels' names
    assert torch.equal(swapped == rca, kept == lad)


def test_mirror_has_its_probability():
    hu = torch.arange(4.0).expand(400, 1, 3, 4)
    out, _ = augment(hu, torch.zeros(400, 3, 4, dtype=torch.uint8), mirror=0.3)
    assert (out[:, 0, 0, 0] > 1).double().mean().item() == pytest.approx(0.3, abs=0.07)


def test_noise_is_white_with_deviations_up_to_the_bound():
    labels = batch(100, h=32, w=32)[1]
    out, kept = augment(torch.full((100, 1, 32, 32), 50.0), labels, noise=20.0)
    sd = out.flatten(1).std(1)
    assert torch.equal(kept, labels)
    assert sd.min() < 2
    assert 18 < sd.max() < 22
    assert sd.mean().item() == pytest.approx(10, abs=1.5)
    rest = out - 50
    assert abs(rest.mean()) < 0.3
    assert abs((rest[..., 1:] * rest[..., :-1]).mean() / rest.square().mean()) < 0.03


def test_gain_is_about_water_and_offset_the_same_everywhere():
    hu = torch.tensor([0.0, 1000.0, -1000.0]).expand(300, 2, 1, 3)
    labels = torch.ones(300, 1, 3, dtype=torch.uint8)
    out, kept = augment(hu, labels, gain=0.05, offset=20.0)
    assert torch.equal(kept, labels)
    assert torch.equal(out[:, 0], out[:, 1])
    offset, gain = out[:, 0, 0, 0], (out[:, 0, 0, 1] - out[:, 0, 0, 2]) / 2000 - 1
    for drawn, bound in ((offset, 20.0), (gain, 0.05)):
        assert 0.95 * bound < drawn.max() <= bound * 1.001
        assert 0.95 * bound < -drawn.min() <= bound * 1.001
    scaled, _ = augment(hu, labels, gain=0.05)
    assert (scaled[..., 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16, torch.int32])
@pytest.mark.parametrize("options", [{}, {"shift": 0.1, "noise": 5.0}])
def test_other_dtypes_are_converted(dtype, options):
    hu, labels = batch()
    out, _ = augment(hu.to(dtype), labels, **options)
    assert out.dtype == torch.float32
    assert torch.equal(out, augment(hu.to(dtype).float(), labels, **options)[0])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("shift", [-0.1, 1.1, math.nan]),
        ("scale", [(0.0, 1.0), (1.2, 0.8), (1.0, math.inf), (math.nan, 1.0), (1.0,)]),
        ("rotation", [-1.0, 181.0, math.nan]),
        ("noise", [-1.0, math.inf, math.nan]),
        ("gain", [-0.1, 1.5, math.nan]),
        ("offset", [-1.0, math.inf, math.nan]),
        ("crop", [0, -4, 64.0, True]),
        ("calcium_crops", [-0.1, 1.1, math.nan]),
        ("mirror", [-0.1, 1.1, math.nan]),
    ],
)
def test_bad_values_are_named(field, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{field} must be .*got"):
            Augmentation(**{field: value})


def test_bad_batches():
    hu, labels = batch()
    for bad in (hu[0], hu[:0]):
        with pytest.raises(ValueError, match="expected a non-empty batch"):
            augment(bad, labels)
    with pytest.raises(ValueError, match="expected labels"):
        augment(hu, labels[:, 1:])
    with pytest.raises(TypeError, match=r"labels\.to\(torch\.uint8\)"):
        augment(hu, labels.long())
