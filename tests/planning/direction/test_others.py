from __future__ import annotations

import itertools

import pytest
from hypothesis import given

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.direction import (
    OutwardDirectionController,
    RasterDirectionController,
    SpiralDirectionController,
)
from nuwa_lightning.planning.direction.fit import PAPER_SYMMETRIES, RING, best_symmetry, misfit
from nuwa_lightning.planning.geometry import SYMMETRIES, ZETA, PatchGrid, PatchIndex, symmetry_named
from tests.strategies import canvases


def places(steps):
    return [(step.patch.y, step.patch.x) for step in steps if not step.known]


@given(canvases())
def test_raster_writes_in_reading_order(canvas):
    grid, known = canvas
    steps = list(RasterDirectionController().plan(grid, known))
    assert [step.patch for step in steps if not step.known] == [patch for patch in grid if patch not in known]
    assert {step.symmetry for step in steps} == {ZETA}


def test_raster_goes_down_for_ever():
    steps = itertools.islice(RasterDirectionController().plan(PatchGrid(1, None, 2)), 6)
    assert places(steps) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    with pytest.raises(UsageError, match="endless"):
        RasterDirectionController().plan(PatchGrid(1, 2, None))


def test_spiral_turns_clockwise_from_the_right():
    assert places(SpiralDirectionController().plan(PatchGrid(1, 3, 3))) == [
        (1, 1), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0), (0, 1), (0, 2),
    ]  # fmt: skip


def test_spiral_steps_from_neighbour_to_neighbour():
    order = places(SpiralDirectionController().plan(PatchGrid(1, 7, 7)))
    for (ay, ax), (by, bx) in itertools.pairwise(order):
        assert max(abs(ay - by), abs(ax - bx)) == 1


def test_spiral_turns_around_what_is_known():
    known = {PatchIndex(0, 1, 1), PatchIndex(0, 1, 2)}
    order = places(SpiralDirectionController().plan(PatchGrid(1, 3, 4), known))
    assert order == [(1, 3), (2, 3), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0), (0, 1), (0, 2), (0, 3)]


@given(canvases())
def test_outward_never_comes_nearer_again(canvas):
    grid, known = canvas
    for controller in (OutwardDirectionController(), OutwardDirectionController((1.0, 0.0))):
        new = [step.patch for step in controller.plan(grid, known) if not step.known]
        for t in range(grid.t):
            origin = PatchIndex(
                t, *(round(s * (n - 1)) for s, n in zip(controller.origin, grid.shape[1:], strict=True))
            )
            sources = [patch for patch in known if patch.t == t] or [origin]
            far = [min(abs(p.y - s.y) + abs(p.x - s.x) for s in sources) for p in new if p.t == t]
            assert far == sorted(far)


@pytest.mark.parametrize("shape", [(1, 2, None), (1, None, 2)])
def test_outward_reaches_everything_on_an_endless_canvas(shape):
    grid = PatchGrid(*shape)
    known = {PatchIndex(0, 1, 1), PatchIndex(0, 0, 0)}
    steps = list(itertools.islice(OutwardDirectionController().plan(grid, known), 100))
    along = [max(step.patch) for step in steps]
    assert set(PatchGrid(1, grid.y or 49, grid.x or 49)) <= {step.patch for step in steps}
    assert max(along) <= 51


@given(canvases())
def test_views_are_those_that_know_most(canvas):
    grid, known = canvas
    for controller in (SpiralDirectionController(), OutwardDirectionController()):
        finished = set(known)
        for step in controller.plan(grid, known):
            if step.known:
                continue
            near = [PatchIndex(step.patch.t, step.patch.y + y, step.patch.x + x) for y, x in RING]

            def count(symmetry, near=near, patch=step.patch, finished=finished):
                return sum(o in finished and symmetry.order_key(o) < symmetry.order_key(patch) for o in near)

            assert count(step.symmetry) == max(count(symmetry_named(name)) for name in PAPER_SYMMETRIES)
            finished.add(step.patch)


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda symmetry: symmetry.name)
def test_every_context_of_training_is_regular(symmetry):
    """In its own order, on any rectangle, a symmetry fits every patch without a misfit, and nothing fits better."""
    for height, width in itertools.product(range(1, 5), repeat=2):
        grid = PatchGrid(1, height, width)
        finished = set()
        for patch in symmetry.walk(grid):
            mask = sum(1 << bit for bit, (y, x) in enumerate(RING) if patch.shifted((0, y, x)) in finished)
            assert misfit(symmetry, mask) == (0, 0)
            assert best_symmetry(mask, [*SYMMETRIES, symmetry][1:], symmetry) == symmetry
            finished.add(patch)


def test_ties_go_to_the_view_before_then_to_the_first_named():
    symmetries = [symmetry_named(name) for name in ("zeta", "omega", "omega*")]
    assert best_symmetry(0, symmetries, None) == symmetries[0]
    assert best_symmetry(0, symmetries, symmetries[2]) == symmetries[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OutwardDirectionController((0.5, 1.5)), r"origin: \(0.5, 1.5\): give two shares"),
        (lambda: OutwardDirectionController((0.5,)), "origin: .*: give two shares"),
        (lambda: OutwardDirectionController(symmetries=("up",)), r"symmetries: \['up'\]: choose one of omega"),
        (lambda: SpiralDirectionController(symmetries=()), r"symmetries: \[\]: name at least one symmetry"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()
