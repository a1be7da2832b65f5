"""The kernel distance against two other implementations, brute force, and what must hold of any estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.kid import KidAgainst, _taken_apart, kid, mmd2, real_floor


def gaussians(n: int, m: int, *, shift: float = 0.0, dim: int = 16, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + shift


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 5), st.integers(0, 99))
def test_equals_the_sum_over_pairs(n: int, m: int, dim: int, seed: int) -> None:
    x, y = gaussians(n, m, dim=dim, seed=seed, shift=0.5)

    def k(a: Any, b: Any) -> float:
        return float((a @ b / dim + 1) ** 3)

    xx = np.mean([k(x[i], x[j]) for i in range(n) for j in range(n) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(m) for j in range(m) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert mmd2(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-9, abs=1e-9)


def test_canvases_are_independent_not_their_crops() -> None:
    """Ten copies of each image tell no more than one: by canvases the interval is the same."""
    x, y = gaussians(30, 20, shift=0.3)
    alone = kid(x, y)
    copied = kid(np.repeat(x, 10, 0), np.repeat(y, 10, 0))
    clustered = kid(
        np.repeat(x, 10, 0), np.repeat(y, 10, 0), clusters_N=np.repeat(np.arange(30), 10),
        clusters_M=np.repeat(np.arange(20), 10),
    )  # fmt: skip
    for name in ("value", "std", "low", "high"):
        assert getattr(clustered, name) == pytest.approx(getattr(alone, name))
    assert copied.std < 0.5 * alone.std


@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 99))
def test_terms_add_up(n: int, m: int, seed: int) -> None:
    """Influences are what leaving one out changes, and nothing is left of a kernel that is a sum of two parts."""
    x, y = gaussians(n, m, dim=3, seed=seed, shift=0.5)
    terms = KidAgainst(x).terms(y)
    assert terms.value == pytest.approx(mmd2(x, y))
    k, cross = (x @ x.T / 3 + 1) ** 3, (x @ y.T / 3 + 1) ** 3
    for left in range(n):
        rest = [j for j in range(n) if j != left]
        within = 2 * (k[left, rest].mean() - (k.sum() - np.trace(k)) / (n * (n - 1))) / n
        between = -2 * (cross[left].mean() - cross.mean()) / n
        assert terms.alone_C[left] == pytest.approx(within + between, abs=1e-9)
        change = terms.value - mmd2(x[rest], y)
        assert change == pytest.approx(within * n / (n - 2) + between * n / (n - 1), abs=1e-9)
    np.testing.assert_allclose(terms.pairs_CC.sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(terms.pairs_CE.sum(0), 0, atol=1e-9)
    added = _taken_apart(np.add.outer(np.arange(n), np.arange(n)).astype(float), np.arange(n))[2]
    np.testing.assert_allclose(added, 0, atol=1e-9)


def test_farther_is_larger_and_seeds_repeat() -> None:
    values = [kid(*gaussians(60, 50, shift=shift)).value for shift in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert kid(*gaussians(60, 50)) == kid(*gaussians(60, 50))
    result = kid(*gaussians(60, 50, shift=0.5))
    assert (result.n_x, result.n_y) == (60, 50)
    assert result.low < result.value < result.high


def test_floor_is_near_zero_and_uses_what_there_is() -> None:
    x, _ = gaussians(60, 2)
    floor = real_floor(x, 20)
    assert (floor.n_x, floor.n_y) == (40, 20)
    assert abs(floor.value) < 3 * floor.std / np.sqrt(3)
    assert real_floor(x, 500).n_y == 30


def test_large_sets_fall_back_to_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation import kid as module

    monkeypatch.setattr(module, "LARGEST_FULL", 30)
    x, y = gaussians(60, 50, shift=0.5)
    result = module.kid(x, y, subsets=5)
    assert "5 subsets of 50" in result.how
    assert result.value == pytest.approx(mmd2(x, y), rel=0.5)
    floor = module.real_floor(x, 20)
    assert floor.std > 0
    assert (floor.n_x, floor.n_y) == (30, 20)  # no kernel matrix is larger than that


def test_wrong_input_is_refused() -> None:
    x, y = gaussians(4, 4)
    with pytest.raises(ValueError, match="at least 2"):
        mmd2(x[:1], y)
    with pytest.raises(ValueError, match="features must be"):
        mmd2(x, y[:, :3])
    with pytest.raises(ValueError, match="subset_size 5 is larger"):
        kid(x, y, subset_size=5)
    with pytest.raises(ValueError, match="at least 4"):
        real_floor(x[:3], 2)
