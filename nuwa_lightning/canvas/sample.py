"""The tokens of small canvases, by the one sampler.

Shape legend: B canvases, Y/X rows and columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex


def sample_tokens(
    renderer: InfiniteRenderer,
    grid: PatchGrid,
    *,
    seeds: Sequence[int],
    known: Mapping[PatchIndex, Tensor] | None = None,
    prompts: Prompts | None = None,
) -> Tensor:
    """Return the tokens of small canvases, one a seed, ``[B, Y, X]``, of videos ``[T, B, Y, X]``, held in memory."""
    rows, columns = renderer.model.patch_size
    frames, down, across = grid.lengths
    tokens_TBYX = torch.zeros(frames, len(seeds), down * rows, across * columns, dtype=torch.long)
    for done in renderer.render(grid, seeds=seeds, known=known, prompts=prompts):
        t, top, left = done.patch.t, done.patch.y * rows, done.patch.x * columns
        tokens_TBYX[t, :, top : top + rows, left : left + columns] = done.tokens_BYX
    return tokens_TBYX[0] if frames == 1 else tokens_TBYX
