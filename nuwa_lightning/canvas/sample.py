"""Whole images and short videos: tokens by the one sampler, pixels by the decoders of what is written.

Shape legend: B canvases, Y/X rows and columns.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.canvas.decoding import SingleFrames, to_uint8
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer


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


@torch.inference_mode()
def sample_images(
    renderer: InfiniteRenderer,
    tokenizer: Tokenizer,
    *,
    grid: PatchGrid,
    seeds: Sequence[int],
    prompts: Prompts | None = None,
) -> list[NDArray[np.uint8]]:
    """Return small images, one a seed, uint8 ``[Y, X, 3]``."""
    tokens_BYX = sample_tokens(renderer, grid, seeds=seeds, prompts=prompts)
    return [to_uint8(tokenizer.decode(tokens_YX[None])[0]) for tokens_YX in tokens_BYX]


def sample_videos(
    renderer: InfiniteRenderer,
    tokenizer: Tokenizer,
    *,
    grid: PatchGrid,
    seeds: Sequence[int],
    prompts: Prompts | None = None,
) -> list[list[NDArray[np.uint8]]]:
    """Return the frames of short videos, one a seed, uint8 ``[Y, X, 3]``, each decoded by itself."""
    decoder = SingleFrames(tokenizer)
    tokens = sample_tokens(renderer, grid, seeds=seeds, prompts=prompts)
    tokens_TBYX = tokens if tokens.dim() == 4 else tokens[None]
    return [[decoder.decode(tokens_YX, None) for tokens_YX in tokens_TBYX[:, n]] for n in range(len(seeds))]
