"""The calibration cylinders of the QRM cardiac calcification insert, through the phantom's image chain.

Their Agatston scores are known from a reference simulator and from real scanners: with them it shows whether point
spread, slice profile and noise make a calcification as bright and as large as a scanner does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.deposition import deposited
from ddrsapc.phantom.imaging import Acquisition, blurred, noise_field, noise_kernel
from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.tubes import smooth_curve, tube_cloud

__all__ = ["CYLINDERS", "Cylinder", "CylinderScan", "scan_cylinder"]

BACKGROUND_HU = 75.0
"""Of the insert's plastic."""
_PIXELS, _SLICES = 48, 5
_AROUND_MM = 4.0  # beyond its edge that still counts as the cylinder when it is scored


@dataclass(frozen=True)
class Cylinder:
    """A cylinder of hydroxyapatite, as long as it is wide, along the scanner's axis."""

    diameter: float
    """mm."""
    density: float
    """mg/ml."""
    reference: tuple[float, float]
    """Mean and SD of the reference simulator's Agatston score."""


CYLINDERS: dict[str, Cylinder] = {
    "L800": Cylinder(5, 800, (353, 38)),
    "M800": Cylinder(3, 800, (115, 21)),
    "L400": Cylinder(5, 400, (266, 12)),
    "M400": Cylinder(3, 400, (69, 5)),
    "L200": Cylinder(5, 200, (152, 13)),
    "M200": Cylinder(3, 200, (27, 6)),
}
"""Large and medium, by name."""


@dataclass(frozen=True, eq=False)
class CylinderScan:
    """A simulated scan of one cylinder."""

    hu: NDArray[np.int16]
    """(Z, H, W)."""
    labels: NDArray[np.uint8]
    """(Z, H, W): 1 at and around the cylinder."""
    spacing: tuple[float, float, float]
    """(z, y, x) in mm."""


def scan_cylinder(cylinder: Cylinder, seed: int, *, noise_sd: float = 21.6, psf_sigma: float = 0.68) -> CylinderScan:
    """Scan a cylinder at a random place between voxels: 0.488 mm pixels, 3 mm slices, noise in every slice.

    Args:
        cylinder: one of `CYLINDERS`.
        seed: of place and noise.
        noise_sd: HU.
        psf_sigma: of the point spread, mm.
    """
    parameters = PhantomParameters()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    place = Placement(_PIXELS, _SLICES, 0.488, 3.0, (0.0, 0.0, 0.0), 0.0, 1.0, ())
    acquisition = Acquisition(psf_sigma, 0.0, noise_sd, 1.0, 0.0, 0.0, 0.0)
    x, y, z = rng.uniform(-0.5, 0.5, 3) * np.array([place.pixel_mm, place.pixel_mm, place.slice_mm])
    half = cylinder.diameter / 2
    step = cylinder.diameter / 24
    # the curve's pieces are centred on their points: half a step in from the ends
    ends = np.array([[x, y, z - half + step / 2], [x, y, z + half - step / 2]])
    cloud = tube_cloud(smooth_curve(ends, step), half, step)
    calcium = parameters.calcium_hu + parameters.calcium_slope * cylinder.density - BACKGROUND_HU
    kernel = noise_kernel(parameters, acquisition, place.pixel_mm)
    middle = (np.arange(_PIXELS) - (_PIXELS - 1) / 2) * place.pixel_mm
    near = np.hypot(middle[:, None] - y, middle[None] - x) <= half + _AROUND_MM  # (H, W)
    hu, labels = [], []
    for index in range(_SLICES):
        level = place.slice_z(index)
        image = np.full((_PIXELS, _PIXELS), BACKGROUND_HU)
        found = deposited(cloud, place, level)
        if found is not None:
            image[found.box] += calcium * found.share
        image = blurred(image, acquisition, place.pixel_mm) + noise_sd * noise_field(_PIXELS, kernel, rng)
        hu.append(np.rint(image).astype(np.int16))
        labels.append(near & (abs(level - z) < half + place.slice_mm / 2))
    return CylinderScan(
        np.stack(hu), np.stack(labels).astype(np.uint8), (place.slice_mm, place.pixel_mm, place.pixel_mm)
    )
