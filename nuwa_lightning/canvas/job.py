"""From a renderer and a tokenizer to finished files: tokens, pixels and writers in step, from any record on.

Shape legend: B canvases side by side, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nuwa_lightning.canvas.assembler import (
    Assembler,
    FrameDecoder,
    FrameSink,
    ImageAssembler,
    Place,
    Sink,
    VideoAssembler,
)
from nuwa_lightning.canvas.journal import Record
from nuwa_lightning.canvas.streaming_decoder import Finish, StreamingDecoder
from nuwa_lightning.generation.patch_batch import PatchStates
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import DecodingState, InfiniteRenderer, RenderedPatch, Rendering
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer


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


class GenerationJob:
    """Canvases in the making: iterate over it, wave by wave; between waves it may be recorded.

    Args:
        order: what is to be made.
        renderer: who writes tokens.
        tokenizer: what turns them into pixels.
        sinks: where the pixels of each canvas go; with a record, as they stood when it was made.
        record: what :meth:`record` returned for the same order: go on from there.
        taken: told of each finished patch.

    Raises:
        ValueError: if the record is that of another canvas.
    """

    def __init__(
        self,
        order: Order,
        renderer: InfiniteRenderer,
        tokenizer: Tokenizer,
        *,
        sinks: Sequence[Sink | FrameSink],
        record: Record | None = None,
        taken: Callable[[RenderedPatch], None] = lambda _: None,
    ) -> None:
        self.order = order
        self._taken = taken
        self._factor, self._sinks = tokenizer.downsample_factor, tuple(sinks)
        self._patch_size = renderer.model.patch_size
        tensors = {} if record is None else record.tensors
        self.patches = 0 if record is None else int(record.facts["patches"])
        """How many patches of each canvas are finished."""
        self._rendering = Rendering(
            renderer,
            order.grid,
            seeds=order.seeds,
            known=order.known,
            prompts=order.prompts,
            decoding_state=_decoding_state(record.number, tensors, renderer.model.num_layers)
            if record and record.number
            else None,
        )
        lengths = zip((order.grid.y, order.grid.x), self._patch_size, strict=True)
        self._tokens = tuple(None if n is None else n * cells for n, cells in lengths)
        self._assemblers = [
            self._assembler(tokenizer, sink, _part(tensors, f"decoder{n}.") if record and record.number else None)
            for n, sink in enumerate(self._sinks)
        ]

    @property
    def waves(self) -> int:
        """How many waves are finished."""
        return self._rendering.finished

    def __iter__(self) -> Iterator[Progress]:
        """Write wave after wave."""
        for wave in self._rendering:
            for done in wave:
                self._take(done)
            self.patches += len(wave)
            yield Progress(self.patches, wave[-1].wave * len(self.order.seeds), wave[-1].live)

    def record(self) -> Record:
        """Return where this production stands, with what the sinks got so far forced to the disk."""
        facts = {"patches": self.patches, "sinks": [sink.state() for sink in self._sinks]}
        if not self.waves:
            return Record(0, facts, {})
        decoding_state = self._rendering.decoding_state()
        tensors = _flattened(decoding_state)
        for number, assembler in enumerate(self._assemblers):
            tensors |= {f"decoder{number}.{name}": kept for name, kept in assembler.state().items()}
        return Record(self.waves, facts, tensors)

    @property
    def length(self) -> int:
        """How long, in pixels, an endless canvas would be if it ended here."""
        complete = self._assemblers[0].complete * self._factor
        return complete - self.order.origin[0 if self.order.grid.y is None else 1]

    def end(self) -> None:
        """End an endless canvas: write what is left of its :attr:`length`."""
        for assembler in self._assemblers:
            assembler.end()

    def _take(self, done: RenderedPatch) -> None:
        self._taken(done)
        for tokens_YX, assembler in zip(done.tokens_BYX, self._assemblers, strict=True):
            assembler.put(tokens_YX, done.patch)

    def _assembler(self, tokenizer: Tokenizer, sink: Sink | FrameSink, state: Mapping[str, Tensor] | None) -> Assembler:
        order, (height, width) = self.order, self._tokens
        place = Place(order.size, order.origin, tokenizer.downsample_factor)
        if order.video is None:
            assert isinstance(sink, Sink)
            decoder = StreamingDecoder(
                tokenizer, (height, width), tile=order.tile, finish=order.finish, wrap=order.grid.wrap, state=state
            )
            return ImageAssembler(decoder, sink, place)
        assert isinstance(sink, FrameSink)
        assert height is not None
        assert width is not None
        return VideoAssembler(
            order.video.decoder, sink, place, tokens=(height, width), finish=order.finish, state=state
        )


def _flattened(decoding_state: DecodingState) -> dict[str, Tensor]:
    """Return a standstill as few tensors: what the steps in the pool have, stacked."""
    numbers = sorted(decoding_state.tokens)
    tensors = {"pool.numbers": torch.tensor(numbers, dtype=torch.int64)}
    if numbers:
        states = [decoding_state.states[number] for number in numbers]
        tensors["pool.tokens"] = torch.stack([decoding_state.tokens[number] for number in numbers])
        for kind in ("keys", "values"):
            for layer, parts in enumerate(zip(*(getattr(each, kind) for each in states), strict=True)):
                tensors[f"pool.{kind}.{layer}"] = torch.stack(parts).cpu()
    return tensors


def _decoding_state(waves: int, tensors: Mapping[str, Tensor], num_layers: int) -> DecodingState:
    numbers = tensors["pool.numbers"].tolist()
    tokens = {number: tensors["pool.tokens"][n] for n, number in enumerate(numbers)}

    def of(kind: str, n: int) -> tuple[Tensor, ...]:
        return tuple(tensors[f"pool.{kind}.{layer}"][n] for layer in range(num_layers))

    return DecodingState(
        waves, tokens, {number: PatchStates(of("keys", n), of("values", n)) for n, number in enumerate(numbers)}
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: kept for name, kept in tensors.items() if name.startswith(prefix)}
