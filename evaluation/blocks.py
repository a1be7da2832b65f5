"""Block-FID and Block-KID (paper, section on metrics): distances of blocks, at any size of canvas, without resizing.

A canvas is cut into blocks. Blocks that coincide with patches would never show a patch border, so the grid is shifted
by half a block. Two ways to make one number of them are both stated: the mean over positions of the distance at each
(the paper's "average the FID over blocks"), and the distance of all blocks pooled.

Canvases larger than the real images (the paper's x4) have positions that no real image has: there, each position
is compared with all real blocks.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Distance, disjoint_parts
from evaluation.feature_cache import FeatureSet
from evaluation.fid import FidAgainst, fid
from evaluation.images import ImageSet, Pixels
from evaluation.jackknife import Times, of_two_sets, pairs_of_two_sets
from evaluation.kid import LARGEST_FULL, KidAgainst, Terms, kid
from evaluation.protocol import Blocks

Kind = Literal["kid", "fid"]
Place = tuple[int, int]


@dataclass(frozen=True)
class BlockSet:
    """Features of the blocks of a set of canvases.

    Attributes:
        features: of every block; ``clusters_N`` says of which file, since crops of one file are not independent.
        places: row and column of each block in its canvas's grid.
        owners_N: which canvas a block is of; by default each file is one.
    """

    features: FeatureSet
    places: list[Place]
    owners_N: NDArray[np.intp] | None = None

    def canvases(self) -> NDArray[np.intp]:
        """Return which canvas each block is of."""
        return self.features.clusters_N if self.owners_N is None else self.owners_N

    def positions(self) -> list[Place]:
        """Return the positions that there are, in order."""
        return sorted(set(self.places))

    def at(self, place: Place) -> NDArray[np.intp]:
        """Return the numbers of the blocks at a position."""
        return np.array([i for i, found in enumerate(self.places) if found == place], np.intp)


def blocks_of(image_YX3: Pixels, side: int, *, shifted: bool) -> Iterator[tuple[Place, Pixels]]:
    """Yield the blocks of a canvas with their row and column; what is left over at the lower right is not used."""
    start = side // 2 if shifted else 0
    height, width = image_YX3.shape[:2]
    for row, y in enumerate(range(start, height - side + 1, side)):
        for column, x in enumerate(range(start, width - side + 1, side)):
            yield (row, column), image_YX3[y : y + side, x : x + side]


def blocks_in(size: tuple[int, int], wanted: Blocks) -> int:
    """Return how many blocks a canvas of so many rows and columns has."""
    start = wanted.side // 2 if wanted.shifted else 0
    rows, columns = (len(range(start, side - wanted.side + 1, wanted.side)) for side in size)
    return rows * columns


def count_of_blocks(images: ImageSet, wanted: Blocks) -> int:
    """Return how many blocks the canvases of a set have, before any is decoded."""
    return sum(blocks_in(size, wanted) for size in images.canvas_sizes())


def pooled(real: BlockSet, ours: BlockSet, kind: Kind, *, seed: int = 0) -> Distance:
    """Return the distance of all blocks of ``ours`` from all of ``real``; canvases are independent, not blocks."""
    x, y = real.features, ours.features
    if kind == "kid":
        return kid(x.features_ND, y.features_ND, clusters_N=x.clusters_N, clusters_M=y.clusters_N, seed=seed)
    return fid(x.features_ND, y.features_ND, clusters_N=x.clusters_N, clusters_M=y.clusters_N)


def by_position(
    real: BlockSet, ours: BlockSet, kind: Kind, *, against: Literal["position", "pooled"], interval: bool = True
) -> Distance:
    """Return the mean over positions of the distance there; a canvas counts at all of its positions alike.

    Args:
        real: the real blocks.
        ours: the others.
        kind: which distance.
        against: real blocks of the same position, or all of them.
        interval: whether to make one.

    Raises:
        ValueError: if a position of ``ours`` is not there in ``real`` (compare with ``against="pooled"``), or a
            position has fewer than two blocks.
    """
    x, y = real.features, ours.features
    positions = ours.positions()
    chosen = [(real.at(p) if against == "position" else np.arange(len(x)), ours.at(p)) for p in positions]
    for place, (theirs, mine) in zip(positions, chosen, strict=True):
        if min(len(theirs), len(mine)) < 2:
            raise ValueError(f"block {place} is in {len(theirs)} real and {len(mine)} other canvases, two are needed")
    sizes = (min(len(theirs) for theirs, _ in chosen), min(len(mine) for _, mine in chosen))
    how = f"mean over {len(positions)} positions"
    everything = _against(x.features_ND, x.clusters_N, kind) if against == "pooled" else None
    measures = [everything or _against(x.features_ND[at], x.clusters_N[at], kind) for at, _ in chosen]
    value = float(
        np.mean(
            [
                one.value(y.features_ND[mine], clusters_M=y.clusters_N[mine])
                if isinstance(one, KidAgainst)
                else one.value(y.features_ND[mine])
                for one, (_, mine) in zip(measures, chosen, strict=True)
            ]
        )
    )
    if not interval:
        return Distance(value, 0.0, value, value, *sizes, how)
    if kind == "kid":
        same = all(
            np.array_equal(np.unique(z.clusters_N[at[side]]), np.unique(z.clusters_N))
            for at in chosen
            for side, z in enumerate((x, y))
        )
        if not same:
            # No interval: canvases that lie at some positions only weigh differently at each.
            return Distance(
                value, math.nan, math.nan, math.nan, *sizes, f"{how}; no interval: canvases of unequal size"
            )
        terms = [
            one.terms(y.features_ND[mine], clusters_M=y.clusters_N[mine])
            for one, (_, mine) in zip(measures, chosen, strict=True)
            if isinstance(one, KidAgainst)
        ]
        _, std, low, high = Terms.mean(terms).interval()
        return Distance(value, std, low, high, *sizes, f"{how}; interval: of the two distributions, over canvases")

    def mean(times_BN: Times, times_BM: Times) -> NDArray[np.float64]:
        found = np.zeros(len(times_BN))
        for one, (theirs, mine) in zip(measures, chosen, strict=True):
            assert isinstance(one, FidAgainst)
            drawn = _at_least_two(times_BN[:, theirs]), _at_least_two(times_BM[:, mine])
            found += one.weighted(y.features_ND[mine], *drawn) / len(positions)
        return found

    influence = np.zeros(len(x)), np.zeros(len(y))
    for one, (theirs, mine) in zip(measures, chosen, strict=True):
        assert isinstance(one, FidAgainst)
        for side, (at, gained) in enumerate(zip((theirs, mine), one.influence(y.features_ND[mine]), strict=True)):
            influence[side][at] += gained * len(influence[side]) / (len(at) * len(positions))
    own = x.clusters_N, y.clusters_N
    std, low, high = of_two_sets(value, influence, own, pairs_of_two_sets(mean, own, (len(x), len(y))))
    how += "; interval: of the expectation at these numbers of images, over canvases"
    return Distance(value, std, low, high, *sizes, how)


def _against(x_ND: NDArray[np.float32], clusters_N: NDArray[np.intp], kind: Kind) -> KidAgainst | FidAgainst:
    if kind == "fid":
        return FidAgainst(x_ND)
    if len(x_ND) > LARGEST_FULL:
        raise ValueError(f"{len(x_ND)} blocks at one position, at most {LARGEST_FULL} fit: give fewer canvases")
    return KidAgainst(x_ND, clusters_N)


def floor(
    real: BlockSet, canvases: int, measure: Callable[[BlockSet, BlockSet], float], *, splits: int, seed: int
) -> Distance:
    """Return what other real canvases would get: ``canvases`` of them, or half of them, against the rest.

    Raises:
        ValueError: if there are fewer than four real canvases.
    """
    names, first = np.unique(real.canvases(), return_index=True)
    files = real.features.clusters_N[first]
    if len(names) < 4:
        raise ValueError(f"{len(names)} real canvases: at least 4 are needed for two parts")
    rng = np.random.default_rng(seed)
    values = np.empty(splits)
    sizes = []
    for i in range(splits):
        part, rest = disjoint_parts(files, canvases, rng)
        sizes.append((len(rest), len(part)))
        values[i] = measure(_of_canvases(real, names[rest]), _of_canvases(real, names[part]))
    how = f"real against real, {splits} random splits into a part and the rest"
    return Distance.of_splits(values, *min(sizes), how)


def _of_canvases(blocks: BlockSet, names: NDArray[np.intp]) -> BlockSet:
    kept = np.flatnonzero(np.isin(blocks.canvases(), names))
    old = blocks.features
    picked = FeatureSet(old.features_ND[kept], old.scores_NK[kept], old.clusters_N[kept])
    return BlockSet(picked, [blocks.places[i] for i in kept], blocks.canvases()[kept])


def _at_least_two(times_BN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace what leaves fewer than two members by the whole set; rare unless the set is tiny."""
    few = (times_BN > 0).sum(1) < 2
    times_BN = times_BN.copy()
    times_BN[few] = 1.0
    return times_BN
