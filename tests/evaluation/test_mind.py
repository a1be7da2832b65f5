"""MIND against brute-force transport, its closed form, and what it is for: small samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import special_ortho_group

from evaluation.fid import frechet_distance
from evaluation.mind import mind, real_floor


def drawn(n: int, dim: int, shift: float = 0.0, *, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(n, dim)) + shift


def test_equals_the_cheapest_transport() -> None:
    """Along each direction, the least mean squared way over all ways to pair the sets; torch-fidelity's directions."""
    x, y = drawn(9, 5, seed=0), drawn(9, 5, 0.7, seed=1)
    generator = torch.Generator().manual_seed(2020)
    u = torch.randn(40, 5, generator=generator)
    u = (u / u.norm(dim=1, keepdim=True)).double().numpy()
    cost = 0.0
    for direction in u:
        ways = ((x @ direction)[:, None] - (y @ direction)[None]) ** 2
        cost += ways[linear_sum_assignment(ways)].mean() / 40
    assert mind(x, y, projections=40).value == pytest.approx(3 * 5 * cost, rel=1e-6)


def test_of_the_larger_set_as_many_are_drawn() -> None:
    x, y = drawn(30, 4, seed=0), drawn(12, 4, 1.0, seed=1)
    generator = torch.Generator().manual_seed(7)
    kept = torch.randperm(30, generator=generator)[:12].numpy()
    u = torch.randn(50, 4, generator=generator).double()
    u = (u / u.norm(dim=1, keepdim=True)).numpy()
    ways = np.sort(x[kept] @ u.T, axis=0) - np.sort(y @ u.T, axis=0)
    found = mind(x, y, projections=50, seed=7)
    assert found.value == pytest.approx(12 * (ways**2).mean(), rel=1e-6)
    assert (found.n_x, found.n_y) == (30, 12)
    assert mind(y, y, projections=9).value == 0
    with pytest.raises(ValueError, match="at least 2"):
        mind(x[:1], y)
    with pytest.raises(ValueError, match="features must be"):
        mind(x, y[:, :2])


def test_a_shift_counts_three_times_its_square() -> None:
    """And any number of directions is unbiased for the mean over all of them."""
    x = drawn(400, 16, seed=3)
    v = np.linspace(0, 1, 16)
    assert mind(x, x + v, projections=4000).value == pytest.approx(3 * (v**2).sum(), rel=0.03)
    y = drawn(30, 3, 0.5, seed=5)
    turned = special_ortho_group.rvs(3, size=3000, random_state=0)[:, 0]
    ways = np.sort(x[:30, :3] @ turned.T, axis=0) - np.sort(y @ turned.T, axis=0)
    few = [mind(x[:30, :3], y, projections=5, seed=seed).value for seed in range(200)]
    assert np.mean(few) == pytest.approx(9 * (ways**2).mean(), abs=3 * np.std(few) / np.sqrt(200))


def test_small_samples_see_what_a_frechet_distance_does_not() -> None:
    """At 50 images of 64 features its excess, as a share of a planted shift's own number, is a fraction of FID's."""

    def at(n: int, shift: float, measure: Any) -> float:
        return float(np.mean([measure(drawn(n, 64, seed=s), drawn(n, 64, shift, seed=99 + s)) for s in range(8)]))

    def ours(x: Any, y: Any) -> float:
        return mind(x, y, projections=100).value

    excess = at(50, 0.0, ours) / (3 * 64 * 0.25)
    theirs = at(50, 0.0, frechet_distance) / (64 * 0.25)
    assert excess < 0.5 * theirs
    # It goes down about as 1 / N, and is what the floor tells.
    few, many = at(50, 0.0, ours), at(200, 0.0, ours)
    assert 2.5 < few / many < 5.5
    floor = real_floor(drawn(300, 64, seed=5), 50, clusters_N=np.arange(300), splits=10, projections=100)
    assert floor.value == pytest.approx(few, rel=0.15)
    assert (floor.n_x, floor.n_y) == (50, 50)
    # Where there are no two parts of as many, it is brought to the number; of as many as there are real ones at most.
    half = [real_floor(drawn(60, 64, seed=s), 200, clusters_N=np.arange(60), splits=5, projections=100) for s in (1, 2)]
    asked = float(np.mean([ours(drawn(60, 64, seed=s), drawn(200, 64, seed=99 + s)) for s in range(8)]))
    assert np.mean([one.value for one in half]) == pytest.approx(asked, rel=0.1)
    assert {(one.n_x, one.n_y) for one in half} == {(60, 60)}
    with pytest.raises(ValueError, match="at least 4"):
        real_floor(drawn(3, 4, seed=0), 2, clusters_N=np.arange(3), splits=2)


def test_its_spread_is_that_of_new_draws() -> None:
    found = [mind(drawn(60, 6, seed=s), drawn(60, 6, 0.5, seed=999 + s), projections=60) for s in range(120)]
    assert np.mean([one.std for one in found]) == pytest.approx(np.std([one.value for one in found]), rel=0.2)
    assert "of so few" not in found[0].how
    assert "of so few (below 20) it holds some 92 %" in mind(drawn(30, 6, seed=0), drawn(16, 6, seed=1)).how
    copied = np.repeat(np.arange(60), 5)
    x, y = drawn(60, 6, seed=0), drawn(60, 6, 0.5, seed=1)
    clustered = mind(x[copied], y[copied], clusters_N=copied, clusters_M=copied, projections=60)
    assert clustered.std == pytest.approx(mind(x, y, projections=60).std, rel=1e-2)
