from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.direction.fit import PAPER_SYMMETRIES
from nuwa_lightning.planning.geometry import SYMMETRIES, PatchGrid, PatchIndex, PatchOffset, symmetry_named
from tests.strategies import ALL_SYMMETRIES, canvases, grids

ADC = ArbitraryDirectionController
AROUND = [offset for offset in itertools.product((-1, 0, 1), repeat=2) if offset != (0, 0)]


def block(y_range, x_range, t=0):
    return frozenset(PatchIndex(t, y, x) for y in y_range for x in x_range)


def distance(a, b):
    return max(abs(u - v) for u, v in zip(a, b, strict=True))


def neighbors_before(patch, finished, symmetry):
    """Count the finished neighbors in the same frame that come before ``patch`` in the order of ``symmetry``."""
    near = [patch.shifted((0, *offset)) for offset in AROUND]
    return sum(other in finished and symmetry.order_key(other) < symmetry.order_key(patch) for other in near)


@given(grids, st.sampled_from(ALL_SYMMETRIES))
def test_nothing_known_gives_the_named_order(grid, name):
    steps = list(ADC(name, symmetries=ALL_SYMMETRIES).plan(grid))
    assert [step.patch for step in steps] == list(symmetry_named(name).walk(grid))
    assert {step.symmetry.name for step in steps} == {name}


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 4, 16), "omega"),
        ((1, 16, 4), "zeta"),
        ((1, 4, 4), "omega"),
        ((9, 2, 3), "omega"),
        ((1, 4, None), "omega"),
        ((1, None, 4), "zeta"),
        ((None, 4, 4), "omega"),
        ((None, 5, 4), "zeta"),
    ],
)
def test_auto_keeps_the_front_short(shape, name):
    assert next(ADC().plan(PatchGrid(*shape))).symmetry.name == name


@given(grids, st.sampled_from(PAPER_SYMMETRIES), st.data())
def test_what_one_order_extends_is_written_in_that_order(grid, name, data):
    """The known patches of each frame come first in it: then the plan is the basic order itself, known ones marked."""
    symmetry = symmetry_named(name)
    walked = list(symmetry.walk(grid))
    frame = grid.y * grid.x
    known = frozenset(
        patch
        for t in range(grid.t)
        for patch in walked[t * frame :][: data.draw(st.integers(0, frame), label=f"known in frame {t}")]
    )
    steps = list(ADC(name).plan(grid, known))
    assert [step.patch for step in steps] == walked
    assert {step.symmetry for step in steps} == {symmetry}
    assert {step.patch for step in steps if step.known} == known


@pytest.mark.parametrize(
    ("known", "name"),
    [
        (block(range(4), range(2)), "omega"),
        (block(range(4), range(3, 6)), "omega*"),
        (block(range(1), range(6)), "zeta"),
        (block(range(2, 4), range(6)), "zeta*"),
    ],
    ids=["right", "left", "down", "up"],
)
def test_extension_to_one_side(known, name):
    for controller in (ADC(), ADC("zeta*"), ADC("omega")):
        steps = list(controller.plan(PatchGrid(1, 4, 6), known))
        assert {step.symmetry.name for step in steps} == {name}
        assert [step.patch for step in steps] == list(symmetry_named(name).walk(PatchGrid(1, 4, 6)))


def test_a_known_first_frame_is_animated_in_the_basic_order():
    grid = PatchGrid(None, 2, 3)
    steps = list(itertools.islice(ADC().plan(grid, block(range(2), range(3))), 18))
    assert [(s.patch, s.known) for s in steps] == [
        (p, p.t == 0) for p in itertools.islice(SYMMETRIES[0].walk(grid), 18)
    ]


@given(canvases(), st.sampled_from([PAPER_SYMMETRIES, ALL_SYMMETRIES, ("omega",), ("zeta*", "omega*")]))
def test_compositions_go_ring_by_ring_and_take_the_view_that_knows_most(canvas, names):
    grid, known = canvas
    symmetries = [symmetry_named(name) for name in names]
    plan = list(ADC(symmetries=names).plan(grid, known))
    if len({step.symmetry for step in plan}) == 1 and [s.patch for s in plan] == list(plan[0].symmetry.walk(grid)):
        return  # a basic order
    new = [step for step in plan if not step.known]
    finished = set(known)
    previous = None
    for n, step in enumerate(new):
        sources = [patch for patch in known if patch.t == step.patch.t]
        if sources:
            ring = min(distance(step.patch, source) for source in sources)
            rest = [s.patch for s in new[n:] if s.patch.t == step.patch.t]
            assert ring == min(distance(patch, source) for patch in rest for source in sources)
            most = max(neighbors_before(step.patch, finished, symmetry) for symmetry in symmetries)
            assert neighbors_before(step.patch, finished, step.symmetry) == most
            assert step == slow_choice(rest, sources, finished, symmetries, previous)
        finished.add(step.patch)
        previous = step.symmetry


def slow_choice(rest, sources, finished, symmetries, previous):
    """Choose the next step by trying everything: what the docstring of the controller says, in so many words."""
    ring = min(distance(patch, source) for patch in rest for source in sources)

    def cost(patch, symmetry):
        near = {offset: patch.shifted((0, *offset)) in finished for offset in AROUND}
        framed = {symmetry.offset(PatchOffset(0, *offset))[1:]: done for offset, done in near.items()}
        past = {(-1, 0), (0, -1), (-1, -1), (1, -1)}
        future = sum(done for offset, done in framed.items() if offset not in past)
        odd = framed[-1, -1] and not (framed[-1, 0] and framed[0, -1])
        hole = framed[-1, 0] and framed[0, -1] and not framed[-1, -1]
        loose = framed[1, -1] and not framed[0, -1]
        return future, odd + hole + loose, -sum(near.values()), symmetry != previous, symmetries.index(symmetry)

    candidates = [
        (*cost(patch, symmetry), symmetry.order_key(patch), patch, symmetry)
        for patch in rest
        if min(distance(patch, source) for source in sources) == ring
        for symmetry in symmetries
    ]
    best = min(candidates, key=lambda entry: entry[:6])
    return (best[6], best[7], False)


@given(canvases())
def test_known_patches_take_the_view_of_what_is_written_beside_them(canvas):
    grid, known = canvas
    plan = list(ADC().plan(grid, known))
    first_new = next((n for n, step in enumerate(plan) if not step.known), len(plan))
    if any(step.known for step in plan[first_new:]) or first_new == len(plan):
        return  # a basic order that takes the known ones as they come, or nothing to write
    new = plan[first_new:]
    for step in plan[:first_new]:
        nearest = min(new, key=lambda other: distance(step.patch, other.patch))  # the earliest of the nearest
        assert step.symmetry == nearest.symmetry
    order = [
        (PAPER_SYMMETRIES.index(step.symmetry.name), step.symmetry.order_key(step.patch)) for step in plan[:first_new]
    ]
    assert order == sorted(order)


def test_a_ring_is_what_the_papers_figure_says():
    """52 new patches around a small known block: runs of omega, zeta, omega*, zeta*, each along its own side."""
    grid = PatchGrid(1, 8, 8)
    known = block(range(2, 5), range(2, 6))
    new = [step for step in ADC().plan(grid, known) if not step.known]
    assert len(new) == 52
    first_ring = [step for step in new if min(distance(step.patch, k) for k in known) == 1]
    assert new[: len(first_ring)] == first_ring
    runs = [name for name, _ in itertools.groupby(step.symmetry.name for step in first_ring)]
    assert runs == ["omega", "zeta", "omega*", "zeta*"]
    for step in first_ring:
        y, x = step.patch[1:]
        side = {"omega": x == 6, "zeta": y == 5, "omega*": x == 1, "zeta*": y == 1}
        assert side[step.symmetry.name]
    # No neighbor that is finished lies in the untrained half.
    finished = set(known)
    for step in new:
        everything = sum(step.patch.shifted((0, *offset)) in finished for offset in AROUND)
        assert neighbors_before(step.patch, finished, step.symmetry) == everything
        finished.add(step.patch)


def test_a_hole_closes_from_its_edge():
    grid = PatchGrid(1, 7, 7)
    hole = block(range(2, 5), range(2, 5))
    new = [step.patch for step in ADC().plan(grid, set(grid) - hole) if not step.known]
    assert sorted(new) == sorted(hole)
    assert new[-1] == (0, 3, 3)


def test_composition_on_an_endless_canvas():
    grid = PatchGrid(1, 3, None)
    known = block([1], [4, 5])
    steps = list(itertools.islice(ADC().plan(grid, known), 300))
    assert {step.patch for step in steps} == block(range(3), range(100))
    assert {step.symmetry.name for step in steps[30:]} == {"omega"}
    columns = [step.patch.x for step in steps[30:]]
    assert columns == sorted(columns)


@pytest.mark.parametrize(
    ("order", "supported"),
    [
        ("auto", {"x", "y", "t"}),
        ("omega", {"x", "t"}),
        ("zeta", {"y", "t"}),
        ("omega*", {"t"}),
        ("zeta*", {"t"}),
    ],
)
def test_endless_axes(order, supported):
    for axis, grid in {"x": PatchGrid(1, 2, None), "y": PatchGrid(1, None, 2), "t": PatchGrid(None, 2, 2)}.items():
        assert ADC(order).supports_endless(grid) == (axis in supported)
        if axis not in supported:
            with pytest.raises(UsageError, match="cannot fill the endless grid"):
                ADC(order).plan(grid)
    assert not ADC(order).supports_endless(PatchGrid(2, 2, None))


def test_training_draws_the_four_orders():
    grid = PatchGrid(2, 4, 4)
    plans = ADC().training_plans(grid)
    assert [weight for weight, _ in plans] == [0.25] * 4
    assert [plan[0].symmetry.name for _, plan in plans] == list(PAPER_SYMMETRIES)
    for _, plan in plans:
        assert [step.patch for step in plan] == list(plan[0].symmetry.walk(grid))
        assert not any(step.known for step in plan)
    weighted = ADC(order_weights=(3, 0, 1, 0)).training_plans(grid)
    assert [(weight, plan[0].symmetry.name) for weight, plan in weighted] == [(0.75, "omega"), (0.25, "omega*")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ADC("gamma"), "order: gamma: choose auto or one of the symmetries omega, zeta"),
        (lambda: ADC("zeta", symmetries=("omega",)), "order: zeta: choose auto or one of the symmetries omega$"),
        (
            lambda: ADC(symmetries=("omega", "theta")),
            r"symmetries: \['omega', 'theta'\]: choose one of omega, omega\*, zeta",
        ),
        (lambda: ADC(symmetries=("omega", "omega")), "symmetries: .*: name at least one symmetry, each once"),
        (lambda: ADC(symmetries=()), "symmetries: .*: name at least one symmetry"),
        (lambda: ADC(order_weights=(1, 2)), r"order_weights: \(1, 2\): give 4 numbers from 0 up"),
        (lambda: ADC(order_weights=(0, 0, 0, 0)), "order_weights: .*: give 4 numbers"),
        (lambda: ADC(order_weights=(1, 1, 1, -1)), "order_weights: .*: give 4 numbers"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_it_comes_from_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--direction", type=DirectionController)
    given_options = ["--direction=ArbitraryDirectionController", "--direction.order=zeta*"]
    chosen = parser.instantiate(parser.parse_args([*given_options, "--direction.order_weights=[1, 2, 3, 4]"]))
    assert chosen.direction == ADC("zeta*", order_weights=(1, 2, 3, 4))
    for name in ("Raster", "Spiral", "Outward"):
        chosen = parser.instantiate(parser.parse_args([f"--direction={name}DirectionController"]))
        assert type(chosen.direction).__name__ == f"{name}DirectionController"


def test_time_grows_no_faster_than_the_canvas():
    def seconds(side):
        grid = PatchGrid(1, side, side)
        start = time.process_time()
        assert sum(1 for _ in ADC().plan(grid, block(range(2, 5), range(3, 5)))) == side * side
        return time.process_time() - start

    seconds(16)
    # 16 times the patches: 16 times the time, n log n a fifth more, n squared 256 times.
    assert min(seconds(64) for _ in range(2)) < 64 * max(min(seconds(16) for _ in range(3)), 1e-3)
