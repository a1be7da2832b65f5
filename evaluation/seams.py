"""Do patch borders show? Steps across them against steps inside patches (ours).

A step is the mean absolute difference of two neighboring pixels, over colors. Steps on the token grid are left out of
the inside: a tokenizer has a grid of its own, and dividing by it would hide the patches'. Without visible borders the
ratio is that of the tokenizer's own reconstructions, and near 1 for photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.jackknife import of_left_out, parts_of, without

Steps = tuple[list[list[float]], list[NDArray[np.float64]]]
"""Of one image, see :func:`steps_of`."""


@dataclass(frozen=True)
class SeamResult:
    """Seam ratios of a set of images.

    Attributes:
        value: both directions pooled.
        across_x: borders between left and right neighbors (vertical lines).
        across_y: borders between upper and lower neighbors (horizontal lines).
        std: standard error of ``value`` over images.
        low: lower end of the 95 % interval over images, of the logarithm.
        high: upper end.
        n: number of images.
        lattice: the same of the token grid: steps on it, off patch borders, over steps inside tokens; None in itself.
        anywhere: the largest ratio over all places of a grid of patches; None in itself.
        place: ``(y, x)`` of that grid's lines from the corner of a patch; None in the others.
    """

    value: float
    across_x: float
    across_y: float
    std: float
    low: float
    high: float
    n: int
    lattice: SeamResult | None = None
    anywhere: SeamResult | None = None
    place: tuple[int, int] | None = None


def seam_ratio(
    images: Iterable[NDArray[np.uint8]],
    *,
    patch: int = 64,
    token: int = 8,
    origin: tuple[int, int] = (0, 0),
    clusters: Callable[[], NDArray[np.intp]] | None = None,
) -> SeamResult:
    """Return the mean step across patch borders over the mean step inside patches, off the token grid.

    Args:
        images: uint8 RGB images (Y, X, 3), of any sizes.
        patch: side of a patch in pixels.
        token: side of a token in pixels.
        origin: pixel ``(y, x)`` of a corner of a patch, where the grid does not begin in the image's corner.
        clusters: tells, after the images were read, which canvas each is of; by default each is one.

    A direction in which no border lies has the ratio nan.

    Raises:
        ValueError: if ``patch`` is no multiple of ``token``, ``token`` is below 2, or there is no border at all.
    """
    check_sides(patch, token)
    found = [steps_of(np.asarray(image), patch, token, origin) for image in images]
    return ratio_of(found, np.arange(len(found)) if clusters is None else clusters(), patch=patch, token=token)


def check_sides(patch: int, token: int) -> None:
    """Refuse sides of patches and tokens that do not fit.

    Raises:
        ValueError: as :func:`seam_ratio`.
    """
    if token < 2 or patch % token:
        raise ValueError(f"patch={patch} must be a multiple of token={token}, which must be at least 2")


def ratio_of(found: Sequence[Steps], own_N: NDArray[np.intp], *, patch: int, token: int) -> SeamResult:
    """Return :func:`seam_ratio` of images by their steps, and which canvas each is of."""
    sums_N26, places_N2P2 = (np.array([one[i] for one in found]) for i in (0, 1))
    if not sums_N26.size or not sums_N26[:, :, 1].sum():
        raise ValueError(f"no image is larger than a patch of {patch} pixels")
    lattice = _result(sums_N26[:, :, [4, 5, 2, 3]], own_N) if patch > token else None
    return replace(_result(sums_N26[:, :, :4], own_N), lattice=lattice, anywhere=_anywhere(places_N2P2, own_N))


def _anywhere(places_N2P2: NDArray[np.float64], own_N: NDArray[np.intp]) -> SeamResult:
    """Return the ratio of the place of a grid at which steps are largest; of noise alone it lies above 1, too."""
    sums_2P2 = places_N2P2.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means_2P = np.nan_to_num(sums_2P2[..., 0] / sums_2P2[..., 1])
    at = means_2P.argmax(1)
    on_N22 = places_N2P2[:, [0, 1], at]
    sums_N24 = np.concatenate([on_N22, places_N2P2.sum(2) - on_N22], axis=2)
    return replace(_result(sums_N24, own_N), place=(int(at[0]), int(at[1])))


def _result(sums_N24: NDArray[np.float64], own_N: NDArray[np.intp]) -> SeamResult:
    n, value = len(sums_N24), _ratio(sums_N24.sum((0, 1)))
    across_y, across_x = (_ratio(sums) for sums in sums_N24.sum(0))
    parts_N = parts_of(own_N, n, np.random.default_rng())
    keep_GN = without(parts_N)
    left_out_G = np.array([_ratio(sums) for sums in np.einsum("gn,nij->gj", keep_GN, sums_N24)])
    usable = np.isfinite(left_out_G) & (left_out_G > 0)
    if len(left_out_G) < 2 or not usable.all() or not (0 < value < math.inf):
        # One image says nothing of others, and a ratio of nothing has no logarithm.
        return SeamResult(value, across_x, across_y, math.nan, math.nan, math.nan, n)
    weights_G = np.bincount(parts_N, sums_N24[:, :, 2].sum(1)).astype(np.float64)
    found = of_left_out(value, left_out_G, n=n, how="", log=True, weights_G=weights_G)
    return SeamResult(value, across_x, across_y, found.std, found.low, found.high, n)


def steps_of(image_YX3: NDArray[np.uint8], patch: int, token: int, origin: tuple[int, int] = (0, 0)) -> Steps:
    """Return, per axis (y, x), the sum and number of steps on patch borders, off the token grid, on its rest.

    And sum and number at each place of a grid of patches.
    """
    rows, places = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(image_YX3.astype(np.int16), axis=axis))
        profile = steps.sum((1 - axis, 2), dtype=np.float64)
        each = steps.size // max(1, len(profile))
        place = np.arange(1, len(profile) + 1) - origin[axis]
        border = place % patch == 0
        # A direction without borders has nothing to compare: its insides must not enter the pooled ratio.
        inside = (place % token != 0) & border.any()
        grid = (place % token == 0) & ~border & border.any()
        rows.append([part for at in (border, inside, grid) for part in (profile[at].sum(), each * at.sum())])
        # Lines at fewer than two places are no grid, but a picture's own edge.
        here = np.bincount(place % patch, minlength=patch) * float(each) * (len(profile) >= 2 * patch)
        places.append(np.stack([np.bincount(place % patch, profile, patch) * (here > 0), here], axis=1))
    return rows, places


def _ratio(sums: NDArray[np.float64]) -> float:
    on, n_on, off, n_off = sums
    if not n_on or not n_off:
        return float("nan")
    mean_off = off / n_off
    return float((on / n_on) / mean_off) if mean_off else (float("inf") if on else 1.0)
