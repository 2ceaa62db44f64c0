"""Fixtures that several test modules share."""

import tracemalloc
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import sklearn_simclr
from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ConvNetEncoder

torch.set_num_threads(1)  # the networks here are so small that threads only cost time


def pytest_collection_modifyitems(items):
    """Skip the doctests of what cannot be installed with the newest Python yet."""
    if find_spec("onnxruntime"):
        return
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            if any("import onnxruntime" in example.source for example in item.dtest.examples):
                item.add_marker(pytest.mark.skip("onnxruntime is not installed"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def _read_only(*arrays):
    for array in arrays:
        array.flags.writeable = False
    return arrays


@pytest.fixture(scope="session")
def digits():
    """64 images (8, 8) of float64 in 0..16, and their labels; read-only, as all data here."""
    images, labels = load_digits(return_X_y=True)
    return _read_only(images[:64].reshape(-1, 8, 8).copy(), labels[:64].copy())


@pytest.fixture(scope="session")
def photos():
    """32 images (16, 16, 3) of uint8 from 0 to 255, and labels that their colours tell apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    colours = np.array([[90, 60, 30], [30, 60, 90]])[labels][:, None, None]
    images = (colours + rng.integers(0, 160, (32, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    return _read_only(images, labels)


@pytest.fixture(scope="session")
def vectors():
    """48 vectors (6,) of float64."""
    return _read_only(np.random.default_rng(0).normal(3, 2, (48, 6)))[0]


@pytest.fixture(scope="session")
def root():
    """Folder that the package was imported from, for the path of another process."""
    return str(Path(sklearn_simclr.__file__).parents[1])


@pytest.fixture(scope="session")
def peak_of():
    """Return a function that calls one; returns its result and the most bytes held meanwhile."""

    def measure(function):
        tracemalloc.start()
        try:
            return function(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


@pytest.fixture
def simclr():
    """Return a function that makes a transformer so small that it trains in milliseconds."""
    return partial(
        SimCLRTransformer,
        encoder=ConvNetEncoder(width=4, n_layers=2),
        projection_dim=8,
        batch_size=16,
        max_epochs=2,
        random_state=0,
    )
