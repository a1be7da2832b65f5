"""Inception score (Salimans et al. 2016) of class scores, in float64 and bounded memory; torch-fidelity's to 1e-9.

Shape legend: N images, K classes, B scores asked for at once.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate
from evaluation.jackknife import of_left_out, parts_of, without

Scores = NDArray[np.floating[Any]]

_CHUNK: Final = 4096
_SHUFFLE: Final = 2020
"""torch-fidelity's seed for the order in which images are parted."""


def inception_score(
    scores_NK: Scores,
    *,
    splits: int = 1,
    clusters_N: NDArray[np.intp] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Return the inception score with an interval.

    Args:
        scores_NK: class scores before the softmax.
        splits: the mean is taken over this many parts of the images, in torch-fidelity's random order.
        clusters_N: which canvas an image comes from; canvases are left out. By default each is one.
        resamples: at most so many parts are left out in turn.
        seed: of the parts.

    Raises:
        ValueError: if there are fewer images than parts.
    """
    n = len(scores_NK)
    if n < splits:
        raise ValueError(f"{n} images cannot be parted into {splits}")
    order = np.random.RandomState(_SHUFFLE).permutation(n) if splits > 1 else np.arange(n)
    parts = [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]
    value = float(np.mean([_score(scores_NK, part) for part in parts]))
    clusters_N = np.arange(n) if clusters_N is None else clusters_N
    parts_N = parts_of(clusters_N, resamples, np.random.default_rng(seed))
    how = f"mean over {splits} part(s); interval: of the expectation at this number of images, over canvases"
    keep_GN = without(parts_N)
    for part in parts:
        keep_GN[np.ix_(~keep_GN[:, part].any(1), part)] = 1.0  # a part of one canvas stays
    left_out_G = np.mean([_weighted(scores_NK[part], keep_GN[:, part]) for part in parts], axis=0)
    return of_left_out(value, left_out_G, n=n, how=how, log=True)


def _score(scores_NK: Scores, chosen: NDArray[np.intp]) -> float:
    total, marginal_K = 0.0, np.zeros(scores_NK.shape[1])
    for i in range(0, len(chosen), _CHUNK):
        log_NK = _log_softmax(scores_NK[chosen[i : i + _CHUNK]])
        p_NK = np.exp(log_NK)
        total += float((p_NK * log_NK).sum())
        marginal_K += p_NK.sum(0)
    marginal_K /= len(chosen)
    return float(np.exp(total / len(chosen) - (marginal_K * np.log(marginal_K)).sum()))


def _weighted(scores_NK: Scores, times_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    marginal_BK = np.zeros((len(times_BN), scores_NK.shape[1]))
    negative_B = np.zeros(len(times_BN))
    for i in range(0, len(scores_NK), _CHUNK):
        log_NK = _log_softmax(scores_NK[i : i + _CHUNK])
        p_NK, times = np.exp(log_NK), times_BN[:, i : i + _CHUNK]
        marginal_BK += times @ p_NK
        negative_B += times @ (p_NK * log_NK).sum(1)
    size_B = times_BN.sum(1)
    marginal_BK /= size_B[:, None]
    return np.asarray(np.exp(negative_B / size_B - (marginal_BK * np.log(marginal_BK)).sum(1)))


def _log_softmax(scores_NK: Scores) -> NDArray[np.float64]:
    scores_NK = np.asarray(scores_NK, np.float64)
    scores_NK = scores_NK - scores_NK.max(1, keepdims=True)
    return np.asarray(scores_NK - np.log(np.exp(scores_NK).sum(1, keepdims=True)))
