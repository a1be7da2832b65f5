"""Frechet distance between two sets of features (Heusel et al. 2017), in float64 and bounded memory.

Biased upwards by the sample size: below some thousand images prefer the kernel distance. With other features than
those of the 2015 Inception network it is not FID and must not be called so.

Shape legend: N, M members of the sets, D features, B distances asked for at once.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Distance, Features, brought_to, check_features, check_halves, disjoint_parts
from evaluation.jackknife import MOST, of_two_sets, pairs_of_two_sets

_CHUNK: Final = 2048
_FEW_SPLITS: Final = 2000
"""Above this many images a floor is of five splits."""


def frechet_distance(x_ND: Features, y_MD: Features, *, ddof: int = 1) -> float:
    """Return the squared Frechet distance of the normal distributions fitted to two sets of features.

    Covariances are divided by the number of members less ``ddof``: 1 for FID, 0 for FVD as StyleGAN-V and cd-fvd have
    it.

    The trace of ``(S_x S_y) ** 0.5`` is the sum of the singular values of the product of the two centerd feature
    matrices, so no root of a rank-deficient matrix is taken: exact for fewer images than features, where the usual
    way adds noise. Large sets are read in parts.
    """
    check_features(x_ND, y_MD)
    return FidAgainst(x_ND, ddof=ddof).value(y_MD)


def fid(
    x_ND: Features,
    y_MD: Features,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    clusters_M: NDArray[np.intp] | None = None,
    ddof: int = 1,
) -> Distance:
    """Return the Frechet distance of two sets of features with an interval.

    The interval is of the expectation of this number at these two numbers of images, not of the distance of the two
    distributions, from which the number itself is away (:func:`of_two_sets`).

    Args:
        x_ND: features of the first set.
        y_MD: features of the second set.
        clusters_N: which canvas a member of the first set comes from; canvases are independent. By default each is one.
        clusters_M: the same for the second set.
        ddof: see :func:`frechet_distance`.

    Raises:
        ValueError: if a set has fewer than two members, or the feature lengths differ.
    """
    check_features(x_ND, y_MD)
    against = FidAgainst(x_ND, ddof=ddof)
    value, influence = against.value(y_MD), against.influence(y_MD)
    own_N = np.arange(len(x_ND)) if clusters_N is None else clusters_N
    own_M = np.arange(len(y_MD)) if clusters_M is None else clusters_M
    some_N, some_M = (np.sort(np.random.default_rng(0).permutation(count)[:MOST]) for count in (len(x_ND), len(y_MD)))
    some = FidAgainst(x_ND[some_N], ddof=ddof) if len(x_ND) > MOST else against
    pairs = pairs_of_two_sets(
        lambda u_BN, v_BM: some.weighted(y_MD[some_M], u_BN, v_BM),
        (own_N[some_N], own_M[some_M]),
        (len(x_ND), len(y_MD)),
    )
    std, low, high = of_two_sets(value, influence, (own_N, own_M), pairs)
    how = "all images; interval: of the expectation at these numbers of images, over canvases"
    return Distance(value, std, low, high, len(x_ND), len(y_MD), how)


class FidAgainst:
    """Distances of other sets from one that is gone through once."""

    def __init__(self, x_ND: Features, *, ddof: int = 1) -> None:
        self._x_ND, self._ddof = x_ND, ddof
        self._mean, self._root = _mean_and_root(x_ND, ddof)

    def value(self, y_MD: Features) -> float:
        """Return the distance, as :func:`frechet_distance`."""
        mean, root = _mean_and_root(y_MD, self._ddof)
        shared = np.linalg.svd(self._root @ root.T, compute_uv=False).sum()
        return float(((self._mean - mean) ** 2).sum() + (self._root**2).sum() + (root**2).sum() - 2 * shared)

    def influence(self, y_MD: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what the distance gains as a member of either set counts more, ``[N]`` and ``[M]``.

        That is ``2 (m_x - m_y) x + x (1 - A) x`` for a member x less its mean, where A maps one normal distribution to
        the other: the derivative of the distance by mean and covariance.
        """
        mean, root = _mean_and_root(y_MD, self._ddof)
        left, sizes, right = np.linalg.svd(self._root @ root.T, full_matrices=False)
        kept, way = sizes > 1e-9 * sizes[0], self._mean - mean
        maps = root.T @ right[kept].T / np.sqrt(sizes[kept]), self._root.T @ left[:, kept] / np.sqrt(sizes[kept])
        return _gained(self._x_ND, self._mean, way, maps[0]), _gained(y_MD, mean, -way, maps[1])

    def weighted(
        self, y_MD: Features, times_BN: NDArray[np.float64], times_BM: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the distances where members count so often as ``times`` say.

        Only inner products enter, so each costs one product of the two sets' sizes.
        """
        # Only differences count: near the origin less is lost to rounding.
        x_ND, y_MD = (np.asarray(z, np.float64) - self._mean for z in (self._x_ND, y_MD))
        n_B, m_B = times_BN.sum(1), times_BM.sum(1)
        mean_x_BD, mean_y_BD = times_BN @ x_ND / n_B[:, None], times_BM @ y_MD / m_B[:, None]
        trace_x_B = (times_BN @ (x_ND**2).sum(1) - n_B * (mean_x_BD**2).sum(1)) / (n_B - self._ddof)
        trace_y_B = (times_BM @ (y_MD**2).sum(1) - m_B * (mean_y_BD**2).sum(1)) / (m_B - self._ddof)
        cross_NM, x_my_NB, y_mx_MB = x_ND @ y_MD.T, x_ND @ mean_y_BD.T, y_MD @ mean_x_BD.T
        means_B = (mean_x_BD * mean_y_BD).sum(1)
        values = ((mean_x_BD - mean_y_BD) ** 2).sum(1) + trace_x_B + trace_y_B
        for b, (u_N, v_M) in enumerate(zip(times_BN, times_BM, strict=True)):
            rows, columns = np.flatnonzero(u_N), np.flatnonzero(v_M)
            product = cross_NM[np.ix_(rows, columns)] - x_my_NB[rows, b, None] - y_mx_MB[columns, b] + means_B[b]
            product *= np.sqrt(u_N[rows] / (n_B[b] - self._ddof))[:, None] * np.sqrt(
                v_M[columns] / (m_B[b] - self._ddof)
            )
            gram = product @ product.T if len(rows) < len(columns) else product.T @ product
            values[b] -= 2 * np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None)).sum()
        return np.asarray(values)


def real_floor(
    real_ND: Features,
    n: int,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    splits: int = 50,
    seed: int = 0,
    ddof: int = 1,
) -> Distance:
    """Return the distance of real images from other real images at the numbers of ours: here it is the bias.

    N real images cannot be parted into N and n others, so parts of them are measured, and halves of these parts; a
    power of ``1 / N + 1 / M`` through both says what there is at (N, n). With more images than features the power is
    one, as Chong and Forsyth (2020, "Effectively unbiased FID and Inception score") found; with fewer it is less.

    Args:
        real_ND: features of real images.
        n: how many there are of ours.
        clusters_N: which file a real image comes from; no file is on both sides. By default each is one.
        splits: random partings; above 2000 images five are enough.
        seed: of the parting.
        ddof: see :func:`frechet_distance`.

    Raises:
        ValueError: if there are fewer than four images.
    """
    check_halves(len(real_ND), n)
    clusters_N = np.arange(len(real_ND)) if clusters_N is None else clusters_N
    rng = np.random.default_rng(seed)
    splits = min(splits, 5) if min(n, len(real_ND) // 2) > _FEW_SPLITS else splits
    values, inverse = np.empty((2, 2, splits))
    for i in range(splits):
        sides = disjoint_parts(clusters_N, n, rng)
        small = [disjoint_parts(clusters_N[side], len(side), rng)[0] for side in sides]
        small = [side[part] if len(part) > 1 else side for side, part in zip(sides, small, strict=True)]
        for j, (a, b) in enumerate((sides, small)):
            values[j, i] = frechet_distance(real_ND[b], real_ND[a], ddof=ddof)
            inverse[j, i] = 1 / len(a) + 1 / len(b)
    found, power = brought_to(1 / len(real_ND) + 1 / n, values.ravel(), inverse.ravel())
    how = f"real against real, {splits} random splits by file, brought to these numbers by (1/N + 1/M)^{power:.2f}"
    return Distance.of_splits(found, len(real_ND), n, how)


def _mean_and_root(x_ND: Features, ddof: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and a matrix ``R`` whose ``R.T @ R`` is the covariance, with at most D rows."""
    n, width = x_ND.shape
    chunks = range(0, n, _CHUNK)
    mean = sum(np.asarray(x_ND[i : i + _CHUNK], np.float64).sum(0) for i in chunks) / n
    root = np.zeros((0, width))
    for i in chunks:
        part = (np.asarray(x_ND[i : i + _CHUNK], np.float64) - mean) / np.sqrt(n - ddof)
        root = np.concatenate([root, part])
        if len(root) > width:
            root = np.asarray(np.linalg.qr(root, mode="r"))
    return np.asarray(mean), root


def _gained(
    z_ND: Features, mean: NDArray[np.float64], way: NDArray[np.float64], map_DK: NDArray[np.float64]
) -> NDArray[np.float64]:
    found = []
    for i in range(0, len(z_ND), _CHUNK):
        off_ND = np.asarray(z_ND[i : i + _CHUNK], np.float64) - mean
        found.append(2 * off_ND @ way + (off_ND**2).sum(1) - ((off_ND @ map_DK) ** 2).sum(1))
    return np.concatenate(found)
