from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.context import (
    ContextPool,
    EmptyContextPool,
    FullContextPool,
    NearbyContextPool,
    RecencyContextPool,
)
from nuwa_lightning.planning.geometry import OMEGA, SYMMETRIES, ZETA, PatchGrid, PatchIndex
from nuwa_lightning.testing import check_context_pool
from tests.strategies import POOLS, canvases, grids, package_classes, pools

extents = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


def contexts(pool, order, grid):
    """Replay select, add and remove; return what each patch saw, and after which number each patch was dropped."""
    canvas = pool.new_canvas(grid)
    seen, dropped = [], {}
    for number, patch in enumerate(order):
        seen.append([payload for _, payload in canvas.select(patch)])
        canvas.add(patch, number)
        dropped.update((gone, number) for gone in canvas.remove())
    return seen, dropped, canvas


def test_every_pool_there_is_is_tested():
    assert {type(pool) for pool in POOLS} == package_classes(ContextPool)


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_laws(pool):
    _, y, x = pool.embedding_extent
    if y == x:
        check_context_pool(pool)
    else:  # the last law, so that it holds all others
        with pytest.raises(AssertionError, match=r"an offset has an entry of its own in every order, or in none"):
            check_context_pool(pool)


@given(pools, grids, st.data())
def test_laws_on_any_grid_in_any_order(pool, grid, data):
    """Select with what is alive is select with all that was written; a moved canvas has the moved answer."""
    order = data.draw(st.permutations(list(grid)))
    move = data.draw(st.tuples(*[st.integers(0, 9)] * 3))
    canvas = pool.new_canvas(grid)
    for number, patch in enumerate(order):
        seen = {other for other, _ in canvas.select(patch)}
        assert seen <= set(canvas.live)
        assert all(other.t <= patch.t for other in seen)
        assert seen == set(pool.select(patch, order[:number]))
        if pool.translation_equivariant:
            moved = pool.select(patch.shifted(move), [other.shifted(move) for other in order[:number]])
            assert set(moved) == {other.shifted(move) for other in seen}
        canvas.add(patch, None)
        canvas.remove()


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_pools_are_values(pool):
    assert pool == dataclasses.replace(pool)
    assert hash(pool) == hash(dataclasses.replace(pool))
    assert eval(repr(pool)) == pool
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.extent = (0, 9, 9)


@given(grids, extents, st.data())
def test_nearby_sees_the_box_of_what_came_before(grid, extent, data):
    order = data.draw(st.permutations(list(grid)))
    seen, dropped, canvas = contexts(NearbyContextPool(extent), order, grid)
    for number, patch in enumerate(order):
        box = [
            other
            for other, before in enumerate(order)
            if other < number and before.t <= patch.t and before.offset_from(patch).within(extent)
        ]
        assert seen[number] == box
    assert canvas.live == []
    for number, patch in enumerate(order):
        # The paper's rule: gone right after its last user, or at once if nobody uses it. A patch whose box nobody
        # left to be written can reach is never kept longer.
        users = [other for other in range(number, len(order)) if other == number or number in seen[other]]
        assert dropped[patch] == max(users)


@pytest.mark.parametrize("live_count", [1, 500])
def test_nearby_takes_the_same_from_few_and_from_many(live_count):
    """Select walks over the live set or over the box, whichever is smaller."""
    live = [PatchIndex(0, y, x) for y in range(3, 6) for x in range(3, 6)]
    far = [PatchIndex(0, 50, x) for x in range(live_count)]
    chosen = NearbyContextPool((0, 1, 1)).select(PatchIndex(0, 4, 2), dict.fromkeys(live + far).keys())
    assert set(chosen) == {(0, 3, 3), (0, 4, 3), (0, 5, 3)}


@pytest.mark.parametrize(
    ("extent", "most"),
    [((0, 2, 2), 12), ((3, 1, 1), 31), ((3, 2, 2), 87)],
    ids=["2-2-0", "1-1-3", "2-2-3"],
)
def test_the_papers_context_sizes(extent, most):
    grid = PatchGrid(extent[0] + 1, 6, 6)
    for symmetry in SYMMETRIES:
        assert max(map(len, contexts(NearbyContextPool(extent), symmetry.walk(grid), grid)[0])) == most


def test_a_training_grid_shows_ten_patches_at_most():
    grid = PatchGrid(1, 4, 4)
    assert max(map(len, contexts(NearbyContextPool(), OMEGA.walk(grid), grid)[0])) == 10


def test_the_papers_example():
    """Extent (1, 1, 1), a 3 x 3 x 3 video: patch 14 sees 1 to 13, patch 27 sees 14, 15, 17, 18, 23, 24, 26."""
    grid = PatchGrid(3, 3, 3)
    seen = contexts(NearbyContextPool((1, 1, 1)), OMEGA.walk(grid), grid)[0]
    assert [number + 1 for number in seen[13]] == list(range(1, 14))
    assert [number + 1 for number in seen[26]] == [14, 15, 17, 18, 23, 24, 26]


@pytest.mark.parametrize("extent", [1, 2, 3])
@pytest.mark.parametrize(("symmetry", "shape"), [(OMEGA, (1, 5, 60)), (ZETA, (1, 60, 5)), (SYMMETRIES[1], (1, 5, 60))])
def test_nearby_keeps_as_many_columns_as_its_extent(extent, symmetry, shape):
    grid = PatchGrid(*shape)
    canvas = NearbyContextPool((0, extent, extent)).new_canvas(grid)
    for patch in symmetry.walk(grid):
        canvas.add(patch, None)
        assert len(canvas) <= extent * 5 + extent + 1
        canvas.remove()


def test_nearby_tables_serve_transposed_views():
    assert NearbyContextPool((1, 2, 3)).embedding_extent == (1, 3, 3)


@given(canvases())
def test_full_sees_all_that_is_not_later(canvas):
    grid, order = canvas[0], list(canvas[1])
    seen, dropped, pool = contexts(FullContextPool(), order, grid)
    assert seen == [[o for o in range(n) if order[o].t <= patch.t] for n, patch in enumerate(order)]
    assert dropped == {}
    assert pool.live == order


@given(canvases())
def test_empty_sees_nothing_and_keeps_nothing(canvas):
    grid, order = canvas
    seen, dropped, pool = contexts(EmptyContextPool(), order, grid)
    assert not any(seen)
    assert dropped == {patch: number for number, patch in enumerate(order)}
    assert len(pool) == 0


@given(canvases(), st.integers(1, 5))
def test_recency_sees_the_last_ones(canvas, length):
    grid, order = canvas[0], list(canvas[1])
    seen, _, pool = contexts(RecencyContextPool(length), order, grid)
    for number, patch in enumerate(order):
        assert seen[number] == [o for o in range(max(0, number - length), number) if order[o].t <= patch.t]
    assert pool.live == order[-length:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearbyContextPool((0, -1, 2)), r"extent: \(0, -1, 2\): give three whole numbers from 0 up"),
        (lambda: NearbyContextPool((0, 1)), r"extent: \(0, 1\): give three"),
        (lambda: NearbyContextPool((0, 1.0, 1)), "extent: .*: give three"),
        (lambda: NearbyContextPool((True, 1, 1)), "extent: .*: give three"),
        (lambda: FullContextPool((0, 0, -2)), "embedding_extent: .*: give three"),
        (lambda: RecencyContextPool(0), "length: 0: give a whole number of patches from 1 up"),
        (lambda: RecencyContextPool(True), "length: True: give a whole number"),
        (lambda: RecencyContextPool(2, (1,)), "embedding_extent: .*: give three"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_pools_come_from_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--pool", type=ContextPool)
    chosen = parser.parse_args(["--pool=NearbyContextPool", "--pool.extent=[1, 2, 3]"])
    assert parser.instantiate(chosen).pool == NearbyContextPool((1, 2, 3))
    chosen = parser.parse_args(["--pool=nuwa_lightning.planning.context.RecencyContextPool", "--pool.length=4"])
    assert parser.instantiate(chosen).pool == RecencyContextPool(4)
    for name in ("EmptyContextPool", "FullContextPool"):
        assert type(parser.instantiate(parser.parse_args([f"--pool={name}"])).pool).__name__ == name
