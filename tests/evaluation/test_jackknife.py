"""What pairs of canvases add to the variance of a distance, against Hoeffding's parts and against repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation.fid import fid
from evaluation.jackknife import Gone, of_left_out, pairs_left_out
from evaluation.kid import _taken_apart
from evaluation.mind import _transport


@given(st.integers(4, 12), st.integers(4, 12), st.integers(0, 99))
def test_pairs_of_a_quadratic_are_hoeffdings(c: int, e: int, seed: int) -> None:
    """Of weights' quadratic form the parts of pairs are those of its matrices, whatever single groups do."""
    rng = np.random.default_rng(seed)
    xx, yy, xy, x, y = (rng.normal(size=shape) for shape in ((c, c), (e, e), (c, e), c, e))
    xx, yy = xx + xx.T, yy + yy.T

    def measure(asked: Sequence[Gone]) -> np.ndarray:
        found = []
        for gone in asked:
            u, v = (np.array([i not in out for i in range(n)], float) for out, n in zip(gone, (c, e), strict=True))
            u, v = u / u.sum(), v / v.sum()
            found.append(u @ xx @ u + v @ yy @ v + u @ xy @ v + 5 * u @ x - v @ y)
        return np.array(found)

    found = pairs_left_out(measure, (np.arange(c), np.arange(e)), (c, e))
    for part, matrix, n in ((found[0], xx, c), (found[1], yy, e)):
        pairs = _taken_apart(matrix, np.arange(n))[2] * (n - 1) / n
        np.testing.assert_allclose(part, (pairs**2).sum() * (n - 1) / (n - 3), rtol=1e-8, atol=1e-12)
    off = xy - xy.mean(0) - xy.mean(1)[:, None] + xy.mean()
    np.testing.assert_allclose(found[2], (off**2).sum() / (c * e * (c - 1) * (e - 1)), rtol=1e-8, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_transport_of_unequal_numbers(n: int, m: int, seed: int) -> None:
    """As if each member of either set were there as often as the other set has members."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.normal(size=(3, n))), np.sort(rng.normal(size=(3, m)))
    wanted = ((np.repeat(x, m, axis=1) - np.repeat(y, n, axis=1)) ** 2).mean(1).sum()
    np.testing.assert_allclose(_transport(x, y), wanted, rtol=1e-9, atol=1e-12)


def test_where_distributions_agree_the_error_is_that_of_repeats() -> None:
    """Counting pairs for each of their canvases would make it 1.4 times as large."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.append(fid(rng.normal(size=(44, 6)), rng.normal(size=(44, 6))))  # in ten groups of four or five
    told = np.sqrt(np.mean([(one.std / one.value) ** 2 for one in found]))
    assert 0.8 < told / np.std(np.log([one.value for one in found])) < 1.22


def test_few_heavy_parts_leave_few_degrees_of_freedom() -> None:
    left_out = np.random.default_rng(0).normal(1, 0.01, size=24)
    plain, equal, heavy = (
        of_left_out(1.0, left_out, n=24, how="", log=True, weights_G=weights)
        for weights in (None, np.full(24, 3.0), np.array([9.0] * 4 + [1.0] * 20))
    )
    np.testing.assert_allclose(equal.low, plain.low, rtol=1e-12)
    assert heavy.high / heavy.low > equal.high / equal.low
    assert heavy.std == plain.std
