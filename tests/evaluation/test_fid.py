"""The Frechet distance against closed forms and torch-fidelity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation.fid import frechet_distance, gaussian_frechet_distance


def correlated(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift


def test_closed_form_of_two_gaussians() -> None:
    """Covariances that commute: the distance is |m - n|^2 + sum (sqrt a - sqrt b)^2 in the common axes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    m, n = rng.normal(size=6), rng.normal(size=6)
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = gaussian_frechet_distance(m, (axes * a) @ axes.T, n, (axes * b) @ axes.T)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "dim"), [(50, 70, 8), (9, 70, 20), (10, 12, 40)])
def test_of_features_equals_of_their_gaussians(n: int, m: int, dim: int) -> None:
    x, y = correlated(n, dim, 1), correlated(m, dim, 2, 0.5)
    expected = gaussian_frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_equals_torch_fidelity() -> None:
    import torch
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    x, y = correlated(300, 32, 3), correlated(200, 32, 4, 0.2)
    stats = [fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)


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
