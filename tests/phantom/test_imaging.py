import math

import numpy as np
import pytest

from ddrsapc.phantom import PhantomParameters
from ddrsapc.phantom.imaging import Acquisition, blurred, noise_field, noise_kernel
from ddrsapc.phantom.streaks import streaks

PARAMETERS = PhantomParameters()
PLAIN = Acquisition(0.68, 0.0, 21.6, 1.0, 0.0, 0.0, 0.0)
SHARP = Acquisition(0.68, 0.3, 21.6, 1.0, 0.0, 0.0, 0.0)
PIXEL = 0.488
# measured on the insert's scan
MTF = {0.0477: 0.977, 0.0953: 0.911, 0.143: 0.814, 0.1906: 0.7, 0.2383: 0.583, 0.2859: 0.472}


def point(dtype=np.float64):
    image = np.zeros((65, 65), dtype)
    image[32, 32] = 1
    return image


def test_point_spread_is_a_gaussian_that_keeps_the_sum():
    spread = blurred(point(), PLAIN, PIXEL)
    assert spread.sum() == pytest.approx(1)
    place = (np.arange(65) - 32) * PIXEL
    # a pixel's own width adds to the variance
    assert (spread.sum(0) * place**2).sum() == pytest.approx(0.68**2 + PIXEL**2 / 12, rel=0.02)
    assert np.array_equal(spread, spread.T)
    frequencies = np.fft.rfftfreq(65, PIXEL)
    mtf = np.abs(np.fft.rfft(spread.sum(0))) / np.sinc(frequencies * PIXEL)
    for frequency, measured in MTF.items():
        assert np.interp(frequency, frequencies, mtf) == pytest.approx(measured, abs=0.03)


def test_a_sharp_kernel_undershoots_and_keeps_the_sum():
    spread = blurred(point(), SHARP, PIXEL)
    assert spread.sum() == pytest.approx(1)
    assert spread.min() < -0.001
    assert spread.max() > blurred(point(), PLAIN, PIXEL).max()


def test_blurring_is_local_and_flat_areas_stay():
    image = np.full((40, 40), 55.0, np.float32)
    assert blurred(image, SHARP, PIXEL) == pytest.approx(image, abs=1e-4)
    assert blurred(image, PLAIN, PIXEL).dtype == np.float32


@pytest.fixture(scope="module")
def noise():
    kernel = noise_kernel(PARAMETERS, PLAIN, PIXEL)
    rng = np.random.default_rng(0)
    return np.stack([noise_field(256, kernel, rng) for _ in range(8)])


def test_noise_has_the_measured_spectrum(noise):
    assert noise.std() == pytest.approx(1, rel=0.02)
    assert abs(noise.mean()) < 0.01
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    frequency = np.fft.fftfreq(256, PIXEL)
    radius = np.hypot(frequency[:, None], frequency[None])
    measured = np.array([power[np.abs(radius - f) < 0.025].mean() for f in PARAMETERS.noise_frequencies])
    wanted = np.array(PARAMETERS.noise_power)
    assert measured[1:] / measured[1:].mean() == pytest.approx(wanted[1:] / wanted[1:].mean(), abs=0.12)
    # the scan's own: 1, 0.65, 0.11, -0.13
    lags = [(noise[:, :, : 256 - lag] * noise[:, :, lag:]).mean() for lag in range(4)]
    assert lags == pytest.approx([1, 0.65, 0.11, -0.13], abs=0.08)


def test_noise_is_of_whole_numbers_so_that_no_machine_differs(noise):
    kernel = noise_kernel(PARAMETERS, PLAIN, PIXEL).astype(np.int64)
    unit = 1 / math.sqrt(float((kernel**2).sum()) * 4 * (256**2 - 1) / 12)
    whole = noise[0].astype(np.float64) / unit
    assert np.abs(whole - np.rint(whole)).max() < 0.02
    assert kernel.shape[0] % 2 == 1
    assert np.array_equal(kernel, kernel[::-1, ::-1])


def test_slices_are_independent(noise):
    flat = noise.reshape(8, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.05


@pytest.mark.parametrize("pixel", [0.3125, 0.78, 1.7, 6.0])
def test_noise_of_any_pixel_size_has_sd_1(pixel):
    kernel = noise_kernel(PARAMETERS, PLAIN, pixel)
    assert noise_field(128, kernel, np.random.default_rng(0)).std() == pytest.approx(1, rel=0.08)


def test_streaks_come_from_what_is_dense():
    y, x = np.mgrid[:192, :192] - 95.5
    body = np.where(np.hypot(x, y) < 80, 40, -1000).astype(np.float32)
    quiet = streaks(PARAMETERS, body, 4.0, np.random.default_rng(0))
    assert quiet.shape == body.shape
    assert quiet.dtype == np.float32
    assert 2 < quiet.std() < 8
    assert np.abs(streaks(PARAMETERS, body, 0.0, np.random.default_rng(0))).max() < 1
    metal = body.copy()
    metal[88:104, 30:42] = metal[88:104, 150:162] = 2500
    added = streaks(PARAMETERS, metal, 0.0, np.random.default_rng(0))
    assert added[92:100, 80:110].mean() < -3  # dark between the two
    assert added[20:60, 80:110].mean() > added[92:100, 80:110].mean() + 3
