"""Standard errors by leaving out each canvas once (Efron and Stein 1981).

Shape legend: N, M crops of two sets, G, H parts of them that are left out together, B numbers asked for.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, skewed_interval, student_quantile

Times = NDArray[np.float64]
"""How often each crop counts, ``[B, N]``."""


def parts_of(clusters_N: NDArray[np.intp], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the part of each crop: its canvas, or one of ``most`` random groups of canvases of equal number."""
    _, index_N = np.unique(clusters_N, return_inverse=True)
    count = int(index_N.max()) + 1
    if count <= most:
        return index_N
    return np.asarray((rng.permutation(count) % most)[index_N])


def without(parts_N: NDArray[np.intp]) -> Times:
    """Return what is left when each part is left out, ``[G, N]``."""
    return np.asarray(parts_N[None] != np.arange(parts_N.max() + 1)[:, None], np.float64)


def variance(left_out_G: NDArray[np.float64]) -> float:
    """Return the variance of a number by its values with each part left out."""
    count = len(left_out_G)
    return float(((left_out_G - left_out_G.mean()) ** 2).sum() * (count - 1) / count)


def of_left_out(value: float, left_out_G: NDArray[np.float64], *, n: int, how: str, log: bool = False) -> Estimate:
    """Return a number with the 95 % interval of its jackknife standard error; of its logarithm, if asked.

    The interval is Student's, corrected for skewness.
    """
    if log:
        found = of_left_out(float(np.log(value)), np.log(left_out_G), n=n, how=how)
        return Estimate(value, value * found.std, float(np.exp(found.low)), float(np.exp(found.high)), n, how)
    std = float(np.sqrt(variance(left_out_G)))
    low, high = skewed_interval(value, std, left_out_G.mean() - left_out_G)
    return Estimate(value, std, low, high, n, how)


def freedom(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Return Satterthwaite's degrees of freedom of the sum of two variances, each of ``counts`` canvases."""
    below = sum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True) if count > 1)
    return sum(variances) ** 2 / below if below else float(min(counts) - 1)


def of_two_sets(
    value: float,
    measure: Callable[[Times, Times], NDArray[np.float64]],
    parts_N: NDArray[np.intp],
    parts_M: NDArray[np.intp],
) -> tuple[float, float, float]:
    """Return standard error and 95 % interval ``(std, low, high)`` of a positive distance of two independent sets.

    The interval is Student's of the logarithm, with the degrees of freedom of Satterthwaite. What two canvases do
    together is counted for each of them, so where the sets are nearly alike it is wider than it need be.

    Args:
        value: the distance.
        measure: the distance where crops count so often, ``[B]``.
        parts_N: the part of each crop of the first set.
        parts_M: the part of each crop of the second set.
    """
    keep_x, keep_y = without(parts_N), without(parts_M)
    left_out = (
        measure(keep_x, np.ones((len(keep_x), len(parts_M)))),
        measure(np.ones((len(keep_y), len(parts_N))), keep_y),
    )
    of_log = value > 0 and all((found > 0).all() for found in left_out)
    x, y = (variance(np.log(found) if of_log else found) for found in left_out)
    std = float(np.sqrt(x + y))
    half = student_quantile(freedom((x, y), (len(keep_x), len(keep_y)))) * std
    if of_log:
        return value * std, value * float(np.exp(-half)), value * float(np.exp(half))
    return std, value - half, value + half
