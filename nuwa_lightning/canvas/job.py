"""From a request to a canvas, wave by wave and from any state on; and from a canvas to its pixels.

Shape legend: B canvases side by side, Y/X rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nuwa_lightning.canvas.canvas import Canvas, CanvasFacts, CanvasState
from nuwa_lightning.canvas.coarse import CoarseOrder
from nuwa_lightning.canvas.decoding import Crop, DecodedImage, Finish, FrameDecoder, Pixels, TileDecoder, decoded_frames
from nuwa_lightning.generation.patch_batch import PatchStates
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import DecodingState, InfiniteRenderer, Rendering
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle


@dataclass(frozen=True)
class Video:
    """What makes a video of a canvas in time.

    Attributes:
        fps: frames a second.
        decoder: from tokens to pixels.
    """

    fps: float
    decoder: FrameDecoder


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        grid: the canvas in patches.
        seeds: one for each of B canvases.
        size: height and width in pixels, at most those of the grid; None along an endless axis.
        origin: pixel row and column of the grid at which the canvas begins.
        known: given patches, tokens ``[B, rows, columns]``.
        prompts: the texts.
        finish: what is done to pixels before they are written; of a video to those of the first frame.
        tile: side, in tokens, of what is decoded at once.
        video: for a video; None for an image.
        coarse: the coarse plan; None for none.
    """

    grid: PatchGrid
    seeds: tuple[int, ...]
    size: tuple[int | None, int | None]
    origin: tuple[int, int] = (0, 0)
    known: Mapping[PatchIndex, Tensor] = field(default_factory=dict)
    prompts: Prompts | None = None
    finish: Finish | None = None
    tile: int = 64
    video: Video | None = None
    coarse: CoarseOrder | None = None

    def rendering(self, renderer: InfiniteRenderer, **options: Any) -> Rendering:
        """Return the canvas in the making, with its coarse plan; further arguments as for :class:`Rendering`."""
        coarse = self.coarse and self.coarse.begin(self.grid, renderer.model.patch_size, self.seeds)
        given = {"known": self.known, "prompts": self.prompts, "coarse": coarse, **options}
        return Rendering(renderer, self.grid, seeds=self.seeds, plan_guidance=self._plan_guidance, **given)

    @property
    def _plan_guidance(self) -> float:
        return 1.0 if self.coarse is None else self.coarse.guidance

    @property
    def copies(self) -> int:
        """How many rows a canvas takes under guidance."""
        return 2 if self._plan_guidance != 1 else self.prompts.copies if self.prompts else 1


@dataclass(frozen=True)
class Progress:
    """How far a production is, after a wave.

    Attributes:
        patches: how many are finished, of each canvas.
        wave: how many were written side by side, all canvases together.
        live: how many the pool holds.
    """

    patches: int
    wave: int
    live: int


class Generation:
    """A canvas in the making: iterate over it, wave by wave; between waves its state may be committed.

    Args:
        order: what is to be made.
        renderer: the sampler.
        canvas: where the tokens go; as it was when the state was committed.
        state: what :meth:`state` returned for the same order: go on from there.

    Raises:
        ValueError: if the state is that of another canvas.
    """

    def __init__(
        self, order: Order, renderer: InfiniteRenderer, canvas: Canvas, *, state: CanvasState | None = None
    ) -> None:
        self.order, self.canvas = order, canvas
        self.patches = canvas.patches if state else 0
        """How many patches of each image are finished."""
        decoding_state = _decoding_state(state, renderer, order) if state and state.waves else None
        self._rendering = order.rendering(renderer, decoding_state=decoding_state)
        self._slabs = _Slabs(order.grid)
        for patch in canvas.written() if order.grid.endless else ():
            self._slabs.add(patch)

    @property
    def waves(self) -> int:
        """How many waves are finished."""
        return self._rendering.finished

    @property
    def length(self) -> int:
        """How many rows (columns) of patches of an endless canvas are complete from its beginning on."""
        return self._slabs.complete

    def __iter__(self) -> Iterator[Progress]:
        """Generate wave after wave."""
        for wave in self._rendering:
            self.canvas.put((done.patch, done.tokens_BYX) for done in wave)
            for done in wave if self.order.grid.endless else ():
                self._slabs.add(done.patch)
            self.patches += len(wave)
            yield Progress(self.patches, wave[-1].wave * len(self.order.seeds), wave[-1].live)

    def state(self, facts: Mapping[str, Any]) -> CanvasState:
        """Return where this stands, for :meth:`Canvas.commit`, with facts of the caller's."""
        tensors = _flattened(self._rendering.decoding_state()) if self.waves else {}
        return CanvasState(self.waves, dict(facts), tensors)


class _Slabs:
    """Counts the patches of each row (column) along an endless axis."""

    def __init__(self, grid: PatchGrid) -> None:
        self._axis = grid.shape.index(None) if grid.endless else 0
        self._full = math.prod(length for length in grid.shape if length is not None)
        self._counts: dict[int, int] = {}
        self.complete = 0

    def add(self, patch: PatchIndex) -> None:
        self._counts[patch[self._axis]] = self._counts.get(patch[self._axis], 0) + 1
        while self._counts.get(self.complete) == self._full:
            del self._counts[self.complete]
            self.complete += 1


def facts_of(order: Order, renderer: InfiniteRenderer, tokenizer: Tokenizer, how: Mapping[str, Any]) -> CanvasFacts:
    """Return what the canvas of an order says about itself."""
    return CanvasFacts(
        order.grid,
        order.seeds,
        renderer.model.patch_size,
        tokenizer.codebook_size,
        tokenizer.downsample_factor,
        how=how,
    )


def tiles_of(canvas: Canvas, tokenizer: Tokenizer, order: Order, grid: PatchGrid, *, number: int = 0) -> TileDecoder:
    """Return what decodes the tiles of an image of a canvas; the grid has no endless axis."""

    def read(area: Rectangle) -> Tensor:
        return canvas.read(area, number=number)

    size = _tokens(canvas, grid)
    return TileDecoder(tokenizer, size, read, tile=order.tile, finish=order.finish, wrap=grid.wrap)


def decoded_image(
    canvas: Canvas, tokenizer: Tokenizer, order: Order, grid: PatchGrid, crop: Crop, *, number: int = 0
) -> DecodedImage:
    """Return the pixels of an image of a canvas, as a writer takes them.

    Args:
        canvas: the tokens.
        tokenizer: what decodes.
        order: how it is tiled and finished.
        grid: its shape in patches, without an endless axis.
        crop: which part of the grid is the image.
        number: which of the images.
    """
    return DecodedImage(tiles_of(canvas, tokenizer, order, grid, number=number), crop, folder=canvas.folder)


def decoded_video(canvas: Canvas, order: Order, crop: Crop, *, number: int = 0) -> Iterator[Pixels]:
    """Yield the frames of a video of a canvas; arguments as for :func:`decoded_image`."""
    assert order.video is not None
    height, width = _tokens(canvas, order.grid)
    frames = range(order.grid.t or 0)
    tokens = (canvas.read(Rectangle(0, 0, height, width), t=t, number=number) for t in frames)
    return decoded_frames(tokens, order.video.decoder, crop, finish=order.finish)


def _tokens(canvas: Canvas, grid: PatchGrid) -> tuple[int, int]:
    assert grid.y is not None
    assert grid.x is not None
    rows, columns = canvas.facts.patch_size
    return grid.y * rows, grid.x * columns


def _flattened(decoding_state: DecodingState) -> dict[str, Tensor]:
    """Return a decoding state as few tensors: what the steps in the pool have, stacked."""
    numbers = sorted(decoding_state.tokens)
    tensors = {"pool.numbers": torch.tensor(numbers, dtype=torch.int64)}
    if numbers:
        states = [decoding_state.states[number] for number in numbers]
        tensors["pool.tokens"] = torch.stack([decoding_state.tokens[number] for number in numbers])
        for kind in ("keys", "values"):
            for layer, parts in enumerate(zip(*(getattr(each, kind) for each in states), strict=True)):
                tensors[f"pool.{kind}.{layer}"] = torch.stack(parts).cpu()
    return tensors


def _decoding_state(state: CanvasState, renderer: InfiniteRenderer, order: Order) -> DecodingState:
    """Return the live states of a canvas.

    Raises:
        ValueError: if they do not fit the model; whoever wrote the file may have meant harm.
    """
    model, tensors = renderer.model, state.tensors
    attention = model.layer(0).attention
    copies = len(order.seeds) * order.copies
    shape = (copies, attention.num_kv_heads, model.patch_tokens, attention.head_dim)
    try:
        numbers = tensors["pool.numbers"].tolist()
        if not numbers:
            return DecodingState(state.waves, {}, {})
        tokens = tensors["pool.tokens"]
        kept = {
            kind: [tensors[f"pool.{kind}.{layer}"] for layer in range(model.num_layers)] for kind in ("keys", "values")
        }
    except KeyError as error:
        raise ValueError(f"the state lacks {error}") from error
    fits = tokens.shape == (len(numbers), len(order.seeds), *model.patch_size)
    fits = fits and all(part.shape == (len(numbers), *shape) for parts in kept.values() for part in parts)
    if not fits or not 0 <= int(tokens.min()) <= int(tokens.max()) < model.codebook_size:
        raise ValueError("the state is of another model")
    states = {
        number: PatchStates(*(tuple(part[n] for part in kept[kind]) for kind in ("keys", "values")))
        for n, number in enumerate(numbers)
    }
    return DecodingState(state.waves, {number: tokens[n] for n, number in enumerate(numbers)}, states)
