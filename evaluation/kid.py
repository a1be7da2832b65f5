"""Kernel distance between two sets of features (Binkowski et al. 2018), in float64.

The whole sample enters one unbiased estimate. The usual mean over random subsets is there too, for sets whose kernel
matrix would not fit, and for comparison with other tools.

Shape legend: N, M members of the sets, D features, B resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Z95, Distance, disjoint_parts, normal, resampled_times

Features = NDArray[np.floating[Any]]
"""(N, D); float32 features are brought to float64 where they are used, so that large sets need not fit twice."""

LARGEST_FULL = 5000
"""Above this many images in a set its kernel matrix (200 MB) is not made whole."""


def polynomial_kernel(x_ND: Features, y_MD: Features) -> NDArray[np.float64]:
    """Return ``(x.y / D + 1) ** 3``, the kernel of KID."""
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    return np.asarray((x_ND @ y_MD.T / x_ND.shape[1] + 1.0) ** 3)


def mmd2(x_ND: Features, y_MD: Features) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy; the sets may differ in size.

    Raises:
        ValueError: if a set has fewer than two members, or the feature lengths differ.
    """
    _check(x_ND, y_MD)
    return KidAgainst(x_ND).value(y_MD)


def kid(
    x_ND: Features,
    y_MD: Features,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    clusters_M: NDArray[np.intp] | None = None,
    resamples: int = 200,
    subset_size: int | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> Distance:
    """Return the kernel distance of two sets of features with an interval.

    By default value is the unbiased estimate from all images, and the interval comes from a bootstrap over images.
    A resample holds some canvases twice; pairs of a canvas with its own copy are left out, since they would count its
    likeness to itself and push every resample up. The interval tells about the choice of images, not about training
    seeds.

    Args:
        x_ND: features of the first set.
        y_MD: features of the second set.
        clusters_N: which canvas a member of the first set comes from; canvases are resampled. By default each is one.
        clusters_M: the same for the second set.
        resamples: bootstrap resamples.
        subset_size: instead take the mean over ``subsets`` random subsets of this size, drawn without replacement, and
            their standard deviation (as torch-fidelity does); done by itself, with 1000, for more than `LARGEST_FULL`.
        subsets: how many of them.
        seed: of the resampling.

    Raises:
        ValueError: if a set has fewer than two members or than ``subset_size``, or the feature lengths differ.
    """
    _check(x_ND, y_MD)
    rng = np.random.default_rng(seed)
    if subset_size is None and max(len(x_ND), len(y_MD)) > LARGEST_FULL:
        subset_size = min(1000, len(x_ND), len(y_MD))
    clusters = [np.arange(len(z)) if found is None else found for z, found in ((x_ND, clusters_N), (y_MD, clusters_M))]
    if subset_size is not None:
        values = _over_subsets(x_ND, y_MD, subset_size, subsets, rng)
        value, how = float(values.mean()), f"mean over {subsets} subsets of {subset_size}"
        # Subsets of one sample say nothing of another sample: canvases are resampled for the interval, as without them.
        kept = [np.sort(rng.choice(len(z), min(len(z), LARGEST_FULL), replace=False)) for z in (x_ND, y_MD)]
        (x, y), own = (x_ND[kept[0]], y_MD[kept[1]]), [z[k] for z, k in zip(clusters, kept, strict=True)]
        times = [resampled_times(found, resamples, rng) for found in own]
        drawn = KidAgainst(x, own[0]).bootstrap(y, times[0], times[1], clusters_M=own[1])
        half = Z95 * float(np.nanstd(drawn)) * float(np.sqrt(min(len(x), len(y)) / min(len(x_ND), len(y_MD))))
        how += f"; std of the subsets, interval of {resamples} bootstrap resamples over canvases"
        return Distance(value, float(values.std()), value - half, value + half, len(x_ND), len(y_MD), how)
    else:
        times = [resampled_times(found, resamples, rng) for found in clusters]
        against = KidAgainst(x_ND, clusters[0])
        value = against.value(y_MD, clusters_M=clusters[1])
        values = against.bootstrap(y_MD, times[0], times[1], clusters_M=clusters[1])
        how = f"unbiased, all images; interval: {resamples} bootstrap resamples over images"
    std, low, high = normal(value, values)
    return Distance(value, std, low, high, len(x_ND), len(y_MD), how)


class KidAgainst:
    """Distances of other sets from one whose kernel matrix is made once; of at most `LARGEST_FULL` members.

    Args:
        x_ND: features of that set.
        clusters_N: which canvas a member comes from; by default each is one.
    """

    def __init__(self, x_ND: Features, clusters_N: NDArray[np.intp] | None = None) -> None:
        self._x_ND, self._xx = x_ND, polynomial_kernel(x_ND, x_ND)
        self._clusters_N = np.arange(len(x_ND)) if clusters_N is None else clusters_N

    def value(self, y_MD: Features, *, clusters_M: NDArray[np.intp] | None = None) -> float:
        """Return the unbiased estimate, as :func:`mmd2`; pairs of one canvas are no independent pair and left out.

        Raises:
            ValueError: if all members of a set are of one canvas.
        """
        own_M = np.arange(len(y_MD)) if clusters_M is None else clusters_M
        once = np.ones((1, len(self._x_ND))), np.ones((1, len(y_MD)))
        within = _within(self._xx, self._clusters_N, once[0]) + _within(polynomial_kernel(y_MD, y_MD), own_M, once[1])
        return float(within[0] - 2 * polynomial_kernel(self._x_ND, y_MD).mean())

    def bootstrap(
        self,
        y_MD: Features,
        times_BN: NDArray[np.float64],
        times_BM: NDArray[np.float64],
        *,
        clusters_M: NDArray[np.intp] | None = None,
    ) -> NDArray[np.float64]:
        """Return the distance of each resample; ``times`` say how often each member, with its canvas, was drawn.

        How often each image was drawn says all that a resample is, so no kernel entry is computed twice.
        """
        clusters_M = np.arange(len(y_MD)) if clusters_M is None else clusters_M
        sizes_B = times_BN.sum(1) * times_BM.sum(1)
        across = np.einsum("bm,bm->b", times_BN @ polynomial_kernel(self._x_ND, y_MD), times_BM) / sizes_B
        yy = polynomial_kernel(y_MD, y_MD)
        within = _within(self._xx, self._clusters_N, times_BN) + _within(yy, clusters_M, times_BM)
        return np.asarray(within - 2 * across)


def real_floor(
    real_ND: Features,
    n: int,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    splits: int = 50,
    seed: int = 0,
) -> Distance:
    """Return the distance of real images from other real images: what a perfect generator would get.

    A random part of ``n`` images (of half of them, where there are not enough) is compared with the rest, ``splits``
    times. The mean is near zero for independent images; its spread tells what difference can be seen at all. Neither
    side is larger than `LARGEST_FULL`.

    Raises:
        ValueError: if there are fewer than four images.
    """
    if min(n, len(real_ND) // 2) < 2:
        raise ValueError(f"{len(real_ND)} real images: at least 4 are needed for two parts")
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
        within = sum(
            float(_within(kernel[np.ix_(found, found)], clusters_N[found], np.ones((1, len(found))))[0])
            for found in (part, rest)
        )
        values[i] = within - 2 * kernel[np.ix_(rest, part)].mean()
    low, high = np.percentile(values, [2.5, 97.5])
    how = f"real against real, {splits} random splits into a part and the rest"
    return Distance(float(values.mean()), float(values.std()), float(low), float(high), *min(sizes), how)


def _check(x_ND: Features, y_MD: Features) -> None:
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {x_ND.shape} and {y_MD.shape}")
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise ValueError(f"sets of {len(x_ND)} and {len(y_MD)} images: at least 2 each are needed")


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


def _within(
    kernel: NDArray[np.float64], clusters_N: NDArray[np.intp], times_BN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean kernel over the pairs of two different canvases of each resample."""
    names, first, index_N = np.unique(clusters_N, return_index=True, return_inverse=True)
    member_NC = np.zeros((len(clusters_N), len(names)))
    member_NC[np.arange(len(clusters_N)), index_N] = 1
    between_CC = member_NC.T @ kernel @ member_NC
    size_C = member_NC.sum(0)
    np.fill_diagonal(between_CC, 0.0)
    times_BC = times_BN[:, first]
    weight_BC = times_BC * size_C
    total_B = np.einsum("bc,bc->b", times_BC @ between_CC, times_BC)
    pairs_B = weight_BC.sum(1) ** 2 - (weight_BC**2).sum(1)
    if len(names) < 2:
        raise ValueError("all images are crops of one canvas: two are needed")
    # A resample of a single canvas has no pair: it is left out of the spread.
    return np.asarray(np.where(pairs_B > 0, total_B / np.maximum(pairs_B, 1), np.nan))
