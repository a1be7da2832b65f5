"""How often 95 % intervals hold the number that they are of: simulated, over 400 repeats and more for each.

The figures are those of docs/evaluation.md: ``pytest -m slow -s tests/evaluation/test_coverage.py`` prints them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import fid as frechet
from evaluation import inception_score as classes
from evaluation import kid as kernel
from evaluation.blocks import BlockSet, by_position, pooled
from evaluation.collapse import collapse
from evaluation.color import NAMES, color_of
from evaluation.estimates import of_mean, of_median, of_share
from evaluation.feature_cache import FeatureSet
from evaluation.fid import fid
from evaluation.kid import kid
from evaluation.manifold import authentic, manifold, nearest_of
from evaluation.mind import mind
from evaluation.perceptual import _of_pairs_that_share
from evaluation.reconstruction import psnr, ssim
from evaluation.report.study import over_seeds
from evaluation.seams import seam_ratio

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
Rng = np.random.Generator
Make = Callable[[Rng], Any]
_DIM = 16
_WIDE = np.random.default_rng(98).normal(size=(120, 120)) / 11 * np.arange(1, 121) ** -0.3
_MIX = np.random.default_rng(99).normal(size=(_DIM, _DIM)) / 4


@dataclass(frozen=True)
class Case:
    """An interval.

    Attributes:
        make: a number with its interval, of other samples at each call; several take turns, each of its own truth.
        truth: what it is of; by default the expectation of the number, which is the mean over all repeats.
        repeats: samples.
        high: the most of them that may hold it.
    """

    make: Make | tuple[Make, ...]
    truth: float | None = None
    repeats: int = 1000
    high: float = 0.97


def features(rng: Rng, n: int, scale: float = 1.0, shift: float = 0.0) -> Any:
    """Skewed and correlated, as those of networks are."""
    return np.abs(scale * rng.normal(size=(n, _DIM)) @ _MIX) + shift


def photographs(rng: Rng, count: int, crops: int, shift: float = 0.0) -> tuple[Any, Any]:
    """Crops of one photograph are alike."""
    centers = np.repeat(rng.normal(size=(count, _DIM)), crops, axis=0)
    mixed = 0.8 * centers + 0.6 * rng.normal(size=(count * crops, _DIM))
    return np.abs(mixed @ _MIX) + shift, np.repeat(np.arange(count), crops)


def kids(rng: Rng, shift: float, n: int = 100, m: int = 48, **options: Any) -> Any:
    return kid(features(rng, n), features(rng, m, shift=shift), **options)


def large_kids(rng: Rng) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "LARGEST_FULL", 60)
        return kids(rng, 0.2, 100, 100, subsets=2)


def large_fids(rng: Rng) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, "MOST", 60)
        return fid(features(rng, 120), features(rng, 120, shift=0.3))


def wide_fids(rng: Rng) -> Any:
    """120 features of 60 and of 40 images."""
    x, y = (np.abs(rng.normal(size=(count, len(_WIDE))) @ _WIDE) for count in (60, 40))
    return fid(x, y + 0.1)


def of_photographs(distance: Callable[..., Any], rng: Rng, shift: float) -> Any:
    (x, own_x), (y, own_y) = photographs(rng, 24, 4), photographs(rng, 16, 3, shift)
    return distance(x, y, clusters_N=own_x, clusters_M=own_y)


def blocks(kind: Any, against: Any, rng: Rng) -> Any:
    def some(count: int, shift: float) -> BlockSet:
        x, own = photographs(rng, count, 4, shift)
        none = np.zeros((len(x), 0), np.float32)
        return BlockSet(FeatureSet(x.astype(np.float32), none, own), [(0, 0), (0, 1), (1, 0), (1, 1)] * count)

    real, ours = some(24, 0.0), some(18, 0.3)
    if against == "all":
        return pooled(real, ours, kind, seed=0)
    return by_position(real, ours, kind, against=against)


def blocks_of_clips(rng: Rng) -> Any:
    """Two clips of each file, three blocks of each."""

    def some(files: int, shift: float) -> BlockSet:
        x, own = photographs(rng, files, 6, shift)
        none = np.zeros((len(x), 0), np.float32)
        places = [(0, 0), (1, 0), (2, 0)] * (2 * files)
        return BlockSet(FeatureSet(x.astype(np.float32), none, own), places, np.repeat(np.arange(2 * files), 3))

    return by_position(some(24, 0.0), some(18, 0.3), "fid", against="position")


def share(name: str, crops: int, fixed: int, rng: Rng) -> Any:
    """Over new members of the set that it is a share of, the other set as it is: one of several.

    Of 80 zeros and ones Wilson's interval holds 93 to 97 % depending on where between two 80ths the share lies.
    """
    real, ours = of_manifold(2 * fixed), of_manifold(2 * fixed + 1)
    own = None
    if name in ("recall", "coverage"):
        real, own = photographs(rng, 80 // crops, crops)
    else:
        ours, own = photographs(rng, 80 // crops, crops)
        ours = 0.9 * ours
    return getattr(manifold(real, ours, clusters_N=own, clusters_M=own), name)


@cache
def of_manifold(which: int) -> Any:
    return (0.9 if which % 2 else 1.0) * photographs(np.random.default_rng(5 + which), 80, 1)[0]


def near(rng: Rng, count: int = 30, crops: int = 2) -> Any:
    ours, own = photographs(rng, count, crops)
    return of_median(nearest_of(ours, of_manifold(0))[0], own, "")


def original(rng: Rng) -> Any:
    ours, own = photographs(rng, 30, 2)
    return of_share(authentic(ours, of_manifold(0)).astype(float), how="", clusters_N=own)


def scores(n: int, splits: int, rng: Rng) -> Any:
    return classes.inception_score(2 * rng.normal(size=(n, 8)) + np.arange(8) / 3, splits=splits)


def scenes(rng: Rng, count: int) -> Any:
    """Images of 24 x 24 pixels: colors of their own, a horizon, noise of a spread of its own."""
    light = rng.gamma(4, 20, (count, 1, 1, 1)) + rng.normal(0, 15, (count, 1, 1, 3))
    light = light + rng.normal(0, 20, (count, 1, 1, 1)) * (np.arange(24) < 12)[:, None, None]
    found = light + rng.gamma(2, 8, (count, 1, 1, 1)) * rng.normal(size=(count, 24, 24, 3))
    return found.clip(0, 255).astype(np.uint8)


def color(column: int, rng: Rng) -> Any:
    """Two crops of each file."""
    values = np.array([color_of(image)[column] for image in scenes(rng, 30)])
    return of_mean((values[:, None] + rng.normal(0, 5, (30, 2))).ravel(), how="", clusters_N=np.repeat(range(30), 2))


@cache
def real_scenes() -> Any:
    return scenes(np.random.default_rng(3), 200)


def collapsed(rng: Rng) -> Any:
    """Canvases of four windows, alike in part."""
    spread = np.repeat(rng.gamma(1.5, 8, 24), 4) * rng.gamma(4, 0.25, 96)
    windows = 128 + spread[:, None, None, None] * rng.normal(size=(96, 24, 24, 3))
    canvases = windows.clip(0, 255).astype(np.uint8).reshape(24, 96, 24, 3)
    found = collapse(real_scenes(), canvases, window=24, percentile=20)
    return of_share(found.flat_N.astype(float), how="", clusters_N=found.canvas_N)


def seams(part: str, count: int, rng: Rng) -> Any:
    images = rng.gamma(3, 12, (count, 1, 1, 1)) * rng.normal(size=(count, 48, 48, 1)) + 128
    images[:, :, 16:] += rng.gamma(2, 10, (count, 1, 1, 1))
    images[:, 32:] += rng.gamma(2, 10, (count, 1, 1, 1))
    found = seam_ratio(images.clip(0, 255).repeat(3, 3).astype(np.uint8), patch=16, token=4)
    return getattr(found, part) if part else found


def pairs(metric: Callable[[Any, Any], float], rng: Rng) -> Any:
    images, strength = scenes(rng, 24), rng.gamma(3, 3, (24, 1, 1, 1))
    others = (images + strength * rng.normal(size=images.shape)).clip(0, 255).astype(np.uint8)
    return of_mean(np.array([metric(a, b) for a, b in zip(images, others, strict=True)]), how="")


def diversity(rng: Rng) -> Any:
    looks, chosen = rng.normal(size=(30, 3)), rng.integers(30, size=(120, 2))
    chosen = chosen[chosen[:, 0] != chosen[:, 1]]
    return _of_pairs_that_share(np.linalg.norm(looks[chosen[:, 0]] - looks[chosen[:, 1]], axis=1), chosen, "")


def clips(rng: Rng) -> Any:
    """A measure of clips, three of a file."""
    own = np.repeat(np.arange(16), 3)
    return of_mean(rng.gamma(4, 1, 16)[own] * rng.gamma(8, 1 / 8, 48), how="", clusters_N=own)


def moving(rng: Rng) -> Any:
    """Shares of the 30 blocks of a clip, three of a file; in some files next to nothing moves."""
    own = np.repeat(np.arange(16), 3)
    return of_mean(rng.binomial(30, rng.beta(0.8, 1.5, 16)[own]) / 30, how="", clusters_N=own)


def hits(chance: float, files: int, rng: Rng) -> Any:
    return of_share((rng.random(files) < chance).astype(float), how="")


def seeds(count: int, rng: Rng) -> Any:
    return over_seeds([{"value": x, "low": x, "high": x} for x in np.exp(rng.normal(3, 0.1, size=count))])


CASES: dict[str, Case] = {
    "KID, no difference": Case(partial(kids, shift=0.0), 0.0),
    **{f"KID, shift {shift}": Case(partial(kids, shift=shift), repeats=1500) for shift in (0.1, 0.2, 0.4)},
    "KID over subsets": Case(partial(kids, shift=0.2, subset_size=30, subsets=20), repeats=500),
    "KID of more than its kernel matrix holds": Case(large_kids),
    **{
        f"KID, crops of photographs, shift {shift}": Case(partial(of_photographs, kid, shift=shift))
        for shift in (0.1, 0.3)
    },
    "FID, no difference": Case(lambda rng: fid(features(rng, 60), features(rng, 40)), repeats=200),
    "FID, shift": Case(lambda rng: fid(features(rng, 60), features(rng, 40, shift=0.3)), repeats=200),
    "FID, smaller spread": Case(lambda rng: fid(features(rng, 60), features(rng, 40, 0.6)), repeats=200),
    "FID of more than pairs are left out of": Case(large_fids, repeats=200),
    "FID of fewer images than features": Case(wide_fids, repeats=800),
    "FID, crops of photographs": Case(partial(of_photographs, fid, shift=0.3), repeats=200),
    "MIND, no difference": Case(lambda rng: mind(features(rng, 60), features(rng, 60), projections=50)),
    "MIND, shift": Case(lambda rng: mind(features(rng, 60), features(rng, 60, shift=0.3), projections=50)),
    "MIND, smaller spread": Case(lambda rng: mind(features(rng, 60), features(rng, 60, 0.6), projections=50)),
    "MIND, crops of photographs": Case(partial(of_photographs, partial(mind, projections=50), shift=0.3)),
    "IS": Case(partial(scores, 80, 1)),
    "IS in 10 parts": Case(partial(scores, 400, 10), repeats=600),
    "Block-KID (positions)": Case(partial(blocks, "kid", "position"), repeats=500),
    "Block-KID (pooled)": Case(partial(blocks, "kid", "all"), repeats=500),
    "Block-FID (positions)": Case(partial(blocks, "fid", "position"), repeats=200),
    "Block-FID (positions against all)": Case(partial(blocks, "fid", "pooled"), repeats=200),
    "Block-FID (pooled)": Case(partial(blocks, "fid", "all"), repeats=200),
    "Block-FVD": Case(blocks_of_clips),
    **{
        f"{name}, {crops} of a canvas": Case(tuple(partial(share, name, crops, fixed) for fixed in range(8)))
        for name in ("precision", "density", "recall", "coverage")
        for crops in (1, 4)
    },
    "authenticity": Case(original),
    "nearest real": Case(near, float(near(np.random.default_rng(1), 50_000, 1).value)),
    "copies of real files, 1 in 10": Case(partial(hits, 0.1, 48), 0.1),
    "copies of real files, 1 in 3": Case(partial(hits, 1 / 3, 48), 1 / 3),
    "collapsed": Case(collapsed),
    **{
        f"color: {name}": Case(partial(color, i))
        for i, name in enumerate(NAMES)
    },
    "diversity": Case(diversity),
    **{
        f"{name}, {count} images": Case(partial(seams, part, count), repeats=600)
        for name, part in (("seam ratio", ""), ("token grid ratio", "lattice"), ("seam ratio, any place", "anywhere"))
        for count in (24, 48)
    },
    "PSNR": Case(partial(pairs, psnr)),
    "SSIM": Case(partial(pairs, ssim), repeats=400),
    "LPIPS": Case(lambda rng: of_mean(rng.gamma(4, 0.05, 24), how="")),
    "CLIP-score": Case(lambda rng: of_mean((100 * rng.normal(0.2, 0.1, 48)).clip(min=0), how="")),
    "flicker, motion, curves of clips": Case(clips),
    "motion moving of clips": Case(moving),
    **{f"over {count} training seeds": Case(partial(seeds, count)) for count in (3, 12, 20)},
}  # fmt: skip


def held(case: Case) -> float:
    makes, hits = case.make if isinstance(case.make, tuple) else (case.make,), []
    for i, make in enumerate(makes):
        found = [make(np.random.default_rng(seed)) for seed in range(i, case.repeats, len(makes))]
        truth = float(np.mean([one.value for one in found])) if case.truth is None else case.truth
        hits += [one.low <= truth <= one.high for one in found]
    return float(np.mean(hits))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_coverage(name: str) -> None:
    """Within what is said, give or take 1.64 standard errors of so few repeats; and as the page says."""
    case = CASES[name]
    found = held(case)
    sys.stdout.write(f"| {name} | {100 * found:.1f} | {case.repeats} |\n")
    slack = 1.64 * np.sqrt(0.05 * 0.95 / case.repeats)
    assert 0.93 - slack <= found <= case.high + slack, found
    assert documented()[name] == pytest.approx(100 * found, abs=0.5)


def documented() -> dict[str, float]:
    """Return the figures of the page."""
    return {a: float(b) for a, b in re.findall(r"^\| ([^|]+) \| ([\d.]+) \| \d+ \|$", DOCS.read_text("utf-8"), re.M)}


def test_the_page_has_every_figure() -> None:
    assert documented().keys() == CASES.keys()
    assert all(93 <= figure <= 97.5 for figure in documented().values())
