"""Kernel distance between two sets of features (Binkowski et al. 2018), in float64.

The whole sample enters one unbiased estimate. The usual mean over random subsets is there too, for sets whose kernel
matrix would not fit, and for comparison with other tools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
"""float64 (N, D)."""

LARGEST_FULL = 5000
"""Above this many pictures in a set its kernel matrix (200 MB) is not made whole."""


@dataclass(frozen=True)
class KidResult:
    """An estimate and how sure it is.

    Attributes:
        value: the squared maximum mean discrepancy; unbiased, so a little below zero is possible.
        std: standard deviation over the resamples.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n_x: size of the first set.
        n_y: size of the second set.
        how: how value and interval were made.
    """

    value: float
    std: float
    low: float
    high: float
    n_x: int
    n_y: int
    how: str


def polynomial_kernel(x_ND: Features, y_MD: Features) -> NDArray[np.float64]:
    """Return ``(x.y / D + 1) ** 3``, the kernel of KID."""
    return np.asarray((x_ND @ y_MD.T / x_ND.shape[1] + 1.0) ** 3)


def mmd2(x_ND: Features, y_MD: Features) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy; the sets may differ in size.

    Raises:
        ValueError: if a set has fewer than two members, or the feature lengths differ.
    """
    _check(x_ND, y_MD)
    n, m = len(x_ND), len(y_MD)
    xx, yy = polynomial_kernel(x_ND, x_ND), polynomial_kernel(y_MD, y_MD)
    within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * polynomial_kernel(x_ND, y_MD).mean())


def kid(
    x_ND: Features,
    y_MD: Features,
    *,
    resamples: int = 200,
    subset_size: int | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> KidResult:
    """Return the kernel distance of two sets of features with an interval.

    By default value is the unbiased estimate from all pictures, and the interval comes from a bootstrap over pictures.
    A resample holds some pictures twice; pairs of a picture with its own copy are left out, since they would count its
    likeness to itself and push every resample up. The interval tells about the choice of pictures, not about training
    seeds.

    Args:
        x_ND: features of the first set.
        y_MD: features of the second set.
        resamples: bootstrap resamples.
        subset_size: instead take the mean over ``subsets`` random subsets of this size, drawn without replacement, and
            their standard deviation (as torch-fidelity does); done by itself, with 1000, for more than `LARGEST_FULL`.
        subsets: how many of them.
        seed: of the resampling.

    Raises:
        ValueError: if a set has fewer than two members or than ``subset_size``, or the feature lengths differ.
    """
    _check(x_ND, y_MD)
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    rng = np.random.default_rng(seed)
    if subset_size is None and max(len(x_ND), len(y_MD)) > LARGEST_FULL:
        subset_size = min(1000, len(x_ND), len(y_MD))
    if subset_size is not None:
        values = _over_subsets(x_ND, y_MD, subset_size, subsets, rng)
        value, how = float(values.mean()), f"mean over {subsets} subsets of {subset_size}; interval over the subsets"
    else:
        value, values = mmd2(x_ND, y_MD), _bootstrap(x_ND, y_MD, resamples, rng)
        how = f"unbiased, all pictures; interval: {resamples} bootstrap resamples over pictures"
    low, high = np.percentile(values, [2.5, 97.5])
    return KidResult(value, float(values.std()), float(low), float(high), len(x_ND), len(y_MD), how)


def real_floor(real_ND: Features, n: int, *, splits: int = 50, seed: int = 0) -> KidResult:
    """Return the distance of real pictures from other real pictures: what a perfect generator would get.

    Two disjoint random parts are drawn ``splits`` times, each of ``n`` pictures or, where there are not enough, of half
    of them. The mean is near zero for independent pictures; its spread tells what difference can be seen at all.

    Raises:
        ValueError: if there are fewer than four pictures.
    """
    size = min(n, len(real_ND) // 2)
    if size < 2:
        raise ValueError(f"{len(real_ND)} real pictures: at least 4 are needed for two parts")
    rng = np.random.default_rng(seed)
    kernel = polynomial_kernel(real_ND, real_ND) if len(real_ND) <= LARGEST_FULL else None
    values = np.empty(splits)
    for i in range(splits):
        order = rng.permutation(len(real_ND))
        a, b = order[:size], order[size : 2 * size]
        if kernel is None:
            values[i] = mmd2(real_ND[a], real_ND[b])
            continue
        aa, bb = kernel[np.ix_(a, a)], kernel[np.ix_(b, b)]
        pairs = size * (size - 1)
        within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / pairs
        values[i] = within - 2 * kernel[np.ix_(a, b)].mean()
    low, high = np.percentile(values, [2.5, 97.5])
    how = f"real against real, {splits} random splits into disjoint parts"
    return KidResult(float(values.mean()), float(values.std()), float(low), float(high), size, size, how)


def _check(x_ND: Features, y_MD: Features) -> None:
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {x_ND.shape} and {y_MD.shape}")
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise ValueError(f"sets of {len(x_ND)} and {len(y_MD)} pictures: at least 2 each are needed")


def _over_subsets(
    x_ND: Features, y_MD: Features, size: int, subsets: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    if size > min(len(x_ND), len(y_MD)):
        raise ValueError(f"subset_size {size} is larger than a set of {min(len(x_ND), len(y_MD))}")
    return np.array(
        [
            mmd2(x_ND[rng.choice(len(x_ND), size, replace=False)], y_MD[rng.choice(len(y_MD), size, replace=False)])
            for _ in range(subsets)
        ]
    )


def _bootstrap(x_ND: Features, y_MD: Features, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    n, m = len(x_ND), len(y_MD)
    # How often each picture was drawn says all that a resample is, so no kernel entry is computed twice.
    u_BN = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    v_BM = rng.multinomial(m, np.full(m, 1 / m), size=resamples).astype(np.float64)
    across = np.einsum("bm,bm->b", u_BN @ polynomial_kernel(x_ND, y_MD), v_BM) / (n * m)
    return np.asarray(_within(x_ND, u_BN) + _within(y_MD, v_BM) - 2 * across)


def _within(x_ND: Features, times_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel = polynomial_kernel(x_ND, x_ND)
    np.fill_diagonal(kernel, 0.0)
    pairs = times_BN.sum(1) ** 2 - (times_BN**2).sum(1)
    return np.asarray(np.einsum("bn,bn->b", times_BN @ kernel, times_BN) / pairs)
