"""Standard errors by leaving out: each canvas once, and some pairs of canvases (Efron and Stein 1981).

Leaving out one at a time counts what two canvases do together twice, once for each of them. Where two sets are nearly
alike that is most of the spread of a distance, so it is measured by leaving out pairs, and subtracted.

Shape legend: N, M crops of two sets, G, H parts of them that are left out together, B numbers asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, student_quantile

Times = NDArray[np.float64]
"""How often each crop counts, ``[B, N]``."""

_PAIRS: Final = 100


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
    """Return a number with Student's 95 % interval of its jackknife standard error; of its logarithm, if asked."""
    if log:
        found = of_left_out(float(np.log(value)), np.log(left_out_G), n=n, how=how)
        return Estimate(value, value * found.std, float(np.exp(found.low)), float(np.exp(found.high)), n, how)
    std = float(np.sqrt(variance(left_out_G)))
    half = student_quantile(len(left_out_G) - 1) * std
    return Estimate(value, std, value - half, value + half, n, how)


def freedom(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Return Satterthwaite's degrees of freedom of the sum of two variances, each of ``counts`` canvases."""
    below = sum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True) if count > 1)
    return sum(variances) ** 2 / below if below else float(min(counts) - 1)


def of_two_sets(
    measure: Callable[[Times, Times], NDArray[np.float64]],
    parts_N: NDArray[np.intp],
    parts_M: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the standard error of a distance of two independent sets, and its degrees of freedom.

    Args:
        measure: the distance where crops count so often, ``[B]``.
        parts_N: the part of each crop of the first set.
        parts_M: the part of each crop of the second set.
        rng: draws the pairs that are left out.
    """
    keep = without(parts_N), without(parts_M)
    counts = len(keep[0]), len(keep[1])
    all_in = np.ones((1, len(parts_N))), np.ones((1, len(parts_M)))

    def ask(x_BN: Times, y_BM: Times) -> NDArray[np.float64]:
        size = max(len(x_BN), len(y_BM))
        return measure(
            np.broadcast_to(x_BN, (size, x_BN.shape[1])).copy(), np.broadcast_to(y_BM, (size, y_BM.shape[1])).copy()
        )

    (value,) = ask(*all_in)
    singles = ask(keep[0], all_in[1]), ask(all_in[0], keep[1])
    naive = variance(singles[0]), variance(singles[1])
    together = []
    for side in (0, 1):
        count = counts[side]
        if count < 4:
            together.append(0.0)
            continue
        pairs = np.array([rng.choice(count, 2, replace=False) for _ in range(_PAIRS)])
        both = keep[side][pairs[:, 0]] * keep[side][pairs[:, 1]]
        found = ask(both, all_in[1]) if side == 0 else ask(all_in[0], both)
        apart = value - singles[side][pairs].sum(1) + found
        together.append(float((apart**2).mean()) * count * (count - 1) / 2)
    rows, columns = rng.integers(counts[0], size=_PAIRS), rng.integers(counts[1], size=_PAIRS)
    apart = value - singles[0][rows] - singles[1][columns] + ask(keep[0][rows], keep[1][columns])
    across = float((apart**2).mean()) * counts[0] * counts[1]
    alone = sum(max(0.0, one - 2 * two - across) for one, two in zip(naive, together, strict=True))
    return float(np.sqrt(alone + sum(together) + across)), freedom(naive, counts)
