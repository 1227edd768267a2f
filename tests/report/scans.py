"""Invented scans with calcium."""

from pathlib import Path

import numpy as np

from ddrsapc.ct import Volume, VolumeMeta
from ddrsapc.scoring import VESSELS, score_volume


def volume_of(hu, spacing=(3.0, 0.5, 0.5), *, axes=((1, 0, 0), (0, 1, 0), (0, 0, 1)), **meta):
    """A scan; `axes`: where a column, a row and a slice further lead, to the left, back and head."""
    z, y, x = spacing
    affine = np.eye(4)
    affine[:3, :3] = np.array(axes).T * [x, y, z]
    affine[2, 3] = 100.0
    positions = affine[2, 3] * affine[2, 2] / z + np.arange(len(hu)) * z
    meta = {"format": "nifti", "files": (Path("/folder/p07.nii.gz"),), **meta}
    return Volume(hu.astype(np.int16), spacing, affine, positions, VolumeMeta(**meta))


def scan_of(spots, shape=(6, 60, 80), spacing=(3.0, 0.5, 0.5), *, vessels=VESSELS, mass_factor=None, **meta):
    """A scan, its labels and score; `spots`: (label, slice, row, column) of 4 x 4 pixels of 400 + 50 label HU."""
    hu = np.random.default_rng(0).normal(40, 15, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    for label, z, y, x in spots:
        hu[z, y : y + 4, x : x + 4] = 400 + 50 * label
        labels[z, y : y + 4, x : x + 4] = label
    volume = volume_of(hu, spacing, **meta)
    options = {"vessels": vessels, "mass_factor": mass_factor, "kvp": volume.meta.kvp}
    return volume, labels, score_volume(volume.hu, labels, spacing, **options)


SPOTS = [(1, 1, 10, 20), (1, 2, 12, 21), (2, 2, 30, 50), (3, 4, 40, 12), (1, 4, 8, 60)]
