"""A small network and small data to train on."""

import pytest

from tests.training.small import small_network, squares


@pytest.fixture
def network():
    return small_network()


@pytest.fixture
def train_data():
    return squares(10)


@pytest.fixture
def val_data():
    return squares(5, seed=1)
