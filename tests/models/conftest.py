import numpy as np
import pytest


@pytest.fixture(scope="session")
def pixels():
    """Makes uint8 noise: pixels(n, size, channels)."""

    def make(count, size, channels, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)

    return make
