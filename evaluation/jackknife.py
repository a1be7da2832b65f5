"""Standard errors by leaving out each canvas once, and what pairs of canvases do (Efron and Stein 1981).

Shape legend: N, M crops of two sets, G, H parts of them that are left out together, C, E canvases, B numbers asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, skewed_interval, student_quantile

Times = NDArray[np.float64]
"""How often each crop counts, ``[B, N]``."""

GROUPS: Final = 10
"""Of so many groups of canvases, two are left out at a time."""

Gone = tuple[tuple[int, ...], tuple[int, ...]]
"""The numbers of the groups of either set that are left out."""


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


@dataclass(frozen=True)
class Variances:
    """The variance of a number of two sets, taken apart: what single canvases add, and what pairs add beyond.

    Attributes:
        naive: of each set by its canvases one by one. Pairs of a set are counted twice in it, pairs of both sets in
            either: an overestimate where distributions agree and pairs are all that is left (Efron and Stein 1981).
        pairs: of pairs of the first set, pairs of the second, and of one of each.
    """

    naive: tuple[float, float]
    pairs: tuple[float, float, float]

    @property
    def of_pairs(self) -> float:
        """The variance by pairs alone."""
        return sum(self.pairs)

    @property
    def alone(self) -> float:
        """The variance by single canvases alone."""
        *own, both = self.pairs
        return sum(max(0.0, naive - 2 * pairs - both) for naive, pairs in zip(self.naive, own, strict=True))


def without_main(off_CC: NDArray[np.float64], size_C: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return what pairs of one set have beyond what their canvases have alone, and row sums; no diagonal counts."""
    off_CC = off_CC.copy()
    np.fill_diagonal(off_CC, 0.0)
    rows_C = off_CC.sum(1)
    main_C = rows_C / np.maximum(size_C.sum() - 2 * size_C, size_C)
    off_CC -= np.outer(main_C, size_C) + np.outer(size_C, main_C)
    np.fill_diagonal(off_CC, 0.0)
    return off_CC, rows_C


def pairs_left_out(
    measure: Callable[[Sequence[Gone]], NDArray[np.float64]], groups: tuple[int, int], canvases: tuple[int, int]
) -> tuple[float, float, float]:
    """Return the variances by pairs of canvases, see :class:`Variances`, by leaving out two groups at a time.

    Up to the third order in what a group changes, what a table of all twos has beyond its rows' and columns' own
    parts is that of pairs of groups.

    Args:
        measure: the number without such groups of both sets, for each.
        groups: how many there are of each set.
        canvases: of how many canvases.
    """
    if min(groups) < 4:
        return 0.0, 0.0, 0.0
    c, e = groups
    twos = [np.array(list(combinations(range(count), 2))) for count in groups]
    across = [((i,), (j,)) for i in range(c) for j in range(e)]
    asked: list[Gone] = [*((tuple(two), ()) for two in twos[0]), *(((), tuple(two)) for two in twos[1]), *across]
    *found, both = np.split(measure(asked), np.cumsum([len(twos[0]), len(twos[1])]))
    own = []
    for values, at, count, of in zip(found, twos, groups, canvases, strict=True):
        table = np.zeros((count, count))
        table[at[:, 0], at[:, 1]] = table[at[:, 1], at[:, 0]] = values - values.mean()
        rest = without_main(table, np.ones(count))[0] * (count - 2) ** 2 / count**2
        # So many degrees of freedom are left of the table's; pairs within a group are in none.
        own.append(float((rest**2).sum()) / 2 * count / (count - 3) * (of - 1) / of)
    both = both.reshape(c, e)
    both = both - both.mean(0) - both.mean(1)[:, None] + both.mean()
    return own[0], own[1], float((both**2).sum()) * (c - 1) * (e - 1) / (c * e)


def of_two_sets(
    value: float,
    measure: Callable[[Times, Times], NDArray[np.float64]],
    parts_N: NDArray[np.intp],
    parts_M: NDArray[np.intp],
) -> tuple[float, float, float]:
    """Return standard error and 95 % interval ``(std, low, high)`` of a positive distance of two independent sets.

    The interval is Student's of the logarithm, with the degrees of freedom of Satterthwaite. What two canvases do
    together is counted once.

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
    groups = [parts_of(parts, GROUPS, np.random.default_rng(0)) for parts in (parts_N, parts_M)]

    def of_groups(asked: Sequence[Gone]) -> NDArray[np.float64]:
        times = [np.array([~np.isin(own, gone[side]) for gone in asked], np.float64) for side, own in enumerate(groups)]
        found = measure(times[0], times[1])
        return np.log(np.maximum(found, np.finfo(float).tiny)) if of_log else found

    counts = len(keep_x), len(keep_y)
    found = Variances((x, y), pairs_left_out(of_groups, (len(set(groups[0])), len(set(groups[1]))), counts))
    std = float(np.sqrt(found.alone + found.of_pairs))
    half = student_quantile(freedom((x, y), counts)) * std
    if of_log:
        return value * std, value * float(np.exp(-half)), value * float(np.exp(half))
    return std, value - half, value + half
