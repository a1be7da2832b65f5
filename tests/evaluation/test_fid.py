"""The Frechet distance against its Gaussians, resampling by hand, and in parts; libraries: test_equalities.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation import fid as module
from evaluation.fid import FidAgainst, fid, frechet_distance, real_floor


def correlated(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift


@pytest.mark.parametrize(("n", "m", "dim"), [(50, 70, 8), (9, 70, 20), (10, 12, 40)])
def test_of_features_equals_of_their_gaussians(n: int, m: int, dim: int) -> None:
    x, y = correlated(n, dim, 1), correlated(m, dim, 2, 0.5)
    of_x, of_y = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(of_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ of_y @ root).clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(of_x) + np.trace(of_y) - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_have_distance_zero_whatever_their_rank() -> None:
    for n in (10, 200):
        x = correlated(n, 40, 5)
        assert abs(frechet_distance(x, x[::-1])) < 1e-9 * np.trace(np.cov(x.T))


def test_wrong_input_is_refused() -> None:
    x = correlated(5, 3, 0)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(x, x[:, :2])


@pytest.mark.parametrize(("n", "m", "dim"), [(12, 9, 4), (8, 14, 30)])
def test_a_resample_is_the_distance_of_the_drawn_images(n: int, m: int, dim: int) -> None:
    x, y = correlated(n, dim, 1), correlated(m, dim, 2, 0.5)
    rng = np.random.default_rng(0)
    u, v = rng.multinomial(n, np.full(n, 1 / n), size=3), rng.multinomial(m, np.full(m, 1 / m), size=3)
    found = FidAgainst(x).weighted(y, u.astype(float), v.astype(float))
    for value, a, b in zip(found, u, v, strict=True):
        drawn = np.repeat(x, a, axis=0), np.repeat(y, b, axis=0)
        assert value == pytest.approx(frechet_distance(*drawn), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "dim"), [(30, 20, 4), (8, 14, 30), (40, 9, 30)])
def test_influence_is_the_derivative_by_weights(n: int, m: int, dim: int) -> None:
    x, y = correlated(n, dim, 1), correlated(m, dim, 2, 0.5)
    found, step = FidAgainst(x, ddof=0), 1e-2
    for side, influence in enumerate(found.influence(y)):
        times = [np.ones((2 * len(influence), k)) for k in (n, m)]
        times[side] += step * np.vstack([np.eye(len(influence)), -np.eye(len(influence))])
        values = found.weighted(y, *times).reshape(2, -1)
        wanted = len(influence) * (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(influence - influence.mean(), wanted, atol=1e-4 * np.abs(wanted).max())


def test_large_sets_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = correlated(300, 12, 3), correlated(250, 12, 4, 0.2)
    whole = frechet_distance(x, y)
    monkeypatch.setattr(module, "_CHUNK", 32)
    assert frechet_distance(x.astype(np.float32), y) == pytest.approx(whole, rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_interval_has_the_spread_of_new_draws() -> None:
    rng = np.random.default_rng(11)
    left, right = rng.normal(size=(2, 6, 6))

    def draw() -> tuple[Any, Any]:
        return rng.normal(size=(150, 6)) @ left, rng.normal(size=(150, 6)) @ right + 1

    spread = np.std([frechet_distance(*draw()) for _ in range(60)])
    found = [fid(*draw()) for _ in range(4)]
    assert all(one.low < one.value < one.high for one in found)
    assert np.mean([one.std for one in found]) == pytest.approx(spread, rel=0.35)


def test_large_sets_have_the_spread_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = correlated(400, 6, 5), correlated(400, 6, 6, 0.3)
    full = fid(x, y)
    monkeypatch.setattr(module, "MOST", 200)
    part = fid(x, y)
    assert part.value == full.value
    assert part.std == pytest.approx(full.std, rel=0.1)


@pytest.mark.parametrize(
    ("dim", "n", "m", "tolerance"),
    [(10, 200, 15, 0.15), (10, 200, 200, 0.15), (120, 100, 100, 0.2), (120, 100, 20, 0.1)],
)
def test_floor_is_the_bias_at_these_numbers(dim: int, n: int, m: int, tolerance: float) -> None:
    """What a perfect generator gets with m images against n real ones, few images against many features included."""
    rng = np.random.default_rng(7)
    scale = np.arange(1, dim + 1) ** -0.5

    def draw(count: int) -> Any:
        return rng.normal(size=(count, dim)) * scale

    perfect = np.mean([frechet_distance(draw(n), draw(m)) for _ in range(20)])
    floors = [real_floor(draw(n), m, splits=5, seed=seed) for seed in range(10)]
    assert np.mean([floor.value for floor in floors]) == pytest.approx(perfect, rel=tolerance)
    assert {(floor.n_x, floor.n_y) for floor in floors} == {(n, m)}


def test_floor_keeps_files_apart() -> None:
    few = correlated(6, 10, 7)
    crops = np.repeat(few, 8, axis=0) + 1e-3 * np.random.default_rng(0).normal(size=(48, 10))
    apart = real_floor(crops, 16, clusters_N=np.repeat(np.arange(6), 8))
    assert apart.value > 5 * real_floor(crops, 16).value
    with pytest.raises(ValueError, match="at least 4"):
        real_floor(crops[:3], 2)


def test_many_real_images_have_the_spread_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for the larger set, and the spread stays that of all of it."""
    monkeypatch.setattr(module, "MOST", 100)
    shapes: list[tuple[int, int]] = []
    whole = FidAgainst.weighted

    def watched(self: FidAgainst, y: Any, u: Any, v: Any) -> Any:
        shapes.append((u.shape[1], v.shape[1]))
        return whole(self, y, u, v)

    monkeypatch.setattr(FidAgainst, "weighted", watched)
    rng = np.random.default_rng(3)
    found = fid(rng.normal(size=(2000, 6)), rng.normal(size=(50, 6)) + 1)
    assert set(shapes) == {(100, 50)}
    spread = np.std([frechet_distance(rng.normal(size=(2000, 6)), rng.normal(size=(50, 6)) + 1) for _ in range(60)])
    assert found.std == pytest.approx(spread, rel=0.5)
