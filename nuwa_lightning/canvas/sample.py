"""Whole images and short videos: tokens by the one sampler, pixels by the decoders of what is written.

Shape legend: B canvases, Y/X rows and columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.canvas.frame_decoder import SingleFrames
from nuwa_lightning.canvas.job import GenerationJob, Order, Video
from nuwa_lightning.canvas.streaming_decoder import Finish, StreamingDecoder, to_uint8
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer, RenderedPatch
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer

Watch = Callable[[RenderedPatch], None]


def sample_tokens(
    renderer: InfiniteRenderer,
    grid: PatchGrid,
    *,
    seeds: Sequence[int],
    known: Mapping[PatchIndex, Tensor] | None = None,
    prompts: Prompts | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return the tokens of small canvases, one a seed, ``[B, Y, X]``, held in memory.

    Args:
        renderer: the sampler.
        grid: their shape in patches.
        seeds: one for each canvas.
        known: given patches, ``[B, rows, columns]``.
        prompts: the texts, for a model that reads text.
        watch: called with each finished patch.
    """
    rows, columns = renderer.model.patch_size
    assert grid.y is not None
    assert grid.x is not None
    tokens_BYX = torch.zeros(len(seeds), grid.y * rows, grid.x * columns, dtype=torch.long)
    for done in renderer.render(grid, seeds=seeds, known=known, prompts=prompts):
        top, left = done.patch.y * rows, done.patch.x * columns
        tokens_BYX[:, top : top + rows, left : left + columns] = done.tokens_BYX
        if watch:
            watch(done)
    return tokens_BYX


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
    assert grid.y is not None
    assert grid.x is not None
    rows, columns = (cells * tokenizer.downsample_factor for cells in renderer.model.patch_size)
    size = (grid.y * rows, grid.x * columns)
    reels = [_Reel() for _ in seeds]
    video = Video(1, SingleFrames(tokenizer))
    order = Order(grid, tuple(seeds), size, prompts=prompts, video=video)
    # It goes on while it is asked, and gives the frames to the reels.
    deque(GenerationJob(order, renderer, tokenizer, sinks=reels), maxlen=0)
    return [reel.frames for reel in reels]


class _Reel:
    """A sink of frames in memory."""

    def __init__(self) -> None:
        self.frames: list[NDArray[np.uint8]] = []

    def append(self, frame_YX3: NDArray[np.uint8]) -> None:
        """Take the next frame."""
        self.frames.append(frame_YX3)

    def state(self) -> dict[str, Any]:
        """Return nothing: it is not gone on with."""
        return {}


def stream_image(
    renderer: InfiniteRenderer,
    tokenizer: Tokenizer,
    *,
    grid: PatchGrid,
    seed: int,
    known: Mapping[PatchIndex, Tensor] | None = None,
    prompts: Prompts | None = None,
    finish: Finish | None = None,
    watch: Watch | None = None,
    tile: int = 64,
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Write one canvas and yield its pixels tile by tile, as early as they are final.

    Yields:
        ``(y, x, pixels[Y, X, 3])``: pixel row and column of the tile's corner, and its pixels.
    """
    rows, columns = renderer.model.patch_size
    assert grid.y is not None
    assert grid.x is not None
    decoder = StreamingDecoder(tokenizer, (grid.y * rows, grid.x * columns), tile=tile, finish=finish, wrap=grid.wrap)
    for done in renderer.render(grid, seeds=[seed], known=known, prompts=prompts):
        if watch:
            watch(done)
        for piece, pixels in decoder.put(done.tokens_BYX[0], top=done.patch.y * rows, left=done.patch.x * columns):
            yield piece.top * tokenizer.downsample_factor, piece.left * tokenizer.downsample_factor, pixels
