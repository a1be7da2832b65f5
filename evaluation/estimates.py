"""Numbers with intervals, and the resampling behind them (ours).

Crops cut from one canvas are not independent: what is resampled, and what is split into halves, are canvases.

Shape legend: N crops, C canvases, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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


def normal(value: float, resampled: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return ``(std, low, high)``: the value, give or take 1.96 standard deviations of its resamples.

    For statistics that resampling itself shifts (a resample holds fewer different images), where percentiles would
    lie beside the value.
    """
    std = float(np.std(resampled))
    return std, value - Z95 * std, value + Z95 * std


def of_mean(values: NDArray[np.float64], *, how: str) -> Estimate:
    """Return the mean of independent values with the interval of its standard error."""
    n = len(values)
    std = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    mean = float(np.mean(values))
    return Estimate(mean, std, mean - Z95 * std, mean + Z95 * std, n, how)


def resampled_times(clusters_N: NDArray[np.intp], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each crop is drawn in each resample of canvases, ``[B, N]``."""
    names, index_N = np.unique(clusters_N, return_inverse=True)
    count = len(names)
    times_BC = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.asarray(times_BC[:, index_N], np.float64)


def disjoint_parts(
    clusters_N: NDArray[np.intp], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return random crops and all crops that share no canvas with them: what stands for ours, and what is left.

    The first part has ``size`` crops, or fewer where half of the canvases do not hold as many. So a set of ``size``
    crops is compared with nearly as many real ones as ours is: a Frechet distance depends on both numbers.
    """
    names, index_N = np.unique(clusters_N, return_inverse=True)
    place_C = np.empty(len(names), np.intp)
    place_C[rng.permutation(len(names))] = np.arange(len(names))
    order_N = np.argsort(place_C[index_N], kind="stable")
    places_N = place_C[index_N[order_N]]
    part = order_N[places_N < len(names) // 2][:size]
    used = len(np.unique(index_N[part]))
    return part, order_N[places_N >= used]
