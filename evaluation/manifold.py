"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), in float64.

Around every image of a set lies a ball that reaches to its k-th neighbor in the set; together they are what the set
covers. Distances are made in strips, so memory grows with the sets' sizes and not with their product.

Shape legend: N real images, M generated ones, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, Features, of_mean, of_share

_STRIP: Final = 256
_STRIP_BYTES: Final = 256 << 20
"""The most of one strip: 100,000 images against as many take three of these beside their features."""
_COLUMNS: Final = 8192
_GAINED: Final = 0.1
"""The share of what others' balls gain that counts in the spread of coverage: settled by simulated coverage."""


@dataclass(frozen=True)
class ManifoldResult:
    """Four shares, each with an interval over the images that it is a mean of, the other set held fixed.

    Attributes:
        precision: generated images inside a real ball.
        recall: real images inside a generated ball.
        density: real balls that a generated image lies in, over k; 1 for a perfect copy of the distribution.
        coverage: real balls that hold a generated image.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold(
    real_ND: Features,
    generated_MD: Features,
    *,
    k: int = 3,
    k_coverage: int = 5,
    clusters_N: NDArray[np.intp] | None = None,
    clusters_M: NDArray[np.intp] | None = None,
) -> ManifoldResult:
    """Return precision and recall with balls of ``k`` neighbors, density and coverage with ``k_coverage``.

    Args:
        real_ND: features of real images.
        generated_MD: features of generated images.
        k: neighbors of precision and recall.
        k_coverage: neighbors of density and coverage.
        clusters_N: which canvas a real image comes from, for the intervals; by default each is one.
        clusters_M: the same for the generated images.

    Raises:
        ValueError: if a set has no more than ``max(k, k_coverage)`` members, or the feature lengths differ.
    """
    if real_ND.shape[1] != generated_MD.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {real_ND.shape} and {generated_MD.shape}")
    n, m = len(real_ND), len(generated_MD)
    if min(n, m) <= max(k, k_coverage):
        raise ValueError(f"sets of {n} and {m} images: more than {max(k, k_coverage)} are needed")
    (real_radius, density_radius, next_radius), near_NK = _radii(real_ND, (k, k_coverage, k_coverage + 1))
    (own_radius,), _ = _radii(generated_MD, (k,))
    precise, dense, recalled = np.zeros(m), np.zeros(m), np.zeros(n, bool)
    covered, still = np.zeros(n, bool), np.zeros(n, bool)
    for at, d_SN in _strips(generated_MD, real_ND):
        precise[at] = (d_SN <= real_radius).any(1)
        inside = d_SN <= density_radius
        dense[at] = inside.sum(1) / k_coverage
        covered |= inside.any(0)
        still |= (d_SN <= next_radius).any(0)
        recalled |= (d_SN <= own_radius[at, None]).any(0)
    # Without a real image the balls that reach to it or beyond grow by one neighbor, and may be covered then.
    gained_N = (still & ~covered).astype(np.float64)
    reached_N = np.bincount(near_NK[:, :k_coverage].ravel(), np.repeat(gained_N, k_coverage), n)
    influence_N = covered - _GAINED * reached_N
    fixed = "over canvases of the set that it is a share of, the other set held fixed"
    said, wide = (f"{number} neighbors; interval: Wilson, {fixed}" for number in (k, k_coverage))
    return ManifoldResult(
        of_share(precise, how=said, clusters_N=clusters_M),
        of_share(recalled.astype(np.float64), how=said, clusters_N=clusters_N),
        of_mean(dense, how=f"{k_coverage} neighbors; interval: Student's t, {fixed}", clusters_N=clusters_M),
        of_share(covered.astype(np.float64), how=wide, clusters_N=clusters_N, influence_N=influence_N),
    )


def nearest_of(x_MD: Features, y_ND: Features) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the distance of each member of one set to the nearest one of another, and which that is, ``[M]`` each."""
    distances, found = np.empty(len(x_MD)), np.empty(len(x_MD), np.intp)
    for at, d_SN in _strips(x_MD, y_ND):
        distances[at], found[at] = np.sqrt(d_SN.min(1)), d_SN.argmin(1)
    return distances, found


def nearest_of_another_file(x_ND: Features, clusters_N: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the distance of each member to the nearest one of another file, ``[N]``; infinite if there is no other."""
    distances = np.empty(len(x_ND))
    for at, d_SN in _strips(x_ND, x_ND):
        distances[at] = np.sqrt(np.where(clusters_N[at, None] == clusters_N[None], np.inf, d_SN).min(1))
    return distances


def authentic(x_MD: Features, real_ND: Features, *, clusters_N: NDArray[np.intp] | None = None) -> NDArray[np.bool_]:
    """Return whether each sample is authentic (Alaa et al. 2022, equation 12), ``[M]``.

    It is if its nearest real image has a real neighbor that is nearer than the sample. With ``clusters_N``, which file
    a real image is a crop of, that neighbor is of another file: crops of one are no images of their own.
    """
    own_N = np.arange(len(real_ND)) if clusters_N is None else clusters_N
    distances_M, nearest_M = nearest_of(x_MD, real_ND)
    return nearest_of_another_file(real_ND, own_N)[nearest_M] < distances_M


def _strips(x_ND: Features, y_MD: Features) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield strips of the squared distances of all pairs."""
    rows = max(1, min(_STRIP, _STRIP_BYTES // (8 * len(y_MD))))
    columns = [slice(j, j + _COLUMNS) for j in range(0, len(y_MD), _COLUMNS)]
    norms = [(np.asarray(y_MD[at], np.float64) ** 2).sum(1) for at in columns]
    for i in range(0, len(x_ND), rows):
        part = np.asarray(x_ND[i : i + rows], np.float64)
        norm_S1 = (part**2).sum(1)[:, None]
        d_SM = np.empty((len(part), len(y_MD)))
        for at, norm_C in zip(columns, norms, strict=True):
            d_SM[:, at] = norm_S1 + norm_C - 2 * part @ np.asarray(y_MD[at], np.float64).T
        yield slice(i, i + len(part)), np.maximum(d_SM, 0, out=d_SM)


def _radii(x_ND: Features, neighbors: tuple[int, ...]) -> tuple[list[NDArray[np.float64]], NDArray[np.intp]]:
    """Return each member's squared distance to its k-th neighbor, for each k, and which its nearest ones are."""
    most = min(max(neighbors), len(x_ND) - 1)
    found, near_NK = [np.empty(len(x_ND)) for _ in neighbors], np.empty((len(x_ND), most), np.intp)
    for at, d_SN in _strips(x_ND, x_ND):
        # The nearest of all is the image itself.
        d_SN[np.arange(len(d_SN)), np.arange(at.start, at.stop)] = -1.0
        nearest_SK = np.argpartition(d_SN, most, axis=1)[:, : most + 1]
        d_SK = np.take_along_axis(d_SN, nearest_SK, 1)
        order_SK = np.argsort(d_SK, axis=1)[:, 1:]
        near_NK[at], d_SK = np.take_along_axis(nearest_SK, order_SK, 1), np.take_along_axis(d_SK, order_SK, 1)
        for radius, k in zip(found, neighbors, strict=True):
            radius[at] = d_SK[:, min(k, most) - 1]
    return found, near_NK
