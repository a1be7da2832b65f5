"""Precision, recall, density, coverage and inception score against brute force and known answers."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import inception_score as scores
from evaluation import manifold as module
from evaluation.estimates import disjoint_parts, of_mean
from evaluation.feature_cache import FeatureSet
from evaluation.inception_score import inception_score
from evaluation.manifold import authentic, manifold
from evaluation.protocol import Manifold
from evaluation.rows import manifolds


@given(st.integers(6, 14), st.integers(6, 14), st.integers(1, 3), st.integers(1, 4), st.integers(0, 50))
def test_shares_equal_brute_force(n: int, m: int, k: int, k_coverage: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 0.3

    def radius(z: np.ndarray, k: int) -> list[float]:
        return [sorted(float(((a - b) ** 2).sum()) for b in z)[k] for a in z]

    def inside(points: np.ndarray, centers: np.ndarray, radii: list[float]) -> np.ndarray:
        pairs = list(zip(centers, radii, strict=True))
        return np.array([[((p - c) ** 2).sum() <= r + 1e-12 for c, r in pairs] for p in points])

    found = manifold(x, y, k=k, k_coverage=k_coverage)
    assert found.precision.value == pytest.approx(inside(y, x, radius(x, k)).any(1).mean())
    assert found.recall.value == pytest.approx(inside(x, y, radius(y, k)).any(1).mean())
    covered = inside(y, x, radius(x, k_coverage))
    assert found.density.value == pytest.approx(covered.sum(1).mean() / k_coverage)
    assert found.coverage.value == pytest.approx(covered.any(0).mean())


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    whole = manifold(x, y)
    monkeypatch.setattr(module, "_STRIP", 7)
    monkeypatch.setattr(module, "_COLUMNS", 11)
    assert manifold(x, y) == whole


def test_known_answers_and_bad_sizes() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    same = manifold(x, rng.normal(size=(200, 2)))
    assert same.precision.value > 0.85
    assert same.density.value == pytest.approx(1, abs=0.15)
    assert same.coverage.value > 0.9
    one_mode = manifold(x, 0.01 * rng.normal(size=(200, 2)))
    assert one_mode.precision.value > 0.9
    assert one_mode.recall.value < 0.2
    assert one_mode.coverage.value < 0.2
    away = manifold(x, x + 50)
    assert away.precision.value == away.recall.value == away.coverage.value == 0
    with pytest.raises(ValueError, match="more than 5 are needed"):
        manifold(x[:5], x)
    with pytest.raises(ValueError, match="features must be"):
        manifold(x, x[:, :1])


def test_inception_score_of_known_classes() -> None:
    """Sure of one of four classes each, all four equally often: the score is four; unsure or one class: one."""
    sure = 100 * np.eye(4)[np.arange(80) % 4]
    assert inception_score(sure).value == pytest.approx(4)
    assert inception_score(np.zeros((20, 4))).value == pytest.approx(1)
    assert inception_score(100 * np.eye(4)[np.zeros(20, int)]).value == pytest.approx(1)
    found = inception_score(np.random.default_rng(0).normal(size=(60, 5)) * 3)
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="2 images cannot be parted into 3"):
        inception_score(sure[:2], splits=3)


def test_inception_score_in_chunks_and_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(size=(50, 6))
    whole = inception_score(x)
    monkeypatch.setattr(scores, "_CHUNK", 7)
    assert inception_score(x).value == pytest.approx(whole.value, rel=1e-12)
    times = np.random.default_rng(2).multinomial(50, np.full(50, 0.02), size=1)
    drawn = np.repeat(x, times[0], axis=0)
    assert scores._weighted(x, times.astype(float))[0] == pytest.approx(inception_score(drawn).value, rel=1e-9)


def test_parts_share_no_canvas() -> None:
    clusters = np.repeat(np.arange(9), 4)
    part, rest = disjoint_parts(clusters, 100, np.random.default_rng(0))
    assert (len(part), len(rest)) == (16, 20)  # half of the canvases, and all others
    assert not set(clusters[part]) & set(clusters[rest])
    part, rest = disjoint_parts(clusters, 6, np.random.default_rng(0))
    assert (len(part), len(rest)) == (6, 28)  # of two canvases, whose other crops are in neither
    assert not set(clusters[part]) & set(clusters[rest])
    part, rest = disjoint_parts(np.arange(9), 3, np.random.default_rng(0))
    assert sorted([*part, *rest]) == list(range(9))
    assert len(part) == 3


def test_a_mean_has_its_standard_error() -> None:
    found = of_mean(np.array([1.0, 2.0, 3.0, 4.0]), how="")
    assert found.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert of_mean(np.array([2.0]), how="").std == 0


def test_memory_is_that_of_a_few_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 100,000 images a strip of rows has 64 MB: here a smaller one, beside a matrix that would have 288 MB."""
    monkeypatch.setattr(module, "_STRIP_BYTES", 4 << 20)
    x = np.random.default_rng(0).normal(size=(6000, 2)).astype(np.float32)
    tracemalloc.start()
    found = manifold(x[:3000], x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * (4 << 20)
    monkeypatch.undo()
    assert manifold(x[:3000], x) == found


@given(st.integers(2, 9), st.integers(1, 6), st.integers(2, 20), st.integers(0, 50))
def test_parts_share_no_file_and_are_of_two(files: int, crops: int, size: int, seed: int) -> None:
    own = np.random.default_rng(seed).permutation(np.repeat(np.arange(files), crops))
    part, rest = disjoint_parts(own, size, np.random.default_rng(seed))
    assert not set(own[part]) & set(own[rest])
    assert len(part) == len(set(part)) == min(size, files // 2 * crops)
    assert len(set(own[part])) >= min(2, files // 2)
    assert len(set(own[part])) + len(set(own[rest])) == files


@given(st.integers(4, 12), st.integers(1, 9), st.integers(0, 50))
def test_authenticity_is_that_of_alaa(n: int, m: int, seed: int) -> None:
    """As dgm-eval has it: a sample's nearest real image has a real neighbor that is nearer."""
    rng = np.random.default_rng(seed)
    real, ours = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    wanted = []
    for sample in ours:
        ways = [float(np.linalg.norm(sample - other)) for other in real]
        nearest = int(np.argmin(ways))
        others = [float(np.linalg.norm(real[nearest] - real[j])) for j in range(n) if j != nearest]
        wanted.append(min(others) < ways[nearest])
    assert authentic(ours, real).tolist() == wanted
    # Crops of one file do not make a copy authentic.
    twice = np.repeat(real, 2, axis=0)
    assert not authentic(real, twice, clusters_N=np.repeat(np.arange(n), 2)).any()


def test_floors_of_crops_part_photographs() -> None:
    """Crops of one photograph lie together, far from those of others: no photograph shows what another one does."""
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(24), 4)
    features = (10 * rng.normal(size=(24, 8))[own] + 0.01 * rng.normal(size=(96, 8))).astype(np.float32)
    real = FeatureSet(features, np.zeros((96, 0), np.float32), own)
    few = rng.permutation(96)[:40]
    ours = FeatureSet(features[few], real.scores_NK[few], np.arange(40))
    images: Any = None  # it is only asked for in errors
    found = {row["name"]: row for row in manifolds("toy-", {"real": real, "generated": ours}, Manifold(), images, 0)}
    assert found["toy-precision"]["value"] == 1
    # With crops on both sides of the split it would be far above one half.
    assert found["toy-precision"]["floor"] == found["toy-recall"]["floor"] == 0
