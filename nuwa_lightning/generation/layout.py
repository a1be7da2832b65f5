"""A plan as tensors: which token of the canvas stands where, and which step sees which.

Shape legend: P steps of the plan, N tokens per patch, C context patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.context.base import ContextPool
from nuwa_lightning.direction.base import Step
from nuwa_lightning.geometry import ZETA, PatchGrid, View
from nuwa_lightning.modules.patch_transformer import ContextGroup
from nuwa_lightning.modules.position import RelativePatchEmbedding
from nuwa_lightning.planning import ContextTable, PlannedStep, TokenOrder, walk


def patch_cells(view: View, patch_size: tuple[int, int], token_order: TokenOrder) -> list[tuple[int, int]]:
    """Return the ``(row, column)`` inside a patch of each of its N tokens, in writing order.

    Raises:
        ValueError: if a view that transposes meets a patch that is not square.
    """
    frame = ZETA if token_order == "raster" else view
    rows, columns = patch_size
    if frame.transpose and token_order == "mirrored" and rows != columns:
        raise ValueError(f"patch_size {patch_size}: view {view.name} needs square patches (or token_order: raster)")
    outer, inner = (rows, columns) if frame.transpose else (columns, rows)
    cells = []
    for a in range(outer):
        for b in range(inner):
            y, x = (a, b) if frame.transpose else (b, a)
            cells.append((rows - 1 - y if frame.flip_y else y, columns - 1 - x if frame.flip_x else x))
    return cells


@dataclass(frozen=True)
class PlanLayout:
    """Everything the joint training forward needs to know of a plan.

    Attributes:
        index_PN: place of every token in the flattened ``(t, y, x)`` token grid of the view.
        view_P: index of the view of each step (0 throughout in raster order, which has no views).
        groups: which steps see which.
        key: equal keys mean equal ``groups``, so such plans can share a batch.
    """

    index_PN: Tensor
    view_P: Tensor
    groups: tuple[ContextGroup, ...]
    key: tuple[object, ...]


def step_tensors(planned: PlannedStep, embedding: RelativePatchEmbedding) -> tuple[list[int], list[int]]:
    """Return the embedding entries and the relative views of a step's context."""
    return [embedding.index(o) for o in planned.offsets], list(planned.relative_views)


def lay_out(
    plan: Iterable[Step],
    pool: ContextPool,
    *,
    grid: PatchGrid,
    patch_size: tuple[int, int],
    embedding: RelativePatchEmbedding,
    token_order: TokenOrder,
) -> PlanLayout:
    """Turn a finite plan into tensors."""
    steps = list(plan)
    table = ContextTable.from_walk(walk(steps, pool, grid, token_order=token_order))
    rows, columns = patch_size
    assert grid.y is not None
    assert grid.x is not None
    height, width = grid.y * rows, grid.x * columns
    index = []
    for step in steps:
        base = (step.patch.t * height + step.patch.y * rows) * width + step.patch.x * columns
        index.append([base + y * width + x for y, x in patch_cells(step.view, patch_size, token_order)])
    groups = []
    for numbers in table.groups().values():
        planned = [table.steps[n] for n in numbers]
        entries = [step_tensors(p, embedding) for p in planned]
        shape = (len(planned), len(planned[0].context))
        groups.append(
            ContextGroup(
                steps_P=torch.tensor(numbers),
                context_PC=torch.tensor([p.context for p in planned], dtype=torch.long).view(shape),
                offset_PC=torch.tensor([e[0] for e in entries], dtype=torch.long).view(shape),
                view_PC=torch.tensor([e[1] for e in entries], dtype=torch.long).view(shape),
            )
        )
    key = tuple((p.context, p.offsets, p.relative_views) for p in table.steps)
    views = [0 if token_order == "raster" else s.view.index for s in steps]
    return PlanLayout(torch.tensor(index), torch.tensor(views), tuple(groups), key)


def place_tokens(tokens_N: Tensor, view: View, *, patch_size: tuple[int, int], token_order: TokenOrder) -> Tensor:
    """Return the tokens of a patch ``[rows, columns]`` as they lie on the canvas, from writing order ``[..., N]``."""
    cells = patch_cells(view, patch_size, token_order)
    flat = torch.tensor([y * patch_size[1] + x for y, x in cells])
    out = torch.empty_like(tokens_N)
    out[..., flat] = tokens_N
    return torch.unflatten(out, -1, patch_size)


def read_tokens(tokens_YX: Tensor, view: View, *, token_order: TokenOrder) -> Tensor:
    """Return the tokens ``[..., rows, columns]`` of a patch in writing order ``[..., N]``."""
    cells = patch_cells(view, (tokens_YX.shape[-2], tokens_YX.shape[-1]), token_order)
    flat = torch.tensor([y * tokens_YX.shape[-1] + x for y, x in cells])
    return tokens_YX.flatten(-2)[..., flat]
