"""Monge Inception Distance: the sliced Wasserstein distance of two sets of features (MIND; Berthet et al. 2026).

Along a direction the optimal transport of two sets pairs them in order, so nothing but sorting is needed, and no
covariance is estimated: at some hundred images it has settled far more than a Frechet distance. Source:
arXiv 2605.06797; directions, subsets and scale are those of torch-fidelity 0.5, whose numbers these are.

With other features than those of the 2015 Inception network it is not MIND and carries their prefix.

Shape legend: N, M members of the sets, D features, P directions.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Distance, Features, brought_to, check_features, check_halves, disjoint_parts
from evaluation.jackknife import GROUPS, MOST, Gone, of_two_sets, pairs_left_out, parts_of

_STRIP: Final = 64
"""Directions that are looked along at once."""

_CHUNK: Final = 8192
"""Members that are brought to float64 at once."""

_FEW: Final = 20
"""Below so many canvases the interval is known to hold less than it says (simulated: 91 to 94 %)."""


def mind(
    x_ND: Features,
    y_MD: Features,
    *,
    clusters_N: NDArray[np.intp] | None = None,
    clusters_M: NDArray[np.intp] | None = None,
    projections: int = 1000,
    seed: int = 2020,
) -> Distance:
    """Return ``3 D / (N P) * sum (sort(X u_p) - sort(Y u_p)) ** 2`` over P random directions ``u_p`` of length 1.

    The scale ``3 D`` is the paper's: a shift of the mean by ``v`` counts ``3 |v| ** 2``. Of the larger set as many
    members as the smaller one has are drawn. As every Wasserstein distance of samples it lies above that of the
    distributions, by about 1 / N: only numbers at one N compare.

    Args:
        x_ND: features of the first set.
        y_MD: features of the second set.
        clusters_N: which canvas a member of the first set comes from; canvases are independent. By default each is one.
        clusters_M: the same for the second set.
        projections: number of directions P; it moves the number.
        seed: of the directions and of the subset; it moves the number.

    Raises:
        ValueError: if a set has fewer than two members, or the feature lengths differ.
    """
    check_features(x_ND, y_MD)
    kept, directions_PD = _drawn((len(x_ND), len(y_MD)), x_ND.shape[1], projections, seed)
    x, y = (z if len(at) == len(z) else z[at] for z, at in zip((x_ND, y_MD), kept, strict=True))
    own = [
        at if clusters is None else clusters[at] for at, clusters in zip(kept, (clusters_N, clusters_M), strict=True)
    ]
    total, potentials = 0.0, np.zeros((2, len(x)))
    for u_SD in _strips(directions_PD):
        along = _along(x, u_SD), _along(y, u_SD)
        total += float(((np.sort(along[0], axis=0) - np.sort(along[1], axis=0)) ** 2).mean(0).sum())
        potentials += _potential(*along), _potential(*along[::-1])
    scale = 3 * x.shape[1] / projections
    value = scale * total
    influence = scale * potentials[0], scale * potentials[1]
    pairs = _by_pairs((x, y), own, directions_PD, scale)
    std, low, high = of_two_sets(value, influence, (own[0], own[1]), pairs)
    how = f"{projections} directions, seed {seed}, {len(x)} images a side; interval: of the expectation at this number"
    few = min(len(np.unique(canvases)) for canvases in own) < _FEW
    how += ", over canvases" + (f", of so few (below {_FEW}) it holds some 92 %, not 95 %" if few else "")
    return Distance(value, std, low, high, len(x_ND), len(y_MD), how)


def _by_pairs(
    sets: tuple[Features, Features],
    clusters: Sequence[NDArray[np.intp]],
    directions_PD: NDArray[np.float64],
    scale: float,
) -> tuple[float, float, float]:
    """Return the variances by pairs of canvases, of at most `MOST` images of each set: they fall with its square."""
    rng = np.random.default_rng(0)
    n = len(sets[0])
    kept = [np.sort(rng.permutation(n)[:MOST]) for _ in sets]
    own = [found[at] for found, at in zip(clusters, kept, strict=True)]
    groups = [parts_of(found, GROUPS, np.random.default_rng(0)) for found in own]

    def costs(asked: Sequence[Gone]) -> NDArray[np.float64]:
        found = np.zeros(len(asked))
        for u_SD in _strips(directions_PD):
            ordered = []
            for z_ND, at, own_N in zip(sets, kept, groups, strict=True):
                along_NS = _along(z_ND[at], u_SD)
                order = np.argsort(along_NS, axis=0)
                ordered.append((np.take_along_axis(along_NS, order, 0).T, own_N[order].T))
            left: list[dict[tuple[int, ...], NDArray[np.float64]]] = [{}, {}]
            for both in asked:
                for side, gone in enumerate(both):
                    if gone not in left[side]:
                        z_SN, own_SN = ordered[side]
                        left[side][gone] = z_SN[~np.isin(own_SN, gone)].reshape(len(z_SN), -1)
            found += [_transport(left[0][x], left[1][y]) for x, y in asked]
        return scale * found

    counts = len(np.unique(own[0])), len(np.unique(own[1]))
    xx, yy, xy = pairs_left_out(costs, (groups[0], groups[1]), counts)
    smaller = (len(kept[0]) / n) ** 2
    return smaller * xx, smaller * yy, smaller * xy


def _transport(x_SN: NDArray[np.float64], y_SM: NDArray[np.float64]) -> float:
    """Return the cost of the transport between sets of unequal numbers, each in order, summed over directions."""
    n, m = x_SN.shape[1], y_SM.shape[1]
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    return float(((x_SN[:, (ends - 1) // m] - y_SM[:, (ends - 1) // n]) ** 2 @ widths).sum())


def _potential(x_NS: NDArray[np.float64], y_NS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Kantorovich's potential of each member of the first set, summed over directions.

    It is what the cost of the transport gains when a member counts more, and so its spread is the distance's (del
    Barrio and Loubes 2019): its slope is twice the way from a member to its partner.
    """
    order = np.argsort(x_NS, axis=0)
    sorted_NS = np.take_along_axis(x_NS, order, 0)
    way_NS = sorted_NS - np.sort(y_NS, axis=0)
    rise_NS = np.zeros_like(way_NS)
    rise_NS[1:] = np.cumsum((way_NS[1:] + way_NS[:-1]) * np.diff(sorted_NS, axis=0), axis=0)
    found = np.empty_like(rise_NS)
    np.put_along_axis(found, order, rise_NS, 0)
    return np.asarray(found.sum(1))


def real_floor(
    real_ND: Features,
    n: int,
    *,
    clusters_N: NDArray[np.intp],
    splits: int,
    projections: int = 1000,
    directions_seed: int = 2020,
    seed: int = 0,
) -> Distance:
    """Return the distance of real images from other real images: the bias at the number of images that is compared.

    N real images cannot be parted into n and n others if n is more than half of them, so equal parts are measured, and
    halves of these, and a power of 1 / N through both says what there is at the number (as
    :func:`evaluation.fid.real_floor`; in one dimension the power is nearly one).

    Args:
        real_ND: features of real images.
        n: how many there are of ours.
        clusters_N: which file a real image comes from; no file is on both sides.
        splits: random partings.
        projections: as :func:`mind`.
        directions_seed: as :func:`mind`.
        seed: of the parting.

    Raises:
        ValueError: if there are fewer than four images.
    """
    check_halves(len(real_ND), n)
    rng = np.random.default_rng(seed)
    parts = [disjoint_parts(clusters_N, n, rng) for _ in range(splits)]
    pairs = [(part, np.sort(rng.permutation(rest)[: len(part)])) for part, rest in parts]
    pairs = [(part[: len(rest)], rest) for part, rest in pairs]
    pairs += [_halves(a, b, clusters_N, rng) for a, b in pairs]
    values = np.zeros(len(pairs))
    for u_SD in _strips(_drawn((2, 2), real_ND.shape[1], projections, directions_seed)[1]):
        along_NS = _along(real_ND, u_SD)
        for i, (a, b) in enumerate(pairs):
            values[i] += ((np.sort(along_NS[a], axis=0) - np.sort(along_NS[b], axis=0)) ** 2).mean(0).sum()
    values *= 3 * real_ND.shape[1] / projections
    inverse = np.array([1 / len(a) for a, _ in pairs])
    asked = min(n, len(real_ND))
    values, power = brought_to(1 / asked, values, inverse)
    how = f"real against real, {splits} random splits by file, brought to this number by (1/N)^{power:.2f}"
    return Distance.of_splits(values, asked, asked, how)


def _halves(
    a: NDArray[np.intp], b: NDArray[np.intp], clusters_N: NDArray[np.intp], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the crops of half of the files of either side, equally many of both."""
    small = [side[disjoint_parts(clusters_N[side], len(side), rng)[0]] for side in (a, b)]
    count = min(map(len, small))
    return (small[0][:count], small[1][:count]) if count > 1 else (a, b)


def _drawn(
    counts: tuple[int, int], width: int, projections: int, seed: int
) -> tuple[list[NDArray[np.intp]], NDArray[np.float64]]:
    """Return equally many members of both sets, and the directions: torch-fidelity's draws, in its order."""
    import torch

    generator, n = torch.Generator().manual_seed(seed), min(counts)
    kept = [
        np.arange(n) if count == n else torch.randperm(count, generator=generator)[:n].numpy().astype(np.intp)
        for count in counts
    ]
    u_PD = torch.randn(projections, width, generator=generator).double()
    return kept, (u_PD / u_PD.norm(dim=1, keepdim=True)).numpy()


def _along(x_ND: Features, u_SD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the float64 coordinates along directions, ``[N, S]``, without a float64 copy of all features."""
    parts = range(0, len(x_ND), _CHUNK)
    return np.concatenate([np.asarray(x_ND[i : i + _CHUNK], np.float64) @ u_SD.T for i in parts])


def _strips(directions_PD: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for i in range(0, len(directions_PD), _STRIP):
        yield directions_PD[i : i + _STRIP]
