"""Small images made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.data import landscape_photos

Paint = Callable[..., Path]


def painted(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image, different for every seed, that survives JPEG."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(random.uniform(1, 6) * x + random.uniform(1, 6) * y + random.uniform(0, 6)) for _ in range(3)]
    return np.rint(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Write an image below the test's folder and return its path."""

    def write(name: str, height: int = 48, width: int = 64, seed: int = 0, **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted(height, width, seed)).save(path, **options)
        return path

    return write


@pytest.fixture
def photo_folder(tmp_path: Path, paint: Paint) -> Path:
    """Twelve photos of 48x64 px in two sub-folders."""
    for number in range(12):
        paint(f"photos/{'ab'[number % 2]}/{number:02}.png", seed=number)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache, or sees another catalogue than it asks for."""
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    landscape_photos.load_catalogue.cache_clear()
    return tmp_path / "cache"
