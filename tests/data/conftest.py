"""Folders of image/label pairs to read."""

import numpy as np
import pytest


@pytest.fixture
def add_pair():
    """Writes a pair of `.npy` files: noise around water, and labels with a square of each class."""

    def add(folder, name, *, shape=(48, 40), seed=0, image=None, label=None):
        if image is None:
            image = np.random.default_rng(seed).normal(40, 20, shape).astype(np.int16)
        if label is None:
            label = np.zeros(shape, dtype=np.uint8)
            for c in (1, 2, 3):
                label[..., 10 * c : 10 * c + 3, 8:12] = c
                image = np.where(label == c, 200 * c, image).astype(image.dtype)
        for kind, array in (("images", image), ("labels", label)):
            path = folder / kind / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)

    return add
