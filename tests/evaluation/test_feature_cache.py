"""Features are computed once for each content, to the same bit whoever else is in the batch, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import feature_cache as module
from evaluation.feature_cache import BATCH, FeatureCache
from evaluation.features import Lite0Features
from evaluation.images import ImageSet
from tests.evaluation.toys import ToyFeatures


def random_images(count: int, seed: int = 0, side: int = 12) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_what_is_known_is_not_computed_again(tmp_path: Path) -> None:
    images = random_images(20)
    first, again = ToyFeatures(), ToyFeatures()
    a = FeatureCache(first, folder=tmp_path).of_crops(iter(images), count=20)
    b = FeatureCache(again, folder=tmp_path).of_crops(iter(images[::-1]), count=20)
    assert (first.seen - BATCH, again.seen - BATCH) == (2 * BATCH, 0)  # each is asked for a batch of made images
    np.testing.assert_array_equal(a.features_ND, b.features_ND[::-1])
    np.testing.assert_array_equal(a.scores_NK, b.scores_NK[::-1])
    assert a.features_ND.dtype == np.float32


def test_a_changed_pixel_and_another_network_miss(tmp_path: Path) -> None:
    images = random_images(3)
    FeatureCache(ToyFeatures(), folder=tmp_path).of_crops(iter(images), count=3)
    images[1, 0, 0, 0] ^= 1
    changed, other = ToyFeatures(), ToyFeatures(weights="other")
    FeatureCache(changed, folder=tmp_path).of_crops(iter(images), count=3)
    FeatureCache(other, folder=tmp_path).of_crops(iter(images), count=3)
    assert changed.seen == other.seen == 2 * BATCH  # one of made images
    nothing = ToyFeatures()
    FeatureCache(nothing, folder=tmp_path / "none", enabled=False).of_crops(iter(images), count=3)
    assert not (tmp_path / "none").exists()


def test_the_same_bits_from_the_cache_and_in_any_batch(tmp_path: Path) -> None:
    """Of the real network: alone, in company, and at another place of the batch."""
    extractor, images = Lite0Features(), random_images(3, side=32)
    together = FeatureCache(extractor, enabled=False).of_crops(iter(images), count=3)
    cache = FeatureCache(extractor, folder=tmp_path)
    alone = cache.of_crops(iter(images[2:]), count=1)
    np.testing.assert_array_equal(alone.features_ND[0], together.features_ND[2])
    mixed = cache.of_crops(iter(images), count=3)
    np.testing.assert_array_equal(mixed.features_ND, together.features_ND)
    np.testing.assert_array_equal(mixed.scores_NK, together.scores_NK)


def test_large_sets_lie_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(20)
    small = FeatureCache(ToyFeatures(), enabled=False).of_crops(iter(images), count=20)
    monkeypatch.setattr(module, "_IN_MEMORY", 100)
    large = FeatureCache(ToyFeatures(), enabled=False).of_crops(iter(images), count=20)
    assert isinstance(large.features_ND, np.memmap)
    np.testing.assert_array_equal(small.features_ND, large.features_ND)


def test_images_stream_through(tmp_path: Path) -> None:
    """3000 images of 27 kB: their 81 MB are never held together."""

    def stream() -> Iterator[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(0)
        for _ in range(3000):
            yield np.full((96, 96, 3), rng.integers(256, dtype=np.uint8), np.uint8)

    cache = FeatureCache(ToyFeatures(), folder=tmp_path)
    tracemalloc.start()
    found = cache.of_crops(stream(), count=3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 3000
    assert peak < 12e6


def test_of_a_set_knows_the_canvases(tmp_path: Path) -> None:
    for i, image in enumerate(random_images(2, side=24)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    from evaluation.crop_spec import CropSpec

    found = FeatureCache(ToyFeatures(), enabled=False).of_set(
        ImageSet(tmp_path, CropSpec(crop="windows", side=12)), progress=False
    )
    assert found.clusters_N.tolist() == [0] * 4 + [1] * 4
    assert FeatureCache(ToyFeatures(), enabled=False).of_crops(iter(()), count=0).features_ND.shape == (0, 27)
