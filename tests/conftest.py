"""What every test shares: one thread, quiet hypothesis settings, and two real photographs."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: the tests are tiny and run side by side, more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parent.parent

# No deadline: a shared two-core machine is slow now and then. The same examples every time: a red run can be repeated.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sample_photos() -> dict[str, NDArray[np.uint8]]:
    """scikit-learn's two sample photographs, uint8 (427, 640, 3), by file name."""
    from sklearn.datasets import load_sample_image

    return {name: np.ascontiguousarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")}
