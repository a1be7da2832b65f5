"""Kernel distance between two sets of features (Binkowski et al. 2018), in float64.

The whole sample enters one unbiased estimate. The usual mean over random subsets is there too, for sets whose kernel
matrix would not fit, and for comparison with other tools.

Shape legend: N, M members of the sets, C, E canvases of theirs, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Distance, Features, check_features, check_halves, disjoint_parts, student_quantile
from evaluation.jackknife import freedom, without_main

LARGEST_FULL = 5000
"""Above this many images in a set its kernel matrix (200 MB) is not made whole."""

_NOISE: Final = 1.3
"""The spread that noise alone shows for its distance is less than that of a shift: settled by simulated coverage."""


def polynomial_kernel(x_ND: Features, y_MD: Features) -> NDArray[np.float64]:
    """Return ``(x.y / D + 1) ** 3``, the kernel of KID."""
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    return np.asarray((x_ND @ y_MD.T / x_ND.shape[1] + 1.0) ** 3)


def mmd2(x_ND: Features, y_MD: Features) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy; the sets may differ in size."""
    check_features(x_ND, y_MD)
    return KidAgainst(x_ND).value(y_MD)


def kid(
    x_ND: Features,
    y_MD: Features,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    clusters_M: NDArray[np.intp] | None = None,
    subset_size: int | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> Distance:
    """Return the kernel distance of two sets of features with an interval.

    By default value is the unbiased estimate from all images. The interval is of the distance of the two distributions
    that images are drawn from, canvas by canvas (:meth:`Terms.interval`); it tells nothing about training seeds.

    Args:
        x_ND: features of the first set.
        y_MD: features of the second set.
        clusters_N: which canvas a member of the first set comes from; canvases are independent. By default each is one.
        clusters_M: the same for the second set.
        subset_size: instead take the mean over ``subsets`` random subsets of this size, drawn without replacement (as
            torch-fidelity does); done by itself, with 1000, for more than `LARGEST_FULL`. Subsets of one sample say
            nothing of another sample: the interval is that of all images.
        subsets: how many of them.
        seed: of the subsets.

    Raises:
        ValueError: if a set has fewer than two members or than ``subset_size``, or the feature lengths differ.
    """
    check_features(x_ND, y_MD)
    rng = np.random.default_rng(seed)
    sets = x_ND, y_MD
    if subset_size is None and max(len(x_ND), len(y_MD)) > LARGEST_FULL:
        subset_size = min(1000, len(x_ND), len(y_MD))
    clusters = [
        np.arange(len(z)) if found is None else found for z, found in zip(sets, (clusters_N, clusters_M), strict=True)
    ]
    kept = [
        np.arange(len(z)) if len(z) <= LARGEST_FULL else np.sort(rng.choice(len(z), LARGEST_FULL, replace=False))
        for z in sets
    ]
    (x, y), own = (z[k] for z, k in zip(sets, kept, strict=True)), [z[k] for z, k in zip(clusters, kept, strict=True)]
    terms = KidAgainst(x, own[0]).terms(y, clusters_M=own[1])
    # Of fewer images than there are, the spread is larger.
    scale = float(np.sqrt(min(len(x), len(y)) / min(len(x_ND), len(y_MD))))
    value, std, low, high = terms.interval()
    how = "unbiased, all images; interval: of the two distributions, over canvases"
    if subset_size is not None:
        value_of_all, value = value, float(_over_subsets(x_ND, y_MD, subset_size, subsets, rng).mean())
        low, high = (value + (end - value_of_all) * scale for end in (low, high))
        how = f"mean over {subsets} subsets of {subset_size}; interval: of the two distributions, over canvases"
    return Distance(value, std * scale, low, high, len(x_ND), len(y_MD), how)


@dataclass(frozen=True)
class Terms:
    """A kernel distance taken apart: what each canvas adds, and what each pair of canvases adds beyond that.

    The parts are those of Hoeffding's decomposition of the three means of the kernel, at the level of canvases.

    Attributes:
        value: the unbiased estimate.
        biased: the estimate with pairs of a canvas with itself, above the other by what noise alone does.
        alone_C: influence of each canvas of the first set.
        alone_E: of the second set.
        pairs_CC: what pairs of the first set add.
        pairs_EE: of the second set.
        pairs_CE: of one canvas of each.
    """

    value: float
    biased: float
    alone_C: NDArray[np.float64]
    alone_E: NDArray[np.float64]
    pairs_CC: NDArray[np.float64]
    pairs_EE: NDArray[np.float64]
    pairs_CE: NDArray[np.float64]

    @classmethod
    def mean(cls, terms: Sequence[Terms]) -> Terms:
        """Return the terms of the mean of distances of the same canvases."""
        names = cls.__dataclass_fields__
        return cls(*(sum(getattr(one, name) for one in terms) / len(terms) for name in names))

    def interval(self) -> tuple[float, float, float, float]:
        """Return ``(value, std, low, high)``.

        The variance of the estimate is ``v + k t`` at a true distance t: v from pairs of canvases alone, which is all
        that is left where distributions agree (Gretton et al. 2012), and a part that grows with the distance. As
        Wilson's, the interval holds every t that is within Student's quantile of its own standard deviations from the
        estimate. One standard error for all t covers 87 to 99 % where the distance is small.
        """
        c, e = len(self.alone_C), len(self.alone_E)
        xx = float((self.pairs_CC**2).sum()) * (c - 1) / max(c - 3, 1)
        yy = float((self.pairs_EE**2).sum()) * (e - 1) / max(e - 3, 1)
        xy = float((self.pairs_CE**2).sum()) * c * e / ((c - 1) * (e - 1))
        naive_x, naive_y = (float((one**2).sum()) * len(one) / (len(one) - 1) for one in (self.alone_C, self.alone_E))
        pairs = xx + yy + xy
        alone = max(0.0, naive_x - 2 * xx - xy) + max(0.0, naive_y - 2 * yy - xy)
        std = float(np.sqrt(pairs + alone))
        if not std:
            return self.value, 0.0, self.value, self.value
        q = student_quantile(freedom((naive_x, naive_y), (c, e)))
        grows = max(
            _NOISE * (naive_x + naive_y) / max(self.biased, np.finfo(float).tiny),
            alone / max(self.value, 2 * float(np.sqrt(pairs)), np.finfo(float).tiny),
        )
        middle = self.value + q**2 * grows / 2
        half = float(np.sqrt(max(0.0, middle**2 - self.value**2 + q**2 * pairs)))
        ends = [middle - half, middle + half]
        # Below zero no distribution lies: there the estimate varies as it does at zero.
        low, high = (
            end if end >= 0 else self.value + sign * q * float(np.sqrt(pairs))
            for end, sign in zip(ends, (-1, 1), strict=True)
        )
        return self.value, std, min(low, self.value), max(high, self.value)


class KidAgainst:
    """Distances of other sets from one whose kernel matrix is made once; of at most `LARGEST_FULL` members."""

    def __init__(self, x_ND: Features, clusters_N: NDArray[np.intp] | None = None) -> None:
        self._x_ND, self._xx = x_ND, polynomial_kernel(x_ND, x_ND)
        self._clusters_N = np.arange(len(x_ND)) if clusters_N is None else clusters_N

    def value(self, y_MD: Features, *, clusters_M: NDArray[np.intp] | None = None) -> float:
        """Return the unbiased estimate, as :func:`mmd2`; pairs of one canvas are no independent pair and left out."""
        own_M = np.arange(len(y_MD)) if clusters_M is None else clusters_M
        within = _within(self._xx, self._clusters_N) + _within(polynomial_kernel(y_MD, y_MD), own_M)
        return float(within - 2 * polynomial_kernel(self._x_ND, y_MD).mean())

    def terms(self, y_MD: Features, *, clusters_M: NDArray[np.intp] | None = None) -> Terms:
        """Return the distance, taken apart."""
        own_M = np.arange(len(y_MD)) if clusters_M is None else clusters_M
        cross_NM, yy = polynomial_kernel(self._x_ND, y_MD), polynomial_kernel(y_MD, y_MD)
        biased = float(self._xx.mean() + yy.mean() - 2 * cross_NM.mean())
        within_x, alone_C, pairs_CC = _taken_apart(self._xx, self._clusters_N)
        within_y, alone_E, pairs_EE = _taken_apart(yy, own_M)
        n_C, m_E = (np.unique(own, return_counts=True)[1] for own in (self._clusters_N, own_M))
        count, across = cross_NM.size, float(cross_NM.mean())
        off_CE = _summed(cross_NM, self._clusters_N, own_M)
        off_CE -= across * np.outer(n_C, m_E)
        rows_C, columns_E = off_CE.sum(1), off_CE.sum(0)
        off_CE -= np.outer(rows_C / m_E.sum(), m_E) + np.outer(n_C, columns_E / n_C.sum())
        off_CE *= 2 / count
        alone_C -= 2 * rows_C / count
        alone_E -= 2 * columns_E / count
        return Terms(within_x + within_y - 2 * across, biased, alone_C, alone_E, pairs_CC, pairs_EE, off_CE)


def real_floor(
    real_ND: Features, n: int, *, clusters_N: NDArray[np.intp] | None = None, splits: int = 50, seed: int = 0
) -> Distance:
    """Return the distance of real images from other real images: what a perfect generator would get.

    A random part of ``n`` images (of half of them, where there are not enough) is compared with the rest, ``splits``
    times. The mean is near zero for independent images; its spread tells what difference can be seen at all. Neither
    side is larger than `LARGEST_FULL`.
    """
    check_halves(len(real_ND), n)
    clusters_N = np.arange(len(real_ND)) if clusters_N is None else clusters_N
    rng = np.random.default_rng(seed)
    kernel = polynomial_kernel(real_ND, real_ND) if len(real_ND) <= LARGEST_FULL else None
    values, sizes = np.empty(splits), []
    for i in range(splits):
        part, rest = (found[:LARGEST_FULL] for found in disjoint_parts(clusters_N, n, rng))
        sizes.append((len(rest), len(part)))
        if kernel is None:
            values[i] = KidAgainst(real_ND[rest], clusters_N[rest]).value(real_ND[part], clusters_M=clusters_N[part])
            continue
        within = sum(_within(kernel[np.ix_(found, found)], clusters_N[found]) for found in (part, rest))
        values[i] = within - 2 * kernel[np.ix_(rest, part)].mean()
    how = f"real against real, {splits} random splits into a part and the rest"
    return Distance.of_splits(values, *min(sizes), how)


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


def _summed(
    kernel_NM: NDArray[np.float64], clusters_N: NDArray[np.intp], clusters_M: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the sums of a kernel matrix over canvases, ``[C, E]``."""
    for axis, clusters in enumerate((clusters_N, clusters_M)):
        names, index = np.unique(clusters, return_inverse=True)
        order = np.argsort(index, kind="stable")
        starts = np.searchsorted(index[order], np.arange(len(names)))
        kernel_NM = np.add.reduceat(np.take(kernel_NM, order, axis), starts, axis)
    return kernel_NM


def _within(kernel: NDArray[np.float64], clusters_N: NDArray[np.intp]) -> float:
    """Return the mean kernel over the pairs of two different canvases."""
    between_CC, size_C = _summed(kernel, clusters_N, clusters_N), np.unique(clusters_N, return_counts=True)[1]
    if len(size_C) < 2:
        raise ValueError("all images are crops of one canvas: two are needed")
    return float((between_CC.sum() - np.trace(between_CC)) / (size_C.sum() ** 2 - (size_C**2).sum()))


def _taken_apart(
    kernel: NDArray[np.float64], clusters_N: NDArray[np.intp]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over pairs of different canvases, what each canvas adds to it, and what pairs add beyond."""
    value = _within(kernel, clusters_N)
    size_C = np.unique(clusters_N, return_counts=True)[1].astype(np.float64)
    pairs = size_C.sum() ** 2 - (size_C**2).sum()
    off_CC = _summed(kernel, clusters_N, clusters_N) - value * np.outer(size_C, size_C)
    off_CC, rows_C = without_main(off_CC, size_C)
    # Each pair stands twice in the matrix and once in the sum of squares.
    return value, 2 * rows_C / pairs, np.sqrt(2) * off_CC / pairs
