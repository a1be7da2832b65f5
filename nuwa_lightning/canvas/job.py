"""From a request to a canvas, wave by wave and from any state on; and from a canvas to its pixels.

Shape legend: B canvases side by side, Y/X rows and columns.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nuwa_lightning.canvas.coarse import CoarseCanvas, CoarseOrder
from nuwa_lightning.canvas.decoding import Crop, DecodedImage, Finish, FrameDecoder, Pixels, TileDecoder, decoded_frames
from nuwa_lightning.canvas.facts import CanvasFacts, CanvasState, Stage
from nuwa_lightning.canvas.memory import TokenStore, TokenView
from nuwa_lightning.generation.patch_batch import PatchStates
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import DecodingState, InfiniteRenderer, RenderedPatch, Rendering
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import PlannedStep
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle
from nuwa_lightning.writers import Writer, write_image, write_video

_SHARE: Final = 50
"""A state is stored when this many times the time that the last one took has gone by: 2 % of the time at most."""


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
        given = {"known": self.known, "prompts": self.prompts, **options}
        if "coarse" not in given:
            given["coarse"] = self.planned(renderer)
        return Rendering(renderer, self.grid, seeds=self.seeds, plan_guidance=self._plan_guidance, **given)

    def planned(self, renderer: InfiniteRenderer) -> CoarseCanvas | None:
        """Return the coarse plan in the making; None for none."""
        if self.coarse is None:
            return None
        return self.coarse.begin(self.grid, renderer.model.patch_size, self.seeds, processes=renderer.processes)

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
        finished: those of the wave.
        alive: which the pool holds.
    """

    patches: int
    wave: int
    live: int
    finished: Sequence[RenderedPatch] = ()
    alive: Collection[PatchIndex] = ()


class Generation:
    """A canvas in the making: iterate over it, wave by wave; between waves its state may be committed.

    It begins at a state that :meth:`state` returned for the same order, of whose time the canvas is. Where ``walked``
    gives the steps to be gone through, nothing is stored of known ones.
    """

    def __init__(
        self,
        order: Order,
        renderer: InfiniteRenderer,
        canvas: TokenStore,
        *,
        state: CanvasState | None = None,
        walked: Iterable[PlannedStep] | None = None,
    ) -> None:
        self.order, self.canvas, self._stores_known = order, canvas, walked is None
        self.patches = 0 if state is None else canvas.patches if walked is None else int(state.facts["patches"])
        """How many patches of each image are finished."""
        decoding_state = _decoding_state(state, renderer, order) if state and state.waves else None
        self.plan = order.planned(renderer)
        """Its coarse plan."""
        self._rendering = order.rendering(
            renderer, decoding_state=decoding_state, walked=walked, corner=canvas.facts.corner, coarse=self.plan
        )
        self._slabs = _Slabs(order.grid)
        for patch in canvas.written() if order.grid.endless else ():
            self._slabs.add(patch)

    @property
    def waves(self) -> int:
        """How many waves are finished."""
        return self._rendering.finished

    def stop(self) -> None:
        """End it here, for all processes that write it."""
        self._rendering.stop()

    @property
    def length(self) -> int:
        """How many rows (columns) of patches of an endless canvas are complete from its beginning on."""
        return self._slabs.complete

    def __iter__(self) -> Iterator[Progress]:
        """Generate wave after wave."""
        for wave in self._rendering:
            self.canvas.put((done.patch, done.tokens_BYX) for done in wave if self._stores_known or not done.known)
            for done in wave if self.order.grid.endless else ():
                self._slabs.add(done.patch)
            self.patches += len(wave)
            alive = self._rendering.alive
            yield Progress(self.patches, wave[-1].wave * len(self.order.seeds), wave[-1].live, wave, alive)

    def state(self, facts: Mapping[str, Any]) -> CanvasState:
        """Return where this stands, for :meth:`Canvas.commit`, with facts of the caller's."""
        tensors = _flattened(self._rendering.decoding_state()) if self.waves else {}
        return CanvasState(self.waves, dict(facts), tensors)


def follow(order: Order, renderer: InfiniteRenderer) -> None:
    """Write the part of this process of a canvas that the first one keeps; see :func:`lead`."""
    assert renderer.processes is not None
    begun, state = renderer.processes.agree()
    if begun:
        decoding_state = _decoding_state(state, renderer, order) if state and state.waves else None
        for _ in order.rendering(renderer, decoding_state=decoding_state):
            pass


def lead(renderer: InfiniteRenderer, state: CanvasState | None = None, *, begun: bool = True) -> None:
    """Tell the other processes where a canvas goes on, or that there is nothing to generate of it."""
    if renderer.processes is not None:
        renderer.processes.agree((begun, state))


class Recorder:
    """Stores a state now and then, so that it takes little of the time."""

    def __init__(self, every: float, commit: Callable[[], None]) -> None:
        self._least = self._every = every
        self._commit, self._last = commit, time.monotonic()

    def __call__(self) -> None:
        """Store one if it is time."""
        before = time.monotonic()
        if before - self._last < self._every:
            return
        self._commit()
        self._last = time.monotonic()
        self._every = max(self._least, _SHARE * (self._last - before)) if self._least else 0


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
        (Stage(order.grid, size=order.size, origin=order.origin),),
        order.seeds,
        renderer.model.patch_size,
        tokenizer.codebook_size,
        tokenizer.downsample_factor,
        how=how,
    )


def cut_order(order: Order, length: int, patch_pixels: tuple[int, int]) -> Order | None:
    """Return the order of an endless canvas that was stopped after so many slabs; None if no pixel is complete."""
    sides = zip(order.size, patch_pixels, order.origin, strict=True)
    height, width = (length * side - start if size is None else size for size, side, start in sides)
    if min(height, width) < 1:
        return None
    down, across = (
        -(-(n + start) // side) for n, start, side in zip((height, width), order.origin, patch_pixels, strict=True)
    )
    grid = order.grid
    grid = PatchGrid(grid.t, grid.y or down, grid.x or across, wrap=grid.wrap)
    return replace(order, grid=grid, size=(height, width))


def decoded(canvas: TokenView, tokenizer: Tokenizer, order: Order, *, number: int = 0) -> DecodedImage:
    """Return the pixels of one of the images of a canvas, as a writer takes them; the order has no endless axis."""

    def read(area: Rectangle) -> Tensor:
        return canvas.read(area, number=number)

    size = _tokens(canvas, order.grid)
    tiles = TileDecoder(tokenizer, size, read, tile=order.tile, finish=order.finish, wrap=order.grid.wrap)
    return DecodedImage(tiles, _crop(order), folder=canvas.folder)


def decoded_video(canvas: TokenView, order: Order, *, number: int = 0) -> Iterator[Pixels]:
    """Yield the frames of a video of a canvas; arguments as for :func:`decoded`."""
    assert order.video is not None
    height, width = _tokens(canvas, order.grid)
    frames = range(order.grid.t or 0)
    tokens = (canvas.read(Rectangle(0, 0, height, width), t=t, number=number) for t in frames)
    return decoded_frames(tokens, order.video.decoder, _crop(order), finish=order.finish)


def export(
    canvas: TokenView,
    tokenizer: Tokenizer,
    order: Order,
    path: Path,
    *,
    metadata: Mapping[str, Any],
    number: int = 0,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    writer: Writer | str | None = None,
) -> None:
    """Write an image or a video of a canvas to a file, in memory for a few tiles or frames; see the writers."""
    options: dict[str, Any] = {"metadata": metadata, "overwrite": overwrite, "progress": progress, "writer": writer}
    if order.video is None:
        with closing(decoded(canvas, tokenizer, order, number=number)) as image:
            write_image(image, path, **options)
        return
    (height, width), frames = _crop(order).size, decoded_video(canvas, order, number=number)
    write_video(frames, path, width=width, height=height, fps=order.video.fps, **options)


def _crop(order: Order) -> Crop:
    height, width = order.size
    assert height is not None
    assert width is not None
    return Crop((height, width), order.origin)


def _tokens(canvas: TokenView, grid: PatchGrid) -> tuple[int, int]:
    rows, columns = canvas.facts.patch_size
    _, down, across = grid.lengths
    return down * rows, across * columns


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
    """Return the live states of a canvas, or raise a ValueError: whoever wrote the file may have meant harm."""
    model, tensors = renderer.model, state.tensors
    attention = model.layer(0).attention
    copies = len(order.seeds) * order.copies
    shape = (copies, attention.num_kv_heads, model.patch_tokens, attention.head_dim)
    if order.grid.endless and state.waves > state.facts["log"]:  # a plan that has no end would be followed so far
        raise ValueError("the state has more waves than patches")
    try:
        numbers_N = tensors["pool.numbers"]
        if numbers_N.dtype != torch.int64 or numbers_N.dim() != 1:
            raise ValueError("the state's steps are no numbers")
        numbers = numbers_N.tolist()
        if not numbers:
            return DecodingState(state.waves, {}, {})
        tokens = tensors["pool.tokens"]
        kept = {
            kind: [tensors[f"pool.{kind}.{layer}"] for layer in range(model.num_layers)] for kind in ("keys", "values")
        }
    except KeyError as error:
        raise ValueError(f"the state lacks {error}") from error
    parts = [part for layers in kept.values() for part in layers]
    fits = tokens.shape == (len(numbers), len(order.seeds), *model.patch_size) and tokens.dtype == torch.int64
    fits = fits and all(part.shape == (len(numbers), *shape) and part.is_floating_point() for part in parts)
    if not fits or not 0 <= int(tokens.min()) <= int(tokens.max()) < model.codebook_size:
        raise ValueError("the state is of another model")
    if not all(bool(part.isfinite().all()) for part in parts):
        raise ValueError("the state holds NaN or infinite numbers")
    states = {
        number: PatchStates(*(tuple(part[n] for part in kept[kind]) for kind in ("keys", "values")))
        for n, number in enumerate(numbers)
    }
    return DecodingState(state.waves, {number: tokens[n] for n, number in enumerate(numbers)}, states)
