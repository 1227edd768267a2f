"""The image chain: point spread, streaks, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import needs_extra
from ddrsapc.phantom.parameters import PhantomParameters

__all__ = ["Acquisition", "blurred", "draw_acquisition", "noise_field", "noise_kernel"]

Array = NDArray[Any]
_SHORTEST = 5e-4  # of a tap's weight
_NORM = 300  # of the noise kernel


@dataclass(frozen=True)
class Acquisition:
    """How a case is scanned and reconstructed."""

    psf_sigma: float
    """mm, in the slice."""
    undershoot: float
    """Weight of the wider Gaussian that a sharp kernel subtracts; 0 for a smooth one."""
    noise_sd: float
    """HU in the middle of the field."""
    noise_frequency: float
    """Factor on the spectrum's frequencies."""
    streak_sd: float
    """HU in the middle of the field."""
    motion: float
    """mm that the right coronary artery moves during the scan; 0 for none."""
    motion_angle: float
    """Radians, of the way in the slice."""


def draw_acquisition(parameters: PhantomParameters, rng: np.random.Generator) -> Acquisition:
    """A random scan."""
    p = parameters
    sharp, moving = rng.random(2)
    undershoot, motion = rng.uniform(*p.undershoot), rng.uniform(*p.motion)
    return Acquisition(
        psf_sigma=rng.uniform(*p.psf_sigma),
        undershoot=undershoot if sharp < p.sharp_rate else 0.0,
        noise_sd=rng.uniform(*p.noise_sd),
        noise_frequency=rng.uniform(*p.noise_frequency) * (p.sharp_noise if sharp < p.sharp_rate else 1.0),
        streak_sd=rng.uniform(*p.streak_sd),
        motion=motion if moving < p.motion_rate else 0.0,
        motion_angle=rng.uniform(0, 2 * math.pi),
    )


def blurred(image: Array, acquisition: Acquisition, pixel_mm: float) -> Array:
    """An image (H, W) after the point spread; the sum stays, but for what leaves at the border.

    Beyond the border the image goes on with its outermost pixels.
    """
    result = _gaussian(image, acquisition.psf_sigma / pixel_mm)
    if acquisition.undershoot:
        weight = acquisition.undershoot
        result *= np.float32(1 + weight)
        result -= np.float32(weight) * _gaussian(image, 2.2 * acquisition.psf_sigma / pixel_mm)
    return result


def reach(acquisition: Acquisition, pixel_mm: float) -> int:
    """How many pixels the point spread reaches."""
    sigma = acquisition.psf_sigma / pixel_mm
    return len(_taps(2.2 * sigma if acquisition.undershoot else sigma))


@lru_cache(maxsize=64)
def _taps(sigma: float) -> tuple[float, ...]:
    """Weights of the middle pixel and its neighbours on one side: a Gaussian's integrals over pixels."""

    def below(x: float) -> float:
        return 0.5 * (1 + math.erf(x / (sigma * math.sqrt(2))))

    weights: list[float] = []
    place = 0
    while place == 0 or weights[-1] > _SHORTEST:
        weights.append(below(place + 0.5) - below(place - 0.5))
        place += 1
    total = weights[0] + 2 * sum(weights[1:])
    return tuple(weight / total for weight in weights)


def _gaussian(image: Array, sigma: float) -> Array:
    # sums of shifted arrays: no library's loop decides on the rounding
    taps = _taps(round(sigma, 6))
    far = len(taps) - 1
    for axis in (0, 1):
        padded = np.pad(image, [(far, far) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        result = _part(padded, axis, far, image.shape) * image.dtype.type(taps[0])
        both = np.empty_like(result)
        for by, tap in enumerate(taps[1:], 1):
            np.add(_part(padded, axis, far - by, image.shape), _part(padded, axis, far + by, image.shape), out=both)
            both *= image.dtype.type(tap)
            result += both
        image = result
    return image


def _part(padded: Array, axis: int, start: int, shape: tuple[int, ...]) -> Array:
    """The part of this shape that begins at `start` along an axis, and at 0 along the other."""
    rows, columns = (slice(start, start + shape[a]) if a == axis else slice(None) for a in (0, 1))
    return padded[rows, columns]


def noise_kernel(parameters: PhantomParameters, acquisition: Acquisition, pixel_mm: float) -> NDArray[np.int16]:
    """The kernel (n, n) that white noise is shaped by, whole numbers of norm about 300.

    Its spectrum is the square root of the measured noise power.
    """
    n = 128
    frequency = np.fft.fftfreq(n, pixel_mm)  # line pairs per mm
    radius = np.sqrt(frequency[:, None] ** 2 + frequency[None] ** 2) / acquisition.noise_frequency
    power = np.interp(radius, parameters.noise_frequencies, parameters.noise_power, right=0.0)
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(power)).real)[1:, 1:]  # (n - 1, n - 1), symmetric
    if not np.abs(kernel).max() > 0:  # pixels so large that the spectrum has nothing for them
        kernel[n // 2 - 1, n // 2 - 1] = 1
    whole = np.rint(_NORM * kernel / np.sqrt((kernel * kernel).sum())).astype(np.int16)
    rows = np.flatnonzero(whole.any(1))
    far = n // 2 - 1 - int(rows[0])
    return whole[rows[0] : rows[0] + 2 * far + 1, rows[0] : rows[0] + 2 * far + 1]


def noise_field(size: int, kernel: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise (size, size) of SD 1 with the kernel's spectrum.

    White noise and kernel are whole numbers, and so is their convolution: the Fourier transform's errors, which
    differ between machines, are rounded away.
    """
    with needs_extra("phantom"):
        from scipy import fft  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra

    pixels = size * size
    raw = rng.bit_generator.random_raw(-(-pixels // 2)).astype("<u8", copy=False).view(np.uint8)  # 4 bytes a pixel
    quarter = raw.reshape(4, -1)[:, :pixels].astype(np.float32)
    white = (quarter[0] + quarter[1] + quarter[2] + quarter[3] - np.float32(510)).reshape(size, size)
    far = len(kernel) // 2
    wide = np.zeros((size, size), np.float32)
    offset = (np.arange(-far, far + 1)) % size
    np.add.at(wide, (offset[:, None], offset[None]), kernel.astype(np.float32))
    spectrum = fft.rfft2(white)
    spectrum *= fft.rfft2(wide)
    whole = np.rint(fft.irfft2(spectrum, s=(size, size)))
    norm = math.sqrt(float((kernel.astype(np.int64) ** 2).sum()))
    return whole * np.float32(1 / (norm * math.sqrt(4 * (256**2 - 1) / 12)))
