"""Standard errors by leaving out each canvas once, and what pairs of canvases do (Efron and Stein 1981).

Shape legend: N, M crops of two sets, G, H parts of them that are left out together, C, E canvases, B numbers asked for.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, skewed_interval, standard_error, student_quantile

Times = NDArray[np.float64]
"""How often each crop counts, ``[B, N]``."""

MOST: Final = 1000
"""Of so many crops of a set pairs of groups are left out: what they add falls with the square of the number."""

GROUPS: Final = 8
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


def of_left_out(
    value: float,
    left_out_G: NDArray[np.float64],
    *,
    n: int,
    how: str,
    log: bool = False,
    weights_G: NDArray[np.float64] | None = None,
) -> Estimate:
    """Return a number with the 95 % interval of its jackknife standard error; of its logarithm, if asked.

    The interval is Student's, corrected for skewness. Where parts have ``weights_G`` and spread as they weigh, few
    heavy ones leave fewer degrees of freedom (Satterthwaite 1946; Bell and McCaffrey 2002).
    """
    if log:
        found = of_left_out(float(np.log(value)), np.log(left_out_G), n=n, how=how, weights_G=weights_G)
        return Estimate(value, value * found.std, float(np.exp(found.low)), float(np.exp(found.high)), n, how)
    std = float(np.sqrt(variance(left_out_G)))
    few = None if weights_G is None else max(1.0, float((weights_G**2).sum() ** 2 / (weights_G**4).sum()) - 1)
    low, high = skewed_interval(value, std, left_out_G.mean() - left_out_G, few)
    return Estimate(value, std, low, high, n, how)


def freedom(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Return Satterthwaite's degrees of freedom of the sum of two variances, each of ``counts`` canvases."""
    below = sum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True) if count > 1)
    return sum(variances) ** 2 / below if below else float(min(counts) - 1)


def counted_once(naive: tuple[float, float], pairs: tuple[float, float, float]) -> float:
    """Return the variance of a number of two sets from that of each set by its canvases one by one.

    Pairs of a set are counted twice in the latter, pairs of both sets in either: an overestimate where distributions
    agree and pairs are all that is left, but by no more than a factor of two (Efron and Stein 1981).

    Args:
        naive: of each set, canvas by canvas.
        pairs: what pairs of canvases add, see :func:`pairs_left_out`.
    """
    return max(sum(naive) / 2, sum(naive) - sum(pairs))


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
    measure: Callable[[Sequence[Gone]], NDArray[np.float64]],
    groups: tuple[NDArray[np.intp], NDArray[np.intp]],
    canvases: tuple[int, int],
) -> tuple[float, float, float]:
    """Return what pairs add to the variance beyond single canvases: of the first set, of the second, of one of each.

    Two groups of canvases are left out at a time; what that does beyond what leaving out each does is of the pair.

    Args:
        measure: the number without such groups of both sets, for each.
        groups: the group of each member of either set.
        canvases: of how many canvases.
    """
    shares = [np.bincount(own) / len(own) for own in groups]
    c, e = map(len, shares)
    if min(c, e) < 4:
        return 0.0, 0.0, 0.0
    twos = [list(combinations(range(count), 2)) for count in (c, e)]
    asked: list[Gone] = [((), ()), *(((i,), ()) for i in range(c)), *(((), (j,)) for j in range(e))]
    asked += [*((two, ()) for two in twos[0]), *(((), two) for two in twos[1])]
    asked += [((i,), (j,)) for i in range(c) for j in range(e)]
    ends = np.cumsum([1, c, e, len(twos[0]), len(twos[1])])
    whole, x_C, y_E, xx, yy, xy = np.split(measure(asked), ends)
    own = []
    for alone, values, of_two, share, of in zip(
        (x_C, y_E), (xx, yy), (np.array(two) for two in twos), shares, canvases, strict=True
    ):
        i, j = of_two.T
        left, count = 1 - share[i] - share[j], len(share)
        # A group weighs more where another one is left out, too.
        single = sum((1 - share[at]) / left * (alone[at] - whole) for at in (i, j))
        table = np.zeros((count, count))
        table[i, j] = table[j, i] = (values - whole - single) * left**2
        rest = without_main(table - table.sum() / (count * (count - 1)), share)[0]
        # So many degrees of freedom are left of the table's; pairs within a group are in none.
        own.append(float((rest**2).sum()) / 2 * count / (count - 3) * (of - 1) / of)
    both = (xy.reshape(c, e) - x_C[:, None] - y_E + whole) * np.outer(1 - shares[0], 1 - shares[1])
    both -= np.outer(shares[0], both.sum(0))
    both -= np.outer(both.sum(1), shares[1])
    return own[0], own[1], float((both**2).sum()) * c * e / ((c - 1) * (e - 1))


def pairs_of_two_sets(
    measure: Callable[[Times, Times], NDArray[np.float64]],
    clusters: tuple[NDArray[np.intp], NDArray[np.intp]],
    of: tuple[int, int],
) -> tuple[float, float, float]:
    """Return :func:`pairs_left_out` of a distance where crops count so often, scaled to ``of`` crops of each set."""
    groups = [parts_of(own, GROUPS, np.random.default_rng(0)) for own in clusters]

    def of_groups(asked: Sequence[Gone]) -> NDArray[np.float64]:
        times = [np.array([~np.isin(own, gone[side]) for gone in asked], np.float64) for side, own in enumerate(groups)]
        return measure(times[0], times[1])

    counts = len(np.unique(clusters[0])), len(np.unique(clusters[1]))
    xx, yy, xy = pairs_left_out(of_groups, (groups[0], groups[1]), counts)
    n, m = (len(own) / whole for own, whole in zip(clusters, of, strict=True))
    return xx * n**2, yy * m**2, xy * n * m


def of_two_sets(
    value: float,
    influence: tuple[NDArray[np.float64], NDArray[np.float64]],
    clusters: tuple[NDArray[np.intp], NDArray[np.intp]],
    pairs: tuple[float, float, float],
) -> tuple[float, float, float]:
    """Return standard error and 95 % interval ``(std, low, high)`` of a positive distance of two independent sets.

    The interval is Cox's, with Student's quantile at the degrees of freedom of Satterthwaite. What two canvases do
    together is counted once.

    Args:
        value: the distance.
        influence: what the distance gains as a crop of either set counts more (the delta method).
        clusters: the canvas of each crop.
        pairs: what pairs of canvases add to the variance, see :func:`pairs_left_out`.
    """
    (std_x, count_x), (std_y, count_y) = (standard_error(z, own) for z, own in zip(influence, clusters, strict=True))
    naive = std_x**2, std_y**2
    std = math.sqrt(counted_once(naive, pairs))
    if not std or value <= 0:
        return std, value, value
    return std, *lognormal_interval(value, std / value, student_quantile(freedom(naive, (count_x, count_y))))


def lognormal_interval(value: float, std: float, quantile: float) -> tuple[float, float]:
    """Return Cox's interval of the mean of a number whose logarithm has this standard error (Zhou and Gao 1997).

    The mean of what is normal in its logarithm lies above the mean of the logarithm by half of its variance.
    """
    center = std**2 / 2
    return value * math.exp(min(0.0, center - quantile * std)), value * math.exp(min(700.0, center + quantile * std))
