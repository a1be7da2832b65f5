from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.planning.geometry import (
    OMEGA,
    OMEGA_STAR,
    SYMMETRIES,
    ZETA,
    ZETA_STAR,
    PatchGrid,
    PatchIndex,
    PatchOffset,
    PatchSet,
    Symmetry,
    symmetry_named,
)
from tests.strategies import grids

Square = list[list[tuple[int, int]]]


def square(size: int) -> Square:
    return [[(row, column) for column in range(size)] for row in range(size)]


def framed(symmetry: Symmetry, image: Square) -> Square:
    """Flip whole rows and columns first, then transpose, on an image of the square: independent of View's formulas."""
    if symmetry.flip_y:
        image = image[::-1]
    if symmetry.flip_x:
        image = [row[::-1] for row in image]
    return [list(column) for column in zip(*image, strict=True)] if symmetry.transpose else image


def test_index_and_offset():
    assert PatchIndex(1, 2, 3).offset_from(PatchIndex(1, 0, 5)) == (0, 2, -2)
    assert PatchIndex(1, 2, 3).shifted((1, -1, 0)) == (2, 1, 3)
    assert PatchOffset(-3, 2, -2).clamped((1, 1, 5)) == (-1, 1, -2)
    assert PatchOffset(-1, 2, -2).within((1, 2, 2))
    assert not PatchOffset(0, 0, 3).within((1, 2, 2))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, -1, 1), (1, None, None)])
def test_a_grid_refuses_bad_shapes(shape):
    with pytest.raises(ValueError, match="PatchGrid"):
        PatchGrid(*shape)


def test_grid_of_a_size():
    grid = PatchGrid(2, 3, 4)
    assert list(grid) == list(itertools.product(range(2), range(3), range(4)))
    assert grid.size == 24
    assert not grid.endless
    assert PatchIndex(1, 2, 3) in grid
    assert all(p not in grid for p in [(2, 0, 0), (0, 3, 0), (0, 0, 4), (-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0), 7])


def test_heights() -> None:
    grid = PatchGrid(2, 4, 3)
    assert {grid.height(patch) for patch in grid} == {1 / 8, 3 / 8, 5 / 8, 7 / 8}
    for none in (PatchGrid(1, None, 3), PatchGrid(1, 4, 3, wrap="y"), PatchGrid(1, 4, 3, wrap="xy")):
        assert math.isnan(none.height(PatchIndex(0, 1, 1)))
    assert PatchGrid(1, 4, None).height(PatchIndex(0, 1, 99)) == 3 / 8


def test_endless_grids():
    assert list(itertools.islice(PatchGrid(None, 1, 2), 4)) == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert PatchIndex(0, 0, 10**9) in PatchGrid(1, 1, None)
    for grid in (PatchGrid(1, 1, None), PatchGrid(1, None, 1)):
        with pytest.raises(ValueError, match="endless"):
            iter(grid)
        with pytest.raises(ValueError, match="no size"):
            _ = grid.size


@given(grids, st.data(), st.tuples(*[st.integers(0, 3)] * 3))
def test_box_is_what_lies_within_the_extent(grid, data, extent):
    centre = data.draw(st.sampled_from(list(grid)))
    assert list(grid.box(centre, extent)) == [p for p in grid if p.offset_from(centre).within(extent)]


def test_box_on_an_endless_axis():
    box = list(PatchGrid(1, 2, None).box(PatchIndex(0, 0, 5), (9, 9, 1)))
    assert box == list(itertools.product([0], [0, 1], [4, 5, 6]))


def test_the_eight_views_are_different_symmetries():
    images = [framed(symmetry, square(3)) for symmetry in SYMMETRIES]
    assert all(a != b for a, b in itertools.combinations(images, 2))
    assert len({symmetry.name for symmetry in SYMMETRIES}) == 8
    assert [symmetry.index for symmetry in SYMMETRIES] == list(range(8))
    assert SYMMETRIES[:4] == (OMEGA, OMEGA_STAR, ZETA, ZETA_STAR)
    assert SYMMETRIES[0] == Symmetry("omega"), "index 0 is the identity"


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda symmetry: symmetry.name)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cells_of_a_square(symmetry, size):
    image = framed(symmetry, square(size))
    for row, column in itertools.product(range(size), repeat=2):
        framed_row, framed_column = symmetry.cell(row, column, size)
        assert image[framed_row][framed_column] == (row, column)
    assert [divmod(cell, size) for cell in symmetry.cells(size)] == list(itertools.chain(*image))


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda symmetry: symmetry.name)
def test_offsets_and_extents_move_as_cells_do(symmetry):
    cells = list(itertools.product(range(4), repeat=2))
    for (ay, ax), (by, bx) in itertools.product(cells, repeat=2):
        (a_row, a_column), (b_row, b_column) = symmetry.cell(ay, ax, 4), symmetry.cell(by, bx, 4)
        assert symmetry.offset(PatchOffset(-1, by - ay, bx - ax)) == (-1, b_row - a_row, b_column - a_column)
    corner = symmetry.offset(PatchOffset(0, 1, 2))
    assert symmetry.extent((5, 1, 2)) == (5, abs(corner.y), abs(corner.x))


@pytest.mark.parametrize(
    ("symmetry", "other"), list(itertools.product(SYMMETRIES, repeat=2)), ids=lambda symmetry: symmetry.name
)
def test_relative_view_takes_every_token_from_frame_to_frame(symmetry, other):
    """A token at (r, c) of a patch in one frame stands at g(r, c) in the other: through the canvas, cell by cell."""
    between = SYMMETRIES[symmetry.relative_to(other)]
    for size in (1, 2, 3, 5):
        for row, column in itertools.product(range(size), repeat=2):
            assert between.cell(*symmetry.cell(row, column, size), size) == other.cell(row, column, size)
    assert (symmetry.relative_to(other) == 0) == (symmetry == other)


def test_view_named():
    assert all(symmetry_named(symmetry.name) is symmetry for symmetry in SYMMETRIES)
    with pytest.raises(ValueError, match="symmetry: gamma: choose one of omega, omega"):
        symmetry_named("gamma")


def test_the_papers_orders():
    """Inner direction first: omega is down, then right; zeta right, then down (paper, section 3.1)."""
    grid = PatchGrid(1, 2, 3)
    orders = {symmetry: [(p.y, p.x) for p in symmetry.walk(grid)] for symmetry in SYMMETRIES}
    assert orders[OMEGA] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert orders[OMEGA_STAR] == [(0, 2), (1, 2), (0, 1), (1, 1), (0, 0), (1, 0)]
    assert orders[ZETA] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert orders[ZETA_STAR] == [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1), (0, 2)]
    assert orders[symmetry_named("up-right")] == [(1, 0), (0, 0), (1, 1), (0, 1), (1, 2), (0, 2)]
    assert orders[symmetry_named("up-left")] == [(1, 2), (0, 2), (1, 1), (0, 1), (1, 0), (0, 0)]
    assert orders[symmetry_named("left-down")] == [(0, 2), (0, 1), (0, 0), (1, 2), (1, 1), (1, 0)]
    assert orders[symmetry_named("left-up")] == [(1, 2), (1, 1), (1, 0), (0, 2), (0, 1), (0, 0)]


@given(grids)
def test_omega_of_a_video_is_the_papers_formula(grid):
    """T_right(i, j, k) = i + j H + k H W, k the frame (paper, section 3.1)."""
    for number, (t, y, x) in enumerate(OMEGA.walk(grid)):
        assert number == y + x * grid.y + t * grid.y * grid.x


@given(grids, st.sampled_from(SYMMETRIES))
def test_every_order_is_omega_in_its_own_frame(grid, symmetry):
    walked = list(symmetry.walk(grid))
    assert sorted(walked) == list(grid)
    assert walked == sorted(grid, key=symmetry.order_key)
    start = walked[0]
    moved = [symmetry.offset(p.offset_from(start)) for p in walked]
    frame = PatchGrid(*symmetry.extent(grid.shape))
    assert moved == list(OMEGA.walk(frame))


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda symmetry: symmetry.name)
def test_endless_walks(symmetry):
    assert symmetry.can_walk(PatchGrid(3, 4, 5))
    frames = list(itertools.islice(symmetry.walk(PatchGrid(None, 2, 2)), 12))
    assert [p.t for p in frames] == [0] * 4 + [1] * 4 + [2] * 4
    for grid, names in ((PatchGrid(1, 3, None), {"omega", "up-right"}), (PatchGrid(1, None, 3), {"zeta", "left-down"})):
        assert symmetry.can_walk(grid) == (symmetry.name in names)
        if symmetry.name in names:
            near = set(PatchGrid(1, grid.y or 4, grid.x or 4))
            assert near == set(itertools.islice(symmetry.walk(grid), 12))
        else:
            with pytest.raises(ValueError, match="never ends its first run"):
                symmetry.walk(grid)
    assert not symmetry.can_walk(PatchGrid(2, 3, None))
    assert not symmetry.can_walk(PatchGrid(2, None, 3))


@given(grids, st.data())
def test_patch_set_is_a_set(grid, data):
    order = data.draw(st.permutations(list(grid)))
    compact, plain = PatchSet(grid), set()
    for patch in order:
        compact.add(patch)
        compact.add(patch)
        plain.add(patch)
        assert all((other in compact) == (other in plain) for other in grid)
        assert compact.footprint <= len(plain)
    assert compact.footprint == 1


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda symmetry: symmetry.name)
@pytest.mark.parametrize("shape", [(1, 3, None), (1, None, 3), (None, 2, 2), (1, 3, 500), (400, 2, 1)])
def test_patch_set_remembers_a_front_only(symmetry, shape):
    grid = PatchGrid(*shape)
    if symmetry.can_walk(grid):
        compact = PatchSet(grid)
        for patch in itertools.islice(symmetry.walk(grid), 600):
            compact.add(patch)
            # Orders across the long axis leave one open slab; those along it open all of them.
            if grid.endless or shape == (400, 2, 1) or not symmetry.transpose:
                assert compact.footprint <= 4
