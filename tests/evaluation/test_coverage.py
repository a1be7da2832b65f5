"""How often 95 % intervals hold the number that they are of: simulated, over 200 repeats and more for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from evaluation import inception_score as classes
from evaluation.blocks import BlockSet, by_position
from evaluation.estimates import Distance, Estimate, of_mean, of_median, of_share
from evaluation.feature_cache import FeatureSet
from evaluation.fid import fid, frechet_distance
from evaluation.kid import kid
from evaluation.manifold import manifold
from evaluation.mind import mind
from evaluation.perceptual import _of_pairs_that_share
from evaluation.report.study import over_seeds
from evaluation.seams import seam_ratio

pytestmark = pytest.mark.slow
Rng = np.random.Generator
_DIM = 16
_MIX = np.random.default_rng(99).normal(size=(_DIM, _DIM)) / 4


def features(rng: Rng, n: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray[Any, Any]:
    """Skewed and correlated, as those of networks are."""
    return np.asarray(np.abs(scale * rng.normal(size=(n, _DIM)) @ _MIX) + shift)


def photographs(rng: Rng, count: int, crops: int) -> tuple[Any, Any]:
    """Crops of one photograph are alike."""
    centers = np.repeat(rng.normal(size=(count, _DIM)), crops, axis=0)
    mixed = 0.8 * centers + 0.6 * rng.normal(size=(count * crops, _DIM))
    return np.abs(mixed @ _MIX), np.repeat(np.arange(count), crops)


def held(make: Callable[[Rng], Estimate | Distance], truth: float, repeats: int = 400) -> float:
    found = [make(np.random.default_rng(seed)) for seed in range(repeats)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def expected(make: Callable[[Rng], float], repeats: int = 2000) -> float:
    return float(np.mean([make(np.random.default_rng(10**6 + seed)) for seed in range(repeats)]))


def check(share: float, repeats: int = 400, *, low: float = 0.93, high: float = 0.97) -> None:
    """Within what is said, give or take 1.64 standard errors of so few repeats."""
    slack = 1.64 * np.sqrt(0.05 * 0.95 / repeats)
    assert low - slack <= share <= high + slack, share


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("subset", [None, 30])
def test_kid(shift: float, subset: int | None) -> None:
    def make(rng: Rng) -> Distance:
        return kid(features(rng, 100), features(rng, 48, shift=shift), subset_size=subset, subsets=100)

    check(held(make, expected(lambda rng: kid(features(rng, 100), features(rng, 48, shift=shift)).value)))


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_kid_of_crops_of_few_photographs(shift: float) -> None:
    def make(rng: Rng) -> Distance:
        x, own = photographs(rng, 24, 6)
        return kid(x, features(rng, 48, shift=shift), clusters_N=own)

    check(held(make, 0.0 if not shift else expected(lambda rng: make(rng).value)))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 0.3), (0.6, 0.0)])
def test_mind(scale: float, shift: float) -> None:
    def make(rng: Rng) -> Distance:
        return mind(features(rng, 60), features(rng, 60, scale, shift), projections=50)

    share = held(make, expected(lambda rng: make(rng).value, 1500))
    # Where the distributions agree it is wider than it need be.
    check(share, high=1.0 if (scale, shift) == (1.0, 0.0) else 0.97)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 0.3), (0.6, 0.0)])
def test_fid(scale: float, shift: float) -> None:
    def draw(rng: Rng) -> tuple[Any, Any]:
        return features(rng, 60), features(rng, 40, scale, shift)

    share = held(lambda rng: fid(*draw(rng)), expected(lambda rng: frechet_distance(*draw(rng)), 1500), 200)
    check(share, 200, high=1.0 if (scale, shift) == (1.0, 0.0) else 0.97)


@pytest.mark.parametrize("kind", ["kid", "fid"])
def test_blocks(kind: Any) -> None:
    places = [(row, column) for row in range(2) for column in range(2)]

    def blocks(rng: Rng, count: int, shift: float) -> BlockSet:
        x, own = photographs(rng, count, 4)
        return BlockSet(
            FeatureSet((x + shift).astype(np.float32), np.zeros((len(x), 0), np.float32), own), places * count
        )

    def make(resamples: int, rng: Rng) -> Distance:
        return by_position(
            blocks(rng, 40, 0), blocks(rng, 30, 0.3), kind, against="position", resamples=resamples, seed=0
        )

    check(held(partial(make, 200), expected(lambda rng: make(0, rng).value, 800), 200), 200)


@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_precision_recall_density_coverage(name: str) -> None:
    """Over new members of the set that it is a share of, the other set as it is."""
    first = np.random.default_rng(5)
    real, ours = features(first, 80), features(first, 80, 0.8)
    of_real = name in ("recall", "coverage")

    def make(rng: Rng) -> Estimate:
        x = features(rng, 80) if of_real else real
        y = ours if of_real else features(rng, 80, 0.8)
        found: Estimate = getattr(manifold(x, y), name)
        return found

    check(held(make, expected(lambda rng: make(rng).value, 1000), 400))


def test_inception_score() -> None:
    def make(rng: Rng) -> Estimate:
        return classes.inception_score(2 * rng.normal(size=(80, 8)) + np.arange(8) / 3)

    check(held(make, expected(lambda rng: make(rng).value, 2000)))


@pytest.mark.parametrize("count", [12, 48])
def test_seam_ratio(count: int) -> None:
    def make(rng: Rng) -> Any:
        images = []
        for _ in range(count):
            image = rng.gamma(3, 12) * rng.normal(size=(32, 32, 1)) + 128
            image[:, 16:] += rng.gamma(2, 10)
            images.append(np.clip(image, 0, 255).repeat(3, 2).astype(np.uint8))
        return seam_ratio(images, patch=16, token=4)

    truth = expected(lambda rng: make(rng).value, 600)
    check(held(make, truth, 400))


def test_shares_of_crops() -> None:
    """Flat windows, and any other share."""

    def make(chance: float, rng: Rng) -> Estimate:
        each = rng.beta(4 * chance / (1 - chance), 4, size=16)
        own = np.repeat(np.arange(16), 6)
        return of_share((rng.random(96) < each[own]).astype(float), how="", clusters_N=own)

    for chance in (0.2, 0.5):
        check(held(partial(make, chance), chance))


def test_means_and_medians_of_crops() -> None:
    own = np.repeat(np.arange(20), 4)

    def values(rng: Rng) -> Any:
        return rng.normal(size=20)[own] + rng.normal(size=80)

    check(held(lambda rng: of_mean(values(rng), how="", clusters_N=own), 0.0))
    check(held(lambda rng: of_median(values(rng), own, ""), 0.0))
    check(held(lambda rng: of_median(rng.normal(size=48), np.arange(48), ""), 0.0))


def test_diversity() -> None:
    def make(rng: Rng) -> Estimate:
        looks = rng.normal(size=(30, 3))
        pairs = rng.integers(30, size=(120, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return _of_pairs_that_share(np.linalg.norm(looks[pairs[:, 0]] - looks[pairs[:, 1]], axis=1), pairs, "")

    check(held(make, expected(lambda rng: make(rng).value)))


@pytest.mark.parametrize("seeds", [3, 12, 20])
def test_over_seeds(seeds: int) -> None:
    def make(rng: Rng) -> Any:
        return over_seeds([{"value": value, "low": value, "high": value} for value in rng.normal(size=seeds)])

    check(held(make, 0.0))
