"""A small network and small data to train on."""

import pytest

from tests.training.small import small_network, squares, write_curves


@pytest.fixture
def network():
    return small_network()


@pytest.fixture
def train_data():
    return squares(10)


@pytest.fixture
def val_data():
    return squares(5, seed=1)


@pytest.fixture(autouse=True)
def _quick_curves(monkeypatch):
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", write_curves)
