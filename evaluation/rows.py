"""The rows of a report: each metric's number, interval and floor under the name that it deserves.

A row is a plain mapping: ``name``, ``set``, ``value``, ``std``, ``low``, ``high``, ``n``, ``better`` ("lower",
"higher"), ``how``; and the floor, what ``floor_n`` real images get: ``floor``, ``floor_std``, ``floor_n``.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation import blocks as block_distances
from evaluation import fid as frechet
from evaluation import kid as kernel
from evaluation import mind as monge
from evaluation.blocks import BlockSet
from evaluation.collapse import collapse_of
from evaluation.color import NAMES
from evaluation.estimates import Distance, Estimate, disjoint_parts, of_mean, of_median, of_share
from evaluation.feature_cache import FeatureSet
from evaluation.images import ImageSet, Pixels
from evaluation.inception_score import inception_score
from evaluation.looking import Look
from evaluation.manifold import authentic, manifold, nearest_of, nearest_of_another_file
from evaluation.pairs import two_rows
from evaluation.perceptual import PerceptualDistance, diversity
from evaluation.protocol import Blocks, Collapse, Manifold, Protocol, Seams
from evaluation.published import cmmd
from evaluation.seams import ratio_of
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)
Row = dict[str, Any]


def of_estimate(name: str, which: str, found: Estimate, *, better: str, floor: Estimate | None = None) -> Row:
    """Return the row of a number."""
    row: Row = {
        "name": name, "set": which, "value": found.value, "std": found.std, "low": found.low, "high": found.high,
        "n": found.n, "better": better, "how": found.how,
    }  # fmt: skip
    if floor is not None:
        row |= {"floor": floor.value, "floor_std": floor.std, "floor_n": floor.n}
    return _plain(row)


def _plain(row: Row) -> Row:
    """Return a row in which an interval that there is none of is None."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def of_distance(name: str, which: str, found: Distance, floor: Distance, *, better: str = "lower") -> Row:
    """Return the row of a distance of a set from the real images."""
    row: Row = {
        "name": name, "set": which, "value": found.value, "std": found.std, "low": found.low, "high": found.high,
        "n": found.n_y, "n_real": found.n_x, "better": better, "how": found.how,
        "floor": floor.value, "floor_std": floor.std, "floor_n": floor.n_y, "floor_n_real": floor.n_x,
        "floor_how": floor.how,
    }  # fmt: skip
    return _plain(row)


def distances(
    prefix: str, which: str, features: dict[str, FeatureSet], protocol: Protocol, images: ImageSet
) -> list[Row]:
    """Return the rows of kernel and Frechet distance.

    Raises:
        UsageError: if there are too few images for a Frechet distance and the protocol refuses that.
    """
    real, ours = features["real"], features[which]
    found: list[Row] = []
    shared: dict[str, Any] = {"clusters_N": real.clusters_N, "clusters_M": ours.clusters_N}
    if protocol.metrics.fid is not None and protocol.metrics.fid.low_rank == "refuse":
        _check_rank(prefix, real, ours, images, protocol)
    if protocol.metrics.kid is not None:
        wanted = protocol.metrics.kid
        floor = kernel.real_floor(
            real.features_ND, len(ours), clusters_N=real.clusters_N, splits=protocol.splits, seed=protocol.seed
        )
        value = kernel.kid(
            real.features_ND, ours.features_ND, **shared, seed=protocol.seed,
            subset_size=wanted.subset_size, subsets=wanted.subsets,
        )  # fmt: skip
        found.append(of_distance(f"{prefix}KID", which, value, floor))
    if protocol.metrics.cmmd:
        both = real.features_ND, ours.features_ND
        found.append(of_biased(f"{prefix}CMMD", which, cmmd, both, real.clusters_N, protocol))
    if protocol.metrics.mind is not None:
        along, looked = protocol.metrics.mind, protocol.metrics.mind.projections
        value = monge.mind(real.features_ND, ours.features_ND, **shared, projections=looked, seed=along.seed)
        floor = monge.real_floor(
            real.features_ND, len(ours), clusters_N=real.clusters_N, splits=protocol.splits, projections=looked,
            directions_seed=along.seed, seed=protocol.seed,
        )  # fmt: skip
        row = of_distance(f"{prefix}MIND", which, value, floor)
        found.append({**row, "projections": looked, "projections_seed": along.seed})
    if protocol.metrics.fid is not None:
        value = frechet.fid(real.features_ND, ours.features_ND, **shared)
        row = of_distance(f"{prefix}FID", which, value, _fid_floor(real, len(ours), protocol))
        if min(len(real), len(ours)) <= real.features_ND.shape[1]:
            row["low_rank"] = True
            row["how"] += "; fewer images than features: the floor is its bias"
        found.append(row)
    return found


def of_classes(prefix: str, features: dict[str, FeatureSet], protocol: Protocol) -> list[Row]:
    """Return the row of the inception score; its floor is what as many real images get."""
    wanted, ours, real = protocol.metrics.inception_score, features["generated"], features["real"]
    if wanted is None or not ours.scores_NK.shape[1]:
        return []
    options = {"splits": wanted.splits, "resamples": protocol.resamples, "seed": protocol.seed}
    value = inception_score(ours.scores_NK, clusters_N=ours.clusters_N, **options)
    part = _parts(real, len(ours), protocol.seed)[0]
    floor = inception_score(real.scores_NK[part], clusters_N=real.clusters_N[part], **options)
    return [of_estimate(f"{prefix}IS", "generated", value, better="higher", floor=floor)]


def manifolds(prefix: str, features: dict[str, FeatureSet], wanted: Manifold, images: ImageSet, seed: int) -> list[Row]:
    """Return the rows of precision, recall, density and coverage; the floor is a part of the real images.

    Raises:
        UsageError: if a set is smaller than the neighborhoods.
    """
    real, ours = features["real"].features_ND, features["generated"].features_ND
    part, rest = _parts(features["real"], len(ours), seed)
    options = {"k": wanted.k, "k_coverage": wanted.k_coverage}
    try:
        all_real, mine = features["real"].clusters_N, features["generated"].clusters_N
        found = manifold(real, ours, **options, clusters_N=all_real, clusters_M=mine)
        floor = manifold(real[rest], real[part], **options, clusters_N=all_real[rest], clusters_M=all_real[part])
    except ValueError as error:
        raise UsageError(images.option, images.where, f"{error}: add some") from error
    names = ("precision", "recall", "density", "coverage")
    label = prefix or "inception-"
    found_rows = [
        of_estimate(f"{label}{name}", "generated", getattr(found, name), better="higher", floor=getattr(floor, name))
        for name in names
    ]
    return [row if "density" in row["name"] else {**row, "share": True} for row in found_rows]


def nearest(prefix: str, features: dict[str, FeatureSet]) -> list[Row]:
    """Return the row of the median distance to the nearest real image; the floor is that to one of another file.

    A model that repeats its training images lies far below the floor. Samples look among all real images, so that half
    of them being copies makes the median nothing.
    """
    real, ours = features["real"], features["generated"]
    how = "median; interval: Woodruff, over canvases, the real images held fixed; far below the floor: copies"
    others_N = nearest_of_another_file(real.features_ND, real.clusters_N)
    floor = of_median(others_N, real.clusters_N, how) if np.isfinite(others_N).all() else None
    value = of_median(nearest_of(ours.features_ND, real.features_ND)[0], ours.clusters_N, how)
    name = f"{prefix or 'inception-'}nearest real"
    return [of_estimate(name, "generated", value, better="as real", floor=floor)]


def copies(looks: dict[str, Look]) -> Row:
    """Return the row of the share of generated files whose pixels, or mirrored pixels, are those of a real file."""
    theirs = {digest for both in looks["real"].hashes for digest in both}
    found = np.array([bool(theirs & both) for both in looks["generated"].hashes], np.float64)
    how = "share of files with the pixels of a real file or crop, as they are or mirrored; interval: Wilson"
    row = of_estimate("copies of real files", "generated", of_share(found, how=how), better="lower")
    return {**row, "floor": 0.0, "floor_std": 0.0, "floor_n": len(looks["real"].images.files), "share": True}


def authenticities(prefix: str, features: dict[str, FeatureSet], seed: int) -> list[Row]:
    """Return the row of the share of samples that are no near copy of a real image (Alaa et al. 2022).

    A sample counts if its nearest real image lies nearer to another file's crops than to the sample. The floor is what
    real images of other files get.
    """
    real, ours = features["real"], features["generated"]
    part, rest = _parts(real, len(ours), seed)
    how = "share farther from their nearest real image than that is from the next file's; interval: Wilson"

    def share(of: FeatureSet, at: NDArray[np.intp], against: NDArray[np.intp]) -> Estimate:
        hits = authentic(of.features_ND[at], real.features_ND[against], clusters_N=real.clusters_N[against])
        return of_share(hits.astype(np.float64), how=how, clusters_N=of.clusters_N[at])

    found, floor = share(ours, np.arange(len(ours)), np.arange(len(real))), share(real, part, rest)
    row = of_estimate(f"{prefix or 'inception-'}authenticity", "generated", found, better="as real", floor=floor)
    return [{**row, "share": True}]


def nearest_pairs(
    features: dict[str, FeatureSet],
    files: dict[str, list[Path]],
    some: dict[str, Callable[[NDArray[np.intp]], list[Pixels]]],
    count: int = 8,
) -> dict[str, Any]:
    """Return the samples that lie nearest to a real image, beside it: for a page that people look at.

    Args:
        features: of each set.
        files: of each set, by their number in ``clusters_N``.
        some: return images of a set by their numbers.
        count: how many.

    Returns:
        ``distances`` in feature space, names of ``generated`` and ``real`` files, and ``jpeg``, samples above and
        their nearest real images below, base64.
    """
    real, ours = features["real"], features["generated"]
    distances, index = nearest_of(ours.features_ND, real.features_ND)
    best = np.argsort(distances, kind="stable")[:count]
    return {
        "distances": [round(float(distances[i]), 6) for i in best],
        "generated": [files["generated"][ours.clusters_N[i]].name for i in best],
        "real": [files["real"][real.clusters_N[index[i]]].name for i in best],
        "jpeg": two_rows(some["generated"](best), some["real"](index[best])),
    }


def colors(looks: dict[str, Look], which: str) -> list[Row]:
    """Return a row of each color statistic, the mean over canvases beside that of real ones."""
    measured = {name: np.array(looks[name].colors, np.float64) for name in (which, "real")}
    how = "mean over canvases; interval: Student's t, over files"
    found: list[Row] = []
    for column, name in enumerate(NAMES):
        ours, real = (
            of_mean(values[:, column], how=how, clusters_N=looks[key].images.canvas_files())
            for key, values in measured.items()
        )
        found.append(of_estimate(f"color: {name}", which, ours, better="as real", floor=real))
    return found


def diversities(looks: dict[str, Look], distance: PerceptualDistance, pairs: int, seed: int) -> list[Row]:
    """Return the row of the perceptual distance among samples; the floor is that among real images."""
    try:
        found, floor = (
            diversity(distance, one.some, one.features.clusters_N, pairs=pairs, seed=seed)
            for one in (looks["generated"], looks["real"])
        )
    except UsageError:
        raise  # of a file that cannot be read
    except ValueError as error:
        raise UsageError("generated", looks["generated"].images.where, f"{error}: add some") from error
    return [of_estimate(f"{distance.name} diversity", "generated", found, better="higher", floor=floor)]


def blocks(prefix: str, looks: dict[str, Look], wanted: Blocks, protocol: Protocol) -> list[Row]:
    """Return the rows of the distances of blocks: mean over positions, and pooled.

    Raises:
        UsageError: if positions of canvases are in no real image.
    """
    found = {name: one.blocks for name, one in looks.items() if one.blocks is not None}
    real, ours = found["real"], found["generated"]
    larger = f" x{len(ours.positions()) / len(real.positions()):.3g}" if wanted.against == "pooled" else ""
    report: list[Row] = []
    for kind in wanted.distances:
        name = f"{prefix}Block-{kind.upper()}{larger}"
        try:
            report += _block_rows(name, kind, real, ours, wanted, protocol)
        except ValueError as error:
            hint = f"{error}: set metrics.blocks.against=pooled where canvases are larger than real images"
            raise UsageError("protocol.metrics.blocks", wanted.against, hint) from error
    return report


def seams(looks: dict[str, Look], which: str, wanted: Seams) -> list[Row]:
    """Return the row of the seam ratio, or none, and a warning, where images are of flat color inside every patch."""
    found, floor = (
        ratio_of(one.steps, one.images.canvas_files(), patch=wanted.patch, token=wanted.token)
        for one in (looks[which], looks["real"])
    )
    if not math.isfinite(found.value):
        # Told by a warning, since a report has no row of infinity.
        hint = f"patches of {wanted.patch} px are flat inside, which leaves nothing to compare their borders with"
        _LOG.warning("%s: no seam ratio: %s", looks[which].images.option, hint)
        return []
    report: list[Row] = []
    for name, side, a, b in (
        ("seam ratio", wanted.patch, found, floor), ("token grid ratio", wanted.token, found.lattice, floor.lattice),
        ("seam ratio, any place", wanted.patch, found.anywhere, floor.anywhere),
    ):  # fmt: skip
        if a is None or b is None or not math.isfinite(a.value):
            continue
        sides = {"across_x": a.across_x, "across_y": a.across_y}
        how = f"steps every {side} px over those between; interval: Student's t of the logarithm, over canvases"
        report.append(
            {
                "name": name, "set": which, "value": a.value, "std": a.std, "low": a.low, "high": a.high, "n": a.n,
                "better": "as real", "how": how,
                "floor": b.value, "floor_std": b.std, "floor_n": b.n,
                **{key: value for key, value in sides.items() if math.isfinite(value)},
                **({} if a.place is None else {"place": list(a.place)}),
            }
        )  # fmt: skip
    return [_plain(row) for row in report]


def collapsed(looks: dict[str, Look], wanted: Collapse) -> list[Row]:
    """Return the row of the share of collapsed canvases, or none where images are smaller than a window."""
    try:
        found = collapse_of(
            looks["real"].spreads, looks["generated"].spreads, window=wanted.window, percentile=wanted.percentile
        )
    except ValueError:
        return []
    how = "share of windows flatter than 95 % of these real ones; interval: Wilson, over canvases"
    share = of_share(found.flat_N.astype(np.float64), how=how, clusters_N=found.canvas_N)
    real = of_share(found.real_flat_N.astype(np.float64), how=how)
    row = of_estimate(f"collapsed ({wanted.window} px)", "generated", share, better="lower", floor=real)
    return [
        {
            **row, "share": True, "canvases": found.canvases, "collapsed": found.collapsed, "windows": found.windows,
            "flat": found.flat, "threshold": found.threshold,
        }
    ]  # fmt: skip


def _block_rows(
    name: str, kind: block_distances.Kind, real: BlockSet, ours: BlockSet, wanted: Blocks, protocol: Protocol
) -> list[Row]:

    def at_positions(x: BlockSet, y: BlockSet, interval: bool = False) -> Distance:
        return block_distances.by_position(x, y, kind, against=wanted.against, interval=interval)

    def value(x: BlockSet, y: BlockSet) -> float:
        return at_positions(x, y).value

    def all_at_once(x: BlockSet, y: BlockSet) -> float:
        if kind == "fid":
            return frechet.frechet_distance(x.features.features_ND, y.features.features_ND)
        against = kernel.KidAgainst(x.features.features_ND, x.features.clusters_N)
        return against.value(y.features.features_ND, clusters_M=y.features.clusters_N)

    canvases = len(set(ours.canvases().tolist()))
    in_one = len(real.places) / len(set(real.canvases().tolist()))
    options = {"splits": min(protocol.splits, 20), "seed": protocol.seed}
    floors = [
        block_distances.floor(real, canvases, value, **options),
        block_distances.floor(real, max(2, round(len(ours.places) / in_one)), all_at_once, **options),
    ]
    return [
        of_distance(f"{name} (positions)", "generated", at_positions(real, ours, interval=True), floors[0]),
        of_distance(
            f"{name} (pooled)", "generated",
            block_distances.pooled(real, ours, kind, seed=protocol.seed), floors[1],
        ),
    ]  # fmt: skip


def of_biased(
    name: str, which: str, distance: Callable[[Any, Any], float], sets: tuple[Any, Any], clusters_N: NDArray[np.intp],
    protocol: Any,
) -> Row:  # fmt: skip
    """Return the row of a kernel distance with pairs of an image (or clip) with itself, which has no interval."""
    real, ours = sets
    rng = np.random.default_rng(protocol.seed)
    parts = [disjoint_parts(clusters_N, len(ours), rng) for _ in range(protocol.splits)]
    floors = np.array([distance(real[rest], real[part]) for part, rest in parts])
    how = "biased, all of both; no interval: pairs of each with itself shift it by an unknown part"
    sizes = len(parts[0][1]), len(parts[0][0])
    floor = Distance.of_splits(floors, *sizes, "real against real")
    none = Distance(distance(real, ours), math.nan, math.nan, math.nan, len(real), len(ours), how)
    return of_distance(name, which, none, floor)


def _parts(real: FeatureSet, n: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return disjoint_parts(real.clusters_N, n, np.random.default_rng(seed))


def _fid_floor(real: FeatureSet, n: int, protocol: Protocol) -> Distance:
    return frechet.real_floor(
        real.features_ND, n, clusters_N=real.clusters_N, splits=protocol.splits, seed=protocol.seed
    )


def _check_rank(prefix: str, real: FeatureSet, ours: FeatureSet, images: ImageSet, protocol: Protocol) -> None:
    width = real.features_ND.shape[1]
    n = min(len(real), len(ours))
    if n > width:
        return
    bias = _fid_floor(real, n, protocol)
    hint = (
        f"{n} images, {prefix}FID needs more than its {width} features: at {bias.n_y} images real ones are "
        f"{bias.value:.3g} away from other real ones, which is its bias; add images, use {prefix}KID, or set "
        "metrics.fid.low_rank=state"
    )
    raise UsageError(images.option, images.where, hint)
