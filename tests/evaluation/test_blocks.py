"""Block distances: the shifted grid, and each number by hand from the distances that it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation.blocks import BlockSet, blocks_of, by_position, floor, pooled
from evaluation.feature_cache import FeatureCache, FeatureSet
from evaluation.fid import frechet_distance
from evaluation.kid import polynomial_kernel
from tests.evaluation.toys import ToyFeatures


def masked_mmd2(x: Any, y: Any, own_x: Any = None, own_y: Any = None) -> float:
    """The mean over pairs of different canvases, pair by pair."""

    def within(z: Any, own: Any) -> float:
        own = np.arange(len(z)) if own is None else own
        k = polynomial_kernel(z, z)
        pairs = [k[i, j] for i in range(len(z)) for j in range(len(z)) if own[i] != own[j]]
        return float(np.mean(pairs))

    return within(x, own_x) + within(y, own_y) - 2 * float(polynomial_kernel(x, y).mean())


MEASURES: dict[str, Any] = {"kid": masked_mmd2, "fid": frechet_distance}


def canvases(count: int, *, columns: int = 96, seed: int = 0, bright: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 200, (count, 12, columns // 8, 3)) + bright
    return [np.kron(one, np.ones((8, 8, 1))).astype(np.uint8) for one in small]


def block_set(images: list[np.ndarray[Any, Any]]) -> BlockSet:
    """The features of all blocks of canvases, each of a file of its own."""
    cut = [(number, *both) for number, image in enumerate(images) for both in blocks_of(image, 32, shifted=True)]
    found = FeatureCache(ToyFeatures(), enabled=False).of_crops([block for *_, block in cut], count=len(cut))
    owners = np.array([number for number, *_ in cut])
    return BlockSet(FeatureSet(found.features_ND, found.scores_NK, owners), [place for _, place, _ in cut], owners)


def sets(*, against_wide: bool = False) -> tuple[BlockSet, BlockSet]:
    ours = canvases(9, columns=160 if against_wide else 96, seed=1, bright=40)
    return block_set(canvases(14)), block_set(ours)


def test_the_grid_is_shifted_by_half_a_block() -> None:
    image = np.arange(96 * 130 * 3, dtype=np.uint32).reshape(96, 130, 3).astype(np.uint8)
    found = dict(blocks_of(image, 32, shifted=True))
    assert sorted(found) == [(row, column) for row in range(2) for column in range(3)]
    np.testing.assert_array_equal(found[1, 2], image[48:80, 80:112])
    assert len(dict(blocks_of(image, 32, shifted=False))) == 12


@pytest.mark.parametrize("kind", ["kid", "fid"])
def test_mean_over_positions_and_pooled(kind: Any) -> None:
    real, ours = sets()
    by_hand = [
        MEASURES[kind](real.features.features_ND[real.at(place)], ours.features.features_ND[ours.at(place)])
        for place in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    found = by_position(real, ours, kind, against="position")
    assert found.value == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert (found.n_x, found.n_y) == (14, 9)
    assert found.low < found.value < found.high
    together = pooled(real, ours, kind)
    owners = [real.features.clusters_N, ours.features.clusters_N] if kind == "kid" else []
    by_brute_force = MEASURES[kind](real.features.features_ND, ours.features.features_ND, *owners)
    assert together.value == pytest.approx(by_brute_force)
    assert (together.n_x, together.n_y) == (56, 36)


@pytest.mark.parametrize("kind", ["kid", "fid"])
def test_positions_without_a_real_one_are_compared_with_all(kind: Any) -> None:
    real, ours = sets(against_wide=True)
    with pytest.raises(ValueError, match=r"block \(0, 2\) is in 0 real and 9 other canvases"):
        by_position(real, ours, kind, against="position")
    found = by_position(real, ours, kind, against="pooled")
    files = [real.features.clusters_N] if kind == "kid" else []
    by_hand = [
        MEASURES[kind](real.features.features_ND, ours.features.features_ND[ours.at(place)], *files)
        for place in ours.positions()
    ]
    assert len(by_hand) == 8
    assert found.value == pytest.approx(np.mean(by_hand), rel=1e-9)


def test_the_floor_parts_canvases() -> None:
    real, ours = sets()

    def measure(a: BlockSet, b: BlockSet) -> float:
        assert not set(a.features.clusters_N.tolist()) & set(b.features.clusters_N.tolist())
        assert (len(a.places), len(b.places)) == (4 * 7, 4 * 7)
        return by_position(a, b, "kid", against="position", interval=False).value

    found = floor(real, 9, measure, splits=5, seed=0)
    assert (found.n_x, found.n_y) == (7, 7)
    unequal = floor(real, 3, lambda a, b: float(len(a.places) / 4 + 100 * len(b.places)), splits=2, seed=0)
    assert (unequal.value, unequal.n_x, unequal.n_y) == (11 + 400 * 3, 11, 3)
    assert abs(found.value) < by_position(real, ours, "kid", against="position", interval=False).value
    few = block_set(canvases(3))
    with pytest.raises(ValueError, match="at least 4 are needed"):
        floor(few, 2, measure, splits=2, seed=0)
