"""A plan as tensors: which token of the canvas stands where, and which step sees which.

Shape legend: P steps of the plan, N tokens per patch, C context patches.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from nuwa_lightning.models.nuwa_infinity import ABSENT, NEIGHBORS, Neighbor, RelativePatchEmbedding
from nuwa_lightning.models.rows import ContextGroup
from nuwa_lightning.planning.context.base import ContextPool
from nuwa_lightning.planning.direction.base import Step
from nuwa_lightning.planning.geometry import ZETA, PatchGrid, PatchIndex, PatchOffset, Symmetry
from nuwa_lightning.planning.schedule import ContextTable, PlannedStep, TokenOrder, walk


def patch_cells(symmetry: Symmetry, patch_size: tuple[int, int], token_order: TokenOrder) -> list[tuple[int, int]]:
    """Return the ``(row, column)`` inside a patch of each of its N tokens, in writing order."""
    frame = ZETA if token_order == "raster" else symmetry
    rows, columns = patch_size
    if frame.transpose and token_order == "mirrored" and rows != columns:
        raise ValueError(
            f"patch_size {patch_size}: symmetry {symmetry.name} needs square patches (or token_order: raster)"
        )
    outer, inner = (rows, columns) if frame.transpose else (columns, rows)
    cells = []
    for a in range(outer):
        for b in range(inner):
            y, x = (a, b) if frame.transpose else (b, a)
            cells.append((rows - 1 - y if frame.flip_y else y, columns - 1 - x if frame.flip_x else x))
    return cells


COARSE_PLAN: Final = -1
"""Stands for the coarse plan, instead of the number of a context patch."""


class NeighborSource(NamedTuple):
    """Where a neighbor comes from.

    Attributes:
        context: number of the context patch, ``COARSE_PLAN``, or None for the patch itself.
        cell: ``row * columns + column`` in that context patch, the place in writing order in the patch itself, or the
            place in the part of the coarse plan that is one token larger on all sides than the patch.
    """

    context: int | None
    cell: int


@functools.lru_cache(maxsize=4096)
def neighbor_sources(
    symmetry: Symmetry,
    context: tuple[PatchOffset, ...],
    patch_size: tuple[int, int],
    token_order: TokenOrder,
    *,
    neighbors: tuple[Neighbor, ...] = NEIGHBORS,
) -> tuple[tuple[NeighborSource | None, ...], ...]:
    """Return for each of N tokens in writing order the sources of its K neighbors.

    ``context`` are the offsets, on the canvas, of the patches that the pool selected.
    """
    rows, columns = patch_size
    cells = patch_cells(symmetry, patch_size, token_order)
    written = {cell: n for n, cell in enumerate(cells)}
    known = {(o.t, o.y, o.x): c for c, o in enumerate(context)}
    frame = ZETA if token_order == "raster" else symmetry

    def source(n: int, there: Neighbor) -> NeighborSource | None:
        dt, dy, dx = there[:3]
        if there.turned:
            # Out of the canonical frame: transpose first, then flip.
            dy, dx = (dx, dy) if frame.transpose else (dy, dx)
            dy, dx = -dy if frame.flip_y else dy, -dx if frame.flip_x else dx
        y, x = cells[n][0] + dy, cells[n][1] + dx
        if there.coarse:
            return NeighborSource(COARSE_PLAN, (y + 1) * (columns + 2) + x + 1)
        patch = (dt, y // rows, x // columns)
        cell = (y % rows, x % columns)
        if patch == (0, 0, 0):
            return NeighborSource(None, written[cell]) if there.later or written[cell] < n else None
        if patch in known:
            return NeighborSource(known[patch], cell[0] * columns + cell[1])
        return None

    return tuple(tuple(source(n, there) for there in neighbors) for n in range(len(cells)))


@functools.lru_cache(maxsize=4096)
def neighbor_positions(
    symmetry: Symmetry,
    context: tuple[PatchOffset, ...],
    patch_size: tuple[int, int],
    token_order: TokenOrder,
    *,
    neighbors: tuple[Neighbor, ...] = NEIGHBORS,
) -> tuple[Tensor, Tensor]:
    """Return :func:`neighbor_sources` as two tensors ``[N, K]``, ``ABSENT`` where the other one or neither holds.

    The first gives places in writing order in the patch itself, the second ``context * N + cell`` in its context, after
    which the coarse plan follows.
    """
    sources = neighbor_sources(symmetry, context, patch_size, token_order, neighbors=neighbors)
    cells = patch_size[0] * patch_size[1]

    def outside(source: NeighborSource | None) -> int:
        if source is None or source.context is None:
            return ABSENT
        return (len(context) if source.context == COARSE_PLAN else source.context) * cells + source.cell

    own = [[s.cell if s and s.context is None else ABSENT for s in row] for row in sources]
    return torch.tensor(own), torch.tensor([[outside(s) for s in row] for row in sources])


@dataclass(frozen=True)
class PlanLayout:
    """Everything the joint training forward needs to know of a plan.

    Attributes:
        index_PN: place of every token in the flattened ``(t, y, x)`` token grid of the symmetry.
        neighbors_PNK: place of the neighbors of every token in that grid, ``ABSENT`` where there is none; those in the
            coarse plan lie in a second grid of the same shape, which follows.
        symmetry_P: index of the symmetry of each step (0 throughout in raster order, which has no symmetries).
        height_P: how high the center of each step's patch lies in the grid, 0 at the top, 1 at the bottom.
        known_P: which steps are given, not written.
        groups: which steps see which.
        key: equal keys mean equal ``groups`` and ``known_P``, so such plans can share a batch.
    """

    index_PN: Tensor
    neighbors_PNK: Tensor
    symmetry_P: Tensor
    height_P: Tensor
    known_P: Tensor
    groups: tuple[ContextGroup, ...]
    key: tuple[object, ...]

    @functools.cached_property
    def walked(self) -> list[tuple[ContextGroup, int, list[int], bool]]:
        """For each step its group, its number there, the steps that it sees, and whether it is known."""
        found = {int(s): (g, i, g.context_PC[i].tolist()) for g in self.groups for i, s in enumerate(g.steps_P)}
        return [(*found[step], known) for step, known in enumerate(self.known_P.tolist())]


def step_tensors(planned: PlannedStep, embedding: RelativePatchEmbedding) -> tuple[list[int], list[int]]:
    """Return the embedding entries and the relative symmetries of a step's context."""
    return [embedding.index(o) for o in planned.offsets], list(planned.relative_symmetries)


def lay_out(
    plan: Iterable[Step],
    pool: ContextPool,
    *,
    grid: PatchGrid,
    patch_size: tuple[int, int],
    embedding: RelativePatchEmbedding,
    token_order: TokenOrder,
    neighbors: tuple[Neighbor, ...] = NEIGHBORS,
) -> PlanLayout:
    """Turn a finite plan into tensors; ``neighbors`` and ``embedding`` are those of the model."""
    steps = list(plan)
    table = ContextTable.from_walk(walk(steps, pool, grid, token_order=token_order))
    rows, columns = patch_size
    frames, down, across = grid.lengths
    height, width = down * rows, across * columns

    def base(patch: PatchIndex) -> int:
        return (patch.t * height + patch.y * rows) * width + patch.x * columns

    def planned_at(patch: PatchIndex, cell: int) -> int:
        y, x = patch.y * rows + cell // (columns + 2) - 1, patch.x * columns + cell % (columns + 2) - 1
        y, x = y % height if "y" in grid.wrap else y, x % width if "x" in grid.wrap else x
        inside = 0 <= y < height and 0 <= x < width
        return ((frames + patch.t) * height + y) * width + x if inside else ABSENT

    def place(source: NeighborSource | None, step: Step, own: list[int], seen: list[PatchIndex]) -> int:
        if source is None:
            return ABSENT
        if source.context is None:
            return own[source.cell]
        if source.context == COARSE_PLAN:
            return planned_at(step.patch, source.cell)
        return base(seen[source.context]) + source.cell // columns * width + source.cell % columns

    index_PN, neighbors_PNK = [], []
    for planned in table.steps:
        step = planned.step
        cells = patch_cells(step.symmetry, patch_size, token_order)
        own = [base(step.patch) + y * width + x for y, x in cells]
        index_PN.append(own)
        seen = [steps[n].patch for n in planned.context]
        sources = neighbor_sources(step.symmetry, planned.places, patch_size, token_order, neighbors=neighbors)
        neighbors_PNK.append([[place(s, step, own, seen) for s in row] for row in sources])
    groups = []
    for numbers in table.groups().values():
        alike = [table.steps[n] for n in numbers]
        entries = [step_tensors(p, embedding) for p in alike]
        shape = (len(alike), len(alike[0].context))
        groups.append(
            ContextGroup(
                steps_P=torch.tensor(numbers),
                context_PC=torch.tensor([p.context for p in alike], dtype=torch.long).view(shape),
                offset_PC=torch.tensor([e[0] for e in entries], dtype=torch.long).view(shape),
                symmetry_PC=torch.tensor([e[1] for e in entries], dtype=torch.long).view(shape),
            )
        )
    # Neighbors are looked up for each sample: mirrored symmetries, whose earlier frames are not, share a batch.
    key = (*((p.context, p.offsets, p.relative_symmetries) for p in table.steps), tuple(step.known for step in steps))
    known = torch.tensor([step.known for step in steps])
    symmetries = [0 if token_order == "raster" else s.symmetry.index for s in steps]
    return PlanLayout(
        torch.tensor(index_PN),
        torch.tensor(neighbors_PNK),
        torch.tensor(symmetries),
        torch.tensor([grid.height(step.patch) for step in steps]),
        known,
        tuple(groups),
        key,
    )


def place_tokens(
    tokens_N: Tensor, symmetry: Symmetry, *, patch_size: tuple[int, int], token_order: TokenOrder
) -> Tensor:
    """Return the tokens of a patch ``[rows, columns]`` as they lie on the canvas, from writing order ``[..., N]``."""
    cells = patch_cells(symmetry, patch_size, token_order)
    flat = torch.tensor([y * patch_size[1] + x for y, x in cells])
    out = torch.empty_like(tokens_N)
    out[..., flat] = tokens_N
    return torch.unflatten(out, -1, patch_size)


def read_tokens(tokens_YX: Tensor, symmetry: Symmetry, *, token_order: TokenOrder) -> Tensor:
    """Return the tokens ``[..., rows, columns]`` of a patch in writing order ``[..., N]``."""
    cells = patch_cells(symmetry, (tokens_YX.shape[-2], tokens_YX.shape[-1]), token_order)
    flat = torch.tensor([y * tokens_YX.shape[-1] + x for y, x in cells])
    return tokens_YX.flatten(-2)[..., flat]
