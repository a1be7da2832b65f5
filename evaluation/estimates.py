"""Numbers with intervals, and the resampling behind them (ours).

Crops cut from one canvas are not independent: what is resampled, and what is split into halves, are canvases.

Shape legend: N crops, C canvases, B resamples.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]
"""(N, D); float32 features are brought to float64 where they are used, so that large sets need not fit twice."""

Z95: Final = 1.959963984540054
"""Half the width of a 95 % interval, in standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: the number.
        std: its standard deviation.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: how many crops (or pairs) it is made of.
        how: how value and interval were made.
    """

    value: float
    std: float
    low: float
    high: float
    n: int
    how: str


@dataclass(frozen=True)
class Distance:
    """A distance of two sets and how sure it is; as :class:`Estimate`, with the sizes of both sets."""

    value: float
    std: float
    low: float
    high: float
    n_x: int
    n_y: int
    how: str

    @classmethod
    def of_splits(cls, values: NDArray[np.float64], n_x: int, n_y: int, how: str) -> Self:
        """Return the mean over random splits of real images, a floor; its interval holds 95 % of the splits."""
        low, high = np.percentile(values, [2.5, 97.5])
        return cls(float(values.mean()), float(values.std()), float(low), float(high), n_x, n_y, how)


def check_features(x_ND: NDArray[Any], y_MD: NDArray[Any]) -> None:
    """Refuse two sets of features of which there is no distance.

    Raises:
        ValueError: if the feature lengths differ, or a set has fewer than two members.
    """
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {x_ND.shape} and {y_MD.shape}")
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise ValueError(f"sets of {len(x_ND)} and {len(y_MD)} images: at least 2 each are needed")


def of_mean(values: NDArray[np.float64], *, how: str, clusters_N: NDArray[np.intp] | None = None) -> Estimate:
    """Return the mean with a 95 % interval: Student's, corrected for skewness, without which few values hold it less.

    Args:
        values: one an image.
        how: what to say of it.
        clusters_N: which canvas a value comes from; canvases are what is independent. By default each is one.
    """
    n, mean = len(values), float(np.mean(values))
    off_C = canvas_sums(values - mean, clusters_N)
    std = _standard_error(off_C, n)
    return Estimate(mean, std, *skewed_interval(mean, std, off_C), n, how)


def skewed_interval(
    value: float, std: float, off_C: NDArray[np.float64], freedom: float | None = None
) -> tuple[float, float]:
    """Return Student's 95 % interval of a sum, corrected for the skewness of its parts (Hall 1992).

    Args:
        value: the sum.
        std: its standard error.
        off_C: what each independent part adds beyond the mean, to any scale.
        freedom: degrees of freedom, by default those of parts of equal weight.
    """
    n = len(off_C)
    if not std or n < 2:
        return value, value
    quantile = student_quantile(n - 1 if freedom is None else freedom)
    skewness = float((off_C**3).mean() / (off_C**2).mean() ** 1.5)
    if abs(skewness) < 1e-6:
        return value - std * quantile, value + std * quantile

    def hall(sign: int) -> float:
        inside = 1 + skewness * (sign * quantile / math.sqrt(n) - skewness / (6 * n))
        return 3 * math.sqrt(n) / skewness * (float(np.cbrt(inside)) - 1)

    return value - std * hall(1), value - std * hall(-1)


def of_share(
    hits: NDArray[np.float64],
    *,
    how: str,
    clusters_N: NDArray[np.intp] | None = None,
    influence_N: NDArray[np.float64] | None = None,
) -> Estimate:
    """Return a share (the mean of zeros and ones) with Wilson's 95 % interval at the number of independent members.

    That number is the one at which independent members would have the standard error that canvases have (Kish's
    design effect); where all members agree it is the number of canvases.

    Args:
        hits: a zero or one each.
        how: what to say of it.
        clusters_N: which canvas a member comes from; canvases are what is independent. By default each is one.
        influence_N: what a member adds where others' hits depend on it, too; by default its own hit.
    """
    n, share = len(hits), float(np.mean(hits))
    added_N = hits if influence_N is None else influence_N
    off_C = canvas_sums(added_N - np.mean(added_N), clusters_N)
    std, canvases = _standard_error(off_C, n), len(off_C)
    if canvases == n and influence_N is None:
        low, high = wilson(share * n, n)
    else:
        effective = min(float(n), share * (1 - share) / std**2) if std and 0 < share < 1 else float(canvases)
        low, high = wilson(share * effective, effective, student_quantile(canvases - 1) if canvases > 1 else Z95)
    return Estimate(share, std, low, high, n, how)


def wilson(hits: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's interval of a share, by default at 95 %.

    >>> [round(end, 3) for end in wilson(0, 16)]
    [0.0, 0.194]
    """
    center, share = (hits + z**2 / 2) / (n + z**2), hits / n
    half = z / (n + z**2) * math.sqrt(max(0.0, share * (1 - share)) * n + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)


def canvas_sums(values: NDArray[np.float64], clusters_N: NDArray[np.intp] | None) -> NDArray[np.float64]:
    """Return the sum of values over each canvas."""
    if clusters_N is None:
        return values
    return np.asarray(np.bincount(np.unique(clusters_N, return_inverse=True)[1], values), np.float64)


def standard_error(values: NDArray[np.float64], clusters_N: NDArray[np.intp] | None) -> tuple[float, int]:
    """Return the standard error of the mean of clustered values (linearized ratio), and the number of clusters."""
    off_C = canvas_sums(values - np.mean(values), clusters_N)
    return _standard_error(off_C, len(values)), len(off_C)


def _standard_error(off_C: NDArray[np.float64], n: int) -> float:
    canvases = len(off_C)
    return float(np.sqrt((off_C**2).sum() * canvases / (canvases - 1)) / n) if canvases > 1 else 0.0


def student_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def of_median(values_N: NDArray[np.float64], clusters_N: NDArray[np.intp], how: str) -> Estimate:
    """Return the median with Woodruff's 95 % interval (1952): the quantiles at the ends of that of the share below."""
    value = float(np.median(values_N))
    below = of_share((values_N <= value).astype(np.float64), how=how, clusters_N=clusters_N)
    share = min(max(below.value, 1e-9), 1 - 1e-9)
    low, high = np.quantile(values_N, [below.low + 0.5 - share, min(1.0, below.high + 0.5 - share)], method="hazen")
    return Estimate(value, float(high - low) / (2 * Z95), min(value, float(low)), max(value, float(high)),
                    len(values_N), how)  # fmt: skip


def check_halves(count: int, n: int) -> None:
    """Refuse a floor of too few real images.

    Raises:
        ValueError: saying how many are needed.
    """
    if min(n, count // 2) < 2:
        raise ValueError(f"{count} real images: at least 4 are needed for two parts")


def disjoint_parts(
    clusters_N: NDArray[np.intp], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return random crops and all crops that share no canvas with them: what stands for ours, and what is left.

    The first part has ``size`` crops, or fewer where half of the canvases do not hold as many. So a set of ``size``
    crops is compared with nearly as many real ones as ours is: a Frechet distance depends on both numbers. Two crops
    are of two canvases at least, where half of the canvases are as many: pairs of one are in no kernel distance.
    """
    names, index_N = np.unique(clusters_N, return_inverse=True)
    place_C = np.empty(len(names), np.intp)
    place_C[rng.permutation(len(names))] = np.arange(len(names))
    order_N = np.argsort(place_C[index_N], kind="stable")
    places_N = place_C[index_N[order_N]]
    part = order_N[places_N < len(names) // 2][:size]
    if 1 < len(part) <= np.count_nonzero(places_N == 0) and len(names) >= 4:
        part[-1] = order_N[np.searchsorted(places_N, 1)]
    used = len(np.unique(index_N[part]))
    return part, order_N[places_N >= used]


def brought_to(
    inverse: float, values: NDArray[np.float64], inverse_B: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return distances of parts as they would be at another number of images, and the power that says so.

    The first half of the values are of parts, the second of halves of these; a power between 0 and 1 of the inverse
    number goes through the means of both.

    Args:
        inverse: 1 / N, or a sum of such, at the number that is asked for.
        values: distances.
        inverse_B: the same of each of them.
    """
    (whole, halves), (of_whole, of_halves) = (z.reshape(2, -1) for z in (values, inverse_B))
    growth, fewer = (float(np.log(z.mean() / y.mean())) for z, y in ((halves, whole), (of_halves, of_whole)))
    power = min(1.0, max(0.0, growth / fewer)) if fewer > 0 else 0.0
    return whole * (inverse / of_whole) ** power, power
