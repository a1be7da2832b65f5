"""Closed axes: the context across the seam is what the unrolled image of endless copies shows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.planning.context import FullContextPool, NearbyContextPool, RecencyContextPool
from nuwa_lightning.planning.direction import (
    ArbitraryDirectionController,
    RasterDirectionController,
    SpiralDirectionController,
)
from nuwa_lightning.planning.geometry import OMEGA, ZETA, PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import walk
from tests.strategies import CONTROLLERS

sides = st.integers(1, 2), st.integers(1, 5), st.integers(1, 6)
grids = st.builds(PatchGrid, *sides, wrap=st.sampled_from(["x", "y", "xy"]))
controllers = st.sampled_from(CONTROLLERS)
extents = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3))


def copies(grid, patch):
    """Return the patch in five times five copies of the canvas laid side by side, as far as axes are closed."""
    for a, b in itertools.product(range(-2, 3), repeat=2):
        if (not a or "y" in grid.wrap) and (not b or "x" in grid.wrap):
            yield patch.shifted((0, a * grid.y, b * grid.x))


@given(grids, controllers, extents)
def test_nearby_context_by_brute_force(grid, controller, extent):
    """Whoever has a copy in the box is seen, at the offset of a nearest copy; dropped only when nobody can see it."""
    pool = NearbyContextPool(extent)
    plan = [step.patch for step in controller.plan(grid)]
    alive = set()
    for planned in walk(controller.plan(grid), pool, grid):
        patch = planned.patch
        seen = {
            number
            for number, other in enumerate(plan[: planned.number])
            if other.t <= patch.t and any(copy.offset_from(patch).within(extent) for copy in copies(grid, other))
        }
        assert set(planned.context) == seen
        assert seen <= alive
        for number, place in zip(planned.context, planned.places, strict=True):
            offsets = [copy.offset_from(patch) for copy in copies(grid, plan[number])]
            assert place in offsets
            assert (abs(place.y), abs(place.x)) == (min(abs(o.y) for o in offsets), min(abs(o.x) for o in offsets))
        alive.add(planned.number)
        alive -= set(planned.dropped)
        later = plan[planned.number + 1 :]
        for number in range(planned.number + 1):
            needed = any(
                0 <= q.t - plan[number].t <= extent[0]
                and any(copy.offset_from(q).within((9, *extent[1:])) for copy in copies(grid, plan[number]))
                for q in later
            )
            if needed:
                assert number in alive
            elif min(grid.periods[axis] or 9 for axis in (1, 2)) > 2 * max(extent):
                assert number not in alive, "forgotten as soon as nobody can see it"


@given(grids, controllers)
def test_pools_without_places_do_not_mind(grid, controller):
    """Full and recency pools see the same steps on an open and on a closed canvas."""
    for pool in (FullContextPool(), RecencyContextPool(3)):
        opened = PatchGrid(*grid.shape)
        for a, b in zip(
            walk(controller.plan(grid), pool, grid), walk(controller.plan(grid), pool, opened), strict=True
        ):
            assert (a.context, a.dropped, a.level) == (b.context, b.dropped, b.level)


def test_the_last_column_sees_the_first_across_the_seam():
    grid = PatchGrid(1, 3, 8, wrap="x")
    last = list(walk(ArbitraryDirectionController().plan(grid), NearbyContextPool((0, 1, 1)), grid))[-1]
    assert last.patch == (0, 2, 7)
    assert sorted(last.places) == [(0, -1, -1), (0, -1, 0), (0, -1, 1), (0, 0, -1), (0, 0, 1)]


@pytest.mark.parametrize("width", [16, 32, 64])
def test_the_live_set_stays_bounded(width):
    """A closed canvas keeps its first columns in mind, not its length."""
    grid = PatchGrid(1, 4, width, wrap="x")
    live = peak = 0
    for planned in walk(ArbitraryDirectionController().plan(grid), NearbyContextPool((0, 1, 1)), grid):
        live += 1
        peak = max(peak, live)
        live -= len(planned.dropped)
    assert peak == 4 + 6, "a column to begin with, a front of one column and two patches"
    assert live == 0


def test_auto_runs_along_the_open_axis():
    """A run along a closed axis would leave one patch to be written at a time."""
    direction = ArbitraryDirectionController()
    for grid, symmetry in (
        (PatchGrid(1, 4, 9, wrap="x"), OMEGA),
        (PatchGrid(1, 9, 4, wrap="x"), OMEGA),
        (PatchGrid(1, 4, 9, wrap="y"), ZETA),
        (PatchGrid(1, 4, 9, wrap="xy"), OMEGA),
    ):
        assert next(iter(direction.plan(grid))).symmetry == symmetry
    for other in (RasterDirectionController(), SpiralDirectionController()):
        assert {step.patch for step in other.plan(PatchGrid(1, 3, 4, wrap="xy"))} == set(PatchGrid(1, 3, 4))


def test_offsets_go_the_short_way_round():
    grid = PatchGrid(1, 4, 5, wrap="xy")
    at = PatchIndex(0, 0, 0)
    assert [grid.offset(PatchIndex(0, 0, x), at).x for x in range(5)] == [0, 1, 2, -2, -1]
    assert [grid.offset(PatchIndex(0, y, 0), at).y for y in range(4)] == [0, 1, -2, -1]
    assert grid.home(PatchIndex(7, -1, 11)) == (7, 3, 1)
    assert grid.unrolled() == PatchGrid(1, 12, 15)
    assert PatchGrid(1, None, 5, wrap="x").unrolled() == PatchGrid(1, None, 15)
    assert PatchGrid(1, 4, 5).offset(PatchIndex(0, 0, 4), at) == (0, 0, 4)


@pytest.mark.parametrize(
    ("shape", "wrap"), [((1, 2, None), "x"), ((1, None, 2), "xy"), ((1, 2, 2), "t"), ((1, 2, 2), "yx")]
)
def test_what_cannot_be_closed_is_refused(shape, wrap):
    with pytest.raises(ValueError, match="wrap"):
        PatchGrid(*shape, wrap=wrap)
