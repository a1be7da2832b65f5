from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.planning.context import (
    ContextPool,
    EmptyContextPool,
    FullContextPool,
    NearbyContextPool,
    RecencyContextPool,
)
from nuwa_lightning.planning.direction import ArbitraryDirectionController, SpiralDirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, SYMMETRIES, PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import ContextTable, walk, waves
from tests.strategies import POOLS, canvases, controllers, pools


def lifetimes(walked):
    """For each step the number of the step after which it is dropped; if never, that of the last step."""
    ends = [len(walked) - 1] * len(walked)
    for step in walked:
        for number in step.dropped:
            ends[number] = step.number
    return ends


def planned(controller, pool, grid, known=frozenset(), **options):
    return list(walk(controller.plan(grid, known), pool, grid, **options))


def slow_context(pool, number, plan):
    """Return whom step ``number`` sees, from the definition of each pool and the whole plan."""
    patch = plan[number].patch
    before = [n for n in range(number) if plan[n].patch.t <= patch.t]
    if isinstance(pool, NearbyContextPool):
        return [n for n in before if plan[n].patch.offset_from(patch).within(pool.extent)]
    if isinstance(pool, RecencyContextPool):
        return [n for n in before if n >= number - pool.length]
    return before if isinstance(pool, FullContextPool) else []


@given(canvases(), pools, controllers)
def test_a_walk_is_the_definition_replayed(canvas, pool, controller):
    grid, known = canvas
    plan = list(controller.plan(grid, known))
    walked = planned(controller, pool, grid, known)
    level = {}
    for number, step in enumerate(plan):
        context = slow_context(pool, number, plan)
        level[number] = 1 + max((level[n] for n in context), default=-1)
        of = walked[number]
        assert (of.number, of.step, of.patch, of.frame) == (number, step, step.patch, step.symmetry)
        assert list(of.context) == context
        assert of.level == level[number]
        assert len(of.offsets) == len(of.relative_symmetries) == len(context)
        for n, offset, relative in zip(context, of.offsets, of.relative_symmetries, strict=True):
            assert offset == step.symmetry.offset(plan[n].patch.offset_from(step.patch)).clamped(pool.embedding_extent)
            assert SYMMETRIES[relative].cell(*plan[n].symmetry.cell(1, 2, 4), 4) == step.symmetry.cell(1, 2, 4)
            assert offset.within(pool.embedding_extent)
            assert offset.t <= 0
    assert len(walked) == len(plan)


@given(canvases(), pools, controllers)
def test_the_papers_token_order_has_one_frame(canvas, pool, controller):
    grid, known = canvas
    mirrored = planned(controller, pool, grid, known)
    raster = planned(controller, pool, grid, known, token_order="raster")
    for ours, paper in zip(mirrored, raster, strict=True):
        assert paper.frame == OMEGA
        assert not any(paper.relative_symmetries)
        differences = [mirrored[n].patch.offset_from(paper.patch) for n in paper.context]
        assert list(paper.offsets) == [d.clamped(pool.embedding_extent) for d in differences]
        # Views change how a step is read, never whom it sees.
        for field in ("number", "step", "context", "level", "dropped"):
            assert getattr(ours, field) == getattr(paper, field)


@pytest.mark.parametrize("extent", [(0, 2, 2), (1, 1, 1), (2, 2, 1)], ids=str)
def test_one_canonical_order_in_every_view(extent):
    """On square training symmetries all orders give the very same table: one order, seen through symmetries (ours)."""
    tables = []
    for symmetry in SYMMETRIES:
        grid = PatchGrid(2, 4, 4)
        pool = NearbyContextPool(symmetry.extent(extent))
        walked = walk((Step(patch, symmetry) for patch in symmetry.walk(grid)), pool, grid)
        tables.append([(p.context, p.offsets, p.relative_symmetries, p.level, p.dropped) for p in walked])
    assert all(table == tables[0] for table in tables)


def test_framed_offsets_of_the_four_orders():
    """In its frame every order travels to the right: what it extends lies to the left of the new patch."""
    grid = PatchGrid(1, 3, 3)
    centre = PatchIndex(0, 1, 1)
    for symmetry in SYMMETRIES:
        steps = [Step(patch, symmetry) for patch in symmetry.walk(grid)]
        middle = next(p for p in walk(steps, NearbyContextPool(), grid) if p.patch == centre)
        assert middle.offsets == ((0, -1, -1), (0, 0, -1), (0, 1, -1), (0, -1, 0))


@given(canvases(), pools, controllers)
def test_context_table(canvas, pool, controller):
    grid, known = canvas
    walked = planned(controller, pool, grid, known)
    table = ContextTable.from_walk(walked)
    assert table.steps == tuple(walked)
    assert len(table) == grid.size
    assert table.max_context == max(len(p.context) for p in walked)
    groups = table.groups()
    assert list(groups) == sorted(groups)
    assert sorted(itertools.chain(*groups.values())) == list(range(len(walked)))
    assert all(len(walked[n].context) == count for count, numbers in groups.items() for n in numbers)
    levels = table.levels()
    assert sorted(itertools.chain(*levels)) == list(range(len(walked)))
    for level, numbers in enumerate(levels):
        assert numbers
        assert all(walked[n].level == level for n in numbers)
        assert not any(set(walked[n].context) & set(numbers) for n in numbers)
    ends = lifetimes(walked)
    assert all(ends[n] >= max([p.number for p in walked if n in p.context], default=n) for n in range(len(walked)))
    alive = [sum(born <= now <= ends[born] for born in range(now + 1)) for now in range(len(walked))]
    assert table.peak_live == max(alive)


@given(canvases(), st.integers(0, 2), controllers)
def test_nearby_forgets_with_the_last_user_at_the_latest(canvas, extent, controller):
    """Exactly: when everything that could have seen the patch is finished."""
    grid, known = canvas
    walked = planned(controller, NearbyContextPool((1, extent, extent)), grid, known)
    place = {p.patch: p.number for p in walked}
    for p, end in zip(walked, lifetimes(walked), strict=True):
        users = [q for q in grid if 0 <= q.t - p.patch.t <= 1 and q.offset_from(p.patch).within((1, extent, extent))]
        assert end == max(place[user] for user in users)


def test_an_empty_walk():
    table = ContextTable.from_walk([])
    assert (len(table), table.max_context, table.groups(), table.levels()) == (0, 0, {}, ())
    assert list(waves([])) == []


def follow(walked, **limits):
    """Run a schedule with a payload store, and check every rule on the way; returns waves and the largest store."""
    steps = list(walked)
    store, done, freed, batches, peak = {}, set(), set(), [], 0
    for wave in waves(iter(steps), **limits):
        assert wave.steps
        numbers = [p.number for p in wave.steps]
        assert numbers == sorted(numbers)
        for p in wave.steps:
            assert p == steps[p.number]
            assert p.number not in done
            assert all(n in store for n in p.context), "the payload of a context patch is gone or not yet there"
        done.update(numbers)
        store.update(dict.fromkeys(numbers))
        peak = max(peak, len(store))
        assert list(wave.freed) == sorted(set(wave.freed))
        for n in wave.freed:
            del store[n]
            freed.add(n)
        batches.append(numbers)
    assert done == set(range(len(steps)))
    dropped = {n for p in steps for n in p.dropped}
    assert freed == dropped
    assert set(store) == done - dropped
    return batches, peak


@given(canvases(), pools, controllers, st.integers(1, 6), st.integers(1, 12))
def test_waves_keep_every_rule(canvas, pool, controller, max_width, lookahead):
    grid, known = canvas
    walked = planned(controller, pool, grid, known)
    batches, peak = follow(walked, max_width=max_width, lookahead=lookahead)
    assert max(map(len, batches)) <= min(max_width, lookahead)
    undone = set(range(len(walked)))
    for batch in batches:
        assert max(batch) - min(undone) < lookahead
        undone -= set(batch)
    assert peak <= ContextTable.from_walk(walked).peak_live + lookahead
    one_by_one, _ = follow(walked, lookahead=1)
    assert one_by_one == [[n] for n in range(len(walked))]
    assert follow(walked, max_width=1)[0] == one_by_one


@given(canvases(), pools, controllers)
def test_unlimited_waves_are_the_levels(canvas, pool, controller):
    grid, known = canvas
    walked = planned(controller, pool, grid, known)
    batches, _ = follow(walked)
    assert tuple(map(tuple, batches)) == ContextTable.from_walk(walked).levels()


@pytest.mark.parametrize(
    ("shape", "extent", "depth", "peak"),
    [
        ((1, 4, 16), 1, 34, 6),
        ((1, 4, 16), 2, 49, 11),
        ((1, 8, 152), 1, 310, 10),
        ((1, 8, 152), 2, 461, 19),
        ((1, 4, 4), 2, 13, 11),
    ],
    ids=str,
)
def test_depth_and_memory_of_wide_images(shape, extent, depth, peak):
    """A patch waits for the one e rows below it, a column to the left: H + (e + 1)(W - 1) levels, e H + e + 1 alive."""
    grid = PatchGrid(*shape)
    walked = planned(ArbitraryDirectionController(), NearbyContextPool((0, extent, extent)), grid)
    table = ContextTable.from_walk(walked)
    assert len(table.levels()) == depth == shape[1] + (extent + 1) * (shape[2] - 1)
    assert table.peak_live == peak
    batches, wave_peak = follow(walked)
    assert len(batches) == depth
    assert wave_peak <= peak + shape[1]


@pytest.mark.parametrize("shape", [(1, 3, None), (1, None, 3), (None, 2, 2)], ids=str)
@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool.bounded], ids=repr)
def test_endless_plans_are_lazy_and_small(shape, pool):
    grid = PatchGrid(*shape)
    known = frozenset({PatchIndex(0, 0, 0), PatchIndex(0, 1, 1)})
    drawn = 0

    def counted():
        nonlocal drawn
        for step in ArbitraryDirectionController().plan(grid, known):
            drawn += 1
            yield step

    store, finished, peaks = set(), 0, []
    for wave in itertools.islice(waves(walk(counted(), pool, grid), max_width=8, lookahead=32), 400):
        finished += len(wave.steps)
        assert drawn <= finished + 32
        store.update(p.number for p in wave.steps)
        peaks.append(len(store))
        store.difference_update(wave.freed)
    assert max(peaks) == max(peaks[:100])


def test_known_patches_are_context():
    grid = PatchGrid(1, 1, 3)
    walked = planned(ArbitraryDirectionController(), NearbyContextPool((0, 0, 1)), grid, {PatchIndex(0, 0, 2)})
    assert [(p.patch.x, p.step.known, p.context) for p in walked] == [(2, True, ()), (1, False, (0,)), (0, False, (1,))]
    assert [p.step.symmetry.name for p in walked] == ["omega*"] * 3
    assert [p.offsets for p in walked] == [(), ((0, 0, -1),), ((0, 0, -1),)]


def test_a_spiral_meets_other_views():
    grid = PatchGrid(1, 3, 3)
    walked = planned(SpiralDirectionController(), FullContextPool(), grid)
    assert any(any(p.relative_symmetries) for p in walked)
    for p in walked:
        for n, relative in zip(p.context, p.relative_symmetries, strict=True):
            assert relative == walked[n].frame.relative_to(p.frame)


def test_what_can_go_wrong():
    grid = PatchGrid(1, 1, 2)
    steps = list(ArbitraryDirectionController().plan(grid))
    with pytest.raises(UsageError, match="token_order: diagonal: choose mirrored or raster"):
        walk(steps, EmptyContextPool(), grid, token_order="diagonal")
    with pytest.raises(LawError, match="a plan names each patch once"):
        list(walk([*steps, steps[0]], EmptyContextPool(), grid))
    for option in ("max_width", "lookahead"):
        with pytest.raises(UsageError, match=f"{option}: 0: give a whole number"):
            waves([], **{option: 0})
    walked = list(walk(steps, NearbyContextPool(), grid))
    with pytest.raises(UsageError, match="walk: step 1: it sees step 0, which was not walked before it"):
        list(waves(walked[1:]))


def test_a_pool_that_breaks_its_law_is_named_during_the_walk():
    class Clairvoyant(ContextPool):
        embedding_extent = (0, 1, 1)

        def __repr__(self):
            return "Clairvoyant()"

        def select(self, patch, live):
            return [patch.shifted((0, 0, 1))]

        def remove(self, live, grid, finished):
            return ()

    grid = PatchGrid(1, 1, 2)
    with pytest.raises(LawError, match=r"^context_pool: Clairvoyant\(\) at patch \(0, 0, 0\): breaks its law: select"):
        list(walk(ArbitraryDirectionController().plan(grid), Clairvoyant(), grid))
