"""Folders of crops of two real photographs, as they are and spoilt in known ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evaluation.crop_spec import CropSpec
from evaluation.images import ImageSet, write_crops
from tests.evaluation.ablation_toys import ablated, finished

__all__ = ["ablated", "finished"]

Folders = dict[str, Path]


def shuffled(image: np.ndarray[Any, Any], rng: np.random.Generator, side: int = 32) -> np.ndarray[Any, Any]:
    """The same crops in another order."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    cells = [image[y * side : (y + 1) * side, x * side : (x + 1) * side] for y in range(rows) for x in range(columns)]
    order = rng.permutation(len(cells))
    lines = [np.concatenate([cells[order[y * columns + x]] for x in range(columns)], 1) for y in range(rows)]
    return np.concatenate(lines)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, sample_photos: dict[str, Any]) -> Folders:
    """Two draws of crops (``real``, ``other``), and the second ``blurred``, ``noised`` and ``shuffled``."""
    root = tmp_path_factory.mktemp("images")
    (root / "photos").mkdir()
    for name, photo in sample_photos.items():
        Image.fromarray(photo).save(root / "photos" / name.replace("jpg", "png"))
    for name, count, seed in (("real", 20, 0), ("other", 10, 1)):
        spec = CropSpec(crop="random", count=count, side=128, short_sides=(160, 240), seed=seed)
        write_crops(ImageSet(root / "photos", spec), root / name)
    rng = np.random.default_rng(0)
    for name in ("blurred", "noised", "shuffled"):
        (root / name).mkdir()
    for path in sorted((root / "other").iterdir()):
        image = Image.open(path)
        image.filter(ImageFilter.GaussianBlur(3)).save(root / "blurred" / path.name)
        noisy = np.asarray(image) + rng.normal(0, 60, (128, 128, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "noised" / path.name)
        Image.fromarray(shuffled(np.asarray(image), rng)).save(root / "shuffled" / path.name)
    return {path.name: path for path in root.iterdir()}
