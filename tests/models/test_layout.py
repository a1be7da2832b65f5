"""Plans as tensors: every cell and every neighbor against brute force on a canvas."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwa_lightning.models.layout import (
    lay_out,
    neighbor_positions,
    neighbor_sources,
    patch_cells,
    place_tokens,
    read_tokens,
)
from nuwa_lightning.models.nuwa_infinity import ABSENT, AHEAD, NEIGHBORS, PAST, RelativePatchEmbedding, neighbors
from nuwa_lightning.planning.context import EmptyContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import SYMMETRIES, ZETA, PatchGrid, PatchIndex, PatchOffset, Symmetry
from nuwa_lightning.planning.schedule import ContextTable, walk

OFFSETS = [PatchOffset(0, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
ORDERS = ("mirrored", "raster")


def turned(canvas: torch.Tensor, symmetry: Symmetry, token_order: str) -> torch.Tensor:
    """Look at a square canvas under a symmetry: flips, then transposition. Raster order looks at it as it is."""
    if token_order == "raster":
        return canvas.transpose(0, 1) if ZETA.transpose else canvas
    if symmetry.flip_y:
        canvas = canvas.flip(0)
    if symmetry.flip_x:
        canvas = canvas.flip(1)
    return canvas.transpose(0, 1) if symmetry.transpose else canvas


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=lambda v: v.name)
@pytest.mark.parametrize("token_order", ORDERS)
def test_cells_are_the_columns_of_the_turned_patch(symmetry, token_order):
    number = torch.arange(9).view(3, 3)
    canonical = turned(number, symmetry, token_order)
    expected = canonical.transpose(0, 1).flatten().tolist()  # column by column, each from the top down
    assert [y * 3 + x for y, x in patch_cells(symmetry, (3, 3), token_order)] == expected


@settings(max_examples=60)
@given(
    st.sampled_from(SYMMETRIES),
    st.sampled_from(ORDERS),
    st.sampled_from([1, 2, 3, 4]),
    st.lists(st.sampled_from([*OFFSETS, PatchOffset(0, 2, 0), PatchOffset(-1, 0, 0)]), unique=True, max_size=5),
)
def test_neighbours_are_those_seen_on_the_turned_canvas(symmetry, token_order, side, context):
    """Lay unique numbers on 5 x 5 patches, turn all of it, and look around each cell of the middle one."""
    size = 5 * side
    canvas = torch.arange(size * size).view(size, size)
    seen = turned(canvas, symmetry, token_order)
    place = {int(seen[y, x]): (y, x) for y in range(size) for x in range(size)}
    corner = 2 * side
    cells = [int(canvas[corner + y, corner + x]) for y, x in patch_cells(symmetry, (side, side), token_order)]

    def number(source) -> int | None:
        if source is None:
            return None
        if source.context is None:
            return cells[source.cell]
        offset = context[source.context]
        y, x = divmod(source.cell, side)
        return int(canvas[corner + offset.y * side + y, corner + offset.x * side + x])

    visible = {
        int(canvas[corner + o.y * side + y, corner + o.x * side + x])
        for o in context
        if o.t == 0
        for y in range(side)
        for x in range(side)
    }
    for n, row in enumerate(
        neighbor_sources(symmetry, tuple(context), (side, side), token_order, neighbors=neighbors(ahead=True))
    ):
        y, x = place[cells[n]]
        for (_, dy, dx, *_), source in zip(NEIGHBORS + AHEAD, row, strict=True):
            there = int(seen[y + dy, x + dx])
            allowed = there in visible or there in cells[:n]
            assert number(source) == (there if allowed else None)


@pytest.mark.parametrize(("symmetry", "token_order"), list(itertools.product(SYMMETRIES, ORDERS)), ids=str)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_neighbours_in_earlier_frames_are_those_of_the_video_as_it_lies(symmetry, token_order, side):
    """Unique numbers on three frames of 5 x 5 patches, of which the pool gives some; no symmetry turns what moves."""
    size, corner = 5 * side, 2 * side
    video = torch.arange(3 * size * size).view(3, size, size)
    context = tuple(PatchOffset(t, y, x) for t, y, x in ((-1, 0, 0), (-1, 0, 1), (0, -1, 0), (-2, 0, 0), (-1, -1, -1)))
    cells = patch_cells(symmetry, (side, side), token_order)

    def given(number: int) -> tuple[int, int] | None:
        for c, o in enumerate(context):
            top, left = corner + o.y * side, corner + o.x * side
            inside = video[2 + o.t, top : top + side, left : left + side].flatten().tolist()
            if number in inside:
                return c, inside.index(number)
        return None

    for n, row in enumerate(
        neighbor_sources(symmetry, context, (side, side), token_order, neighbors=neighbors(past=True))
    ):
        y, x = cells[n]
        assert len(row) == len(NEIGHBORS) + len(PAST)
        for (dt, dy, dx, *_), source in zip(PAST, row[len(NEIGHBORS) :], strict=True):
            number = int(video[2 + dt, corner + y + dy, corner + x + dx])
            assert given(number) == (None if source is None else (source.context, source.cell))
        assert row[: len(NEIGHBORS)] == neighbor_sources(symmetry, context, (side, side), token_order)[n]


@pytest.mark.parametrize(("symmetry", "token_order"), list(itertools.product(SYMMETRIES, ORDERS)), ids=str)
def test_places_say_the_same_as_sources(symmetry, token_order):
    context = tuple(OFFSETS[:3])
    own, there = neighbor_positions(symmetry, context, (2, 2), token_order)
    for n, row in enumerate(neighbor_sources(symmetry, context, (2, 2), token_order)):
        for k, source in enumerate(row):
            inside = source is not None and source.context is None
            outside = source is not None and source.context is not None
            assert own[n, k] == (source.cell if inside else ABSENT)
            assert there[n, k] == (source.context * 4 + source.cell if outside else ABSENT)


@pytest.mark.parametrize(("symmetry", "token_order"), list(itertools.product(SYMMETRIES, ORDERS)), ids=str)
def test_placing_undoes_reading(symmetry, token_order):
    tokens_BYX = torch.randint(0, 99, (2, 3, 3))
    written_BN = read_tokens(tokens_BYX, symmetry, token_order=token_order)
    assert torch.equal(place_tokens(written_BN, symmetry, patch_size=(3, 3), token_order=token_order), tokens_BYX)
    for n, (y, x) in enumerate(patch_cells(symmetry, (3, 3), token_order)):
        assert torch.equal(written_BN[:, n], tokens_BYX[:, y, x])


def test_patches_that_are_not_square_go_with_views_that_do_not_transpose():
    assert len(patch_cells(SYMMETRIES[0], (2, 3), "mirrored")) == 6
    across = next(symmetry for symmetry in SYMMETRIES if symmetry.transpose)
    assert len(patch_cells(across, (2, 3), "raster")) == 6
    with pytest.raises(ValueError, match="needs square patches"):
        patch_cells(across, (2, 3), "mirrored")


@pytest.mark.parametrize("token_order", ORDERS)
@pytest.mark.parametrize("pool", [NearbyContextPool((1, 1, 1)), EmptyContextPool()], ids=str)
@pytest.mark.parametrize("order", ["omega", "omega*", "zeta", "zeta*"])
def test_layout_of_a_plan(pool, order, token_order):
    grid, rows = PatchGrid(2, 2, 3), 2
    controller = ArbitraryDirectionController(order)
    embedding = RelativePatchEmbedding(pool.embedding_extent, (1, 2), std=1.0)
    steps = list(controller.plan(grid))
    layout = lay_out(steps, pool, grid=grid, patch_size=(rows, rows), embedding=embedding, token_order=token_order)
    number = torch.arange(2 * 4 * 6).view(2, 4, 6)
    assert sorted(layout.index_PN.flatten().tolist()) == number.flatten().tolist()
    table = ContextTable.from_walk(walk(steps, pool, grid, token_order=token_order)).steps
    found = {int(s): (g, i) for g in layout.groups for i, s in enumerate(g.steps_P)}
    earlier: dict[int, int] = {}
    for p, step in enumerate(steps):
        patch = number[step.patch.t, rows * step.patch.y :, rows * step.patch.x :][:rows, :rows]
        assert torch.equal(layout.index_PN[p], read_tokens(patch, step.symmetry, token_order=token_order))
        assert layout.symmetry_P[p] == (step.symmetry.index if token_order == "mirrored" else 0)
        group, i = found[p]
        assert tuple(group.context_PC[i].tolist()) == table[p].context
        assert group.offset_PC[i].tolist() == [embedding.index(o) for o in table[p].offsets]
        # A neighbor is written earlier and lies in the patch itself or in one of its context.
        for n, row in enumerate(layout.neighbors_PNK[p].tolist()):
            earlier[int(layout.index_PN[p, n])] = p
            for token in row:
                assert token == ABSENT or earlier[token] in (p, *table[p].context)
                assert token != int(layout.index_PN[p, n])


def test_equal_keys_mean_equal_masks():
    grid = PatchGrid(1, 3, 3)
    pool = NearbyContextPool((0, 1, 1))
    embedding = RelativePatchEmbedding(pool.embedding_extent, (1, 2), std=1.0)

    def key(controller) -> tuple[object, ...]:
        plan = controller.plan(grid, frozenset[PatchIndex]())
        return lay_out(plan, pool, grid=grid, patch_size=(2, 2), embedding=embedding, token_order="mirrored").key

    keys = {name: key(ArbitraryDirectionController(name)) for name in ("omega", "omega*", "zeta", "zeta*")}
    assert len(set(keys.values())) == 1
