"""From a renderer and a tokenizer to finished files: tokens, pixels and writers in step, from any record on.

Shape legend: B canvases side by side, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.generation.journal import Record
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer, RenderedPatch, Rendering, Standstill
from nuwa_lightning.generation.streaming import Finish, StreamingDecoder
from nuwa_lightning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.modules.patch_states import PatchStates
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle

Pixels = NDArray[np.uint8]


class Sink(Protocol):
    """Where pixels go; a ``CanvasWriter`` is one."""

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Take a rectangle whose upper left corner lies at ``(y, x)``."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on from here, as plain JSON."""
        ...


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
        finish: what is done to pixels before they are written.
        tile: side, in tokens, of what is decoded at once.
    """

    grid: PatchGrid
    seeds: tuple[int, ...]
    size: tuple[int | None, int | None]
    origin: tuple[int, int] = (0, 0)
    known: Mapping[PatchIndex, Tensor] = field(default_factory=dict)
    prompts: Prompts | None = None
    finish: Finish | None = None
    tile: int = 64


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


class Production:
    """Canvases in the making: iterate over it, wave by wave; between waves it may be recorded.

    Args:
        order: what is to be made.
        renderer: who writes tokens.
        tokenizer: what turns them into pixels.
        sinks: where the pixels of each canvas go; with a record, as they stood when it was made.
        record: what :meth:`record` returned for the same order: go on from there.

    Raises:
        ValueError: if the record is that of another canvas.
    """

    def __init__(
        self,
        order: Order,
        renderer: InfiniteRenderer,
        tokenizer: Tokenizer,
        *,
        sinks: Sequence[Sink],
        record: Record | None = None,
    ) -> None:
        self.order = order
        self._factor, self._sinks = tokenizer.factor, tuple(sinks)
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
            standstill=_standstill(record.number, tensors, renderer.model.depth) if record and record.number else None,
        )
        lengths = zip((order.grid.y, order.grid.x), self._patch_size, strict=True)
        height, width = (None if n is None else n * cells for n, cells in lengths)
        self._decoders = [
            StreamingDecoder(
                tokenizer,
                (height, width),
                tile=order.tile,
                finish=order.finish,
                wrap=order.grid.wrap,
                state=_part(tensors, f"decoder{number}.") if record and record.number else None,
            )
            for number in range(len(order.seeds))
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
        standstill = self._rendering.standstill()
        tensors = _flattened(standstill)
        for number, decoder in enumerate(self._decoders):
            tensors |= {f"decoder{number}.{name}": kept for name, kept in decoder.state().items()}
        return Record(self.waves, facts, tensors)

    @property
    def length(self) -> int:
        """How long, in pixels, an endless canvas would be if it ended here."""
        complete = self._decoders[0].complete * self._factor
        return complete - self.order.origin[0 if self.order.grid.y is None else 1]

    def end(self) -> None:
        """End an endless canvas: write what is left of its :attr:`length`."""
        for decoder, sink in zip(self._decoders, self._sinks, strict=True):
            for piece, pixels in decoder.cut():
                self._write(sink, piece, pixels)

    def _take(self, done: RenderedPatch) -> None:
        rows, columns = self._patch_size
        top, left = done.patch.y * rows, done.patch.x * columns
        for tokens_YX, decoder, sink in zip(done.tokens_BYX, self._decoders, self._sinks, strict=True):
            for piece, pixels in decoder.put(tokens_YX, top=top, left=left):
                self._write(sink, piece, pixels)

    def _write(self, sink: Sink, piece: Rectangle, pixels_YX3: Pixels) -> None:
        """Write what of a tile lies on the canvas, which may be smaller than its grid."""
        corner, kept = [], []
        for axis, start in enumerate((piece.top, piece.left)):
            first, length = start * self._factor - self.order.origin[axis], self.order.size[axis]
            kept.append(slice(max(0, -first), None if length is None else max(0, length - first)))
            corner.append(max(0, first))
        inside_YX3 = pixels_YX3[kept[0], kept[1]]
        if inside_YX3.size:
            sink.write(inside_YX3, y=corner[0], x=corner[1])


def _flattened(standstill: Standstill) -> dict[str, Tensor]:
    """Return a standstill as few tensors: what the steps in the pool have, stacked."""
    numbers = sorted(standstill.tokens)
    tensors = {"pool.numbers": torch.tensor(numbers, dtype=torch.int64)}
    if numbers:
        states = [standstill.states[number] for number in numbers]
        tensors["pool.tokens"] = torch.stack([standstill.tokens[number] for number in numbers])
        for kind in ("keys", "values"):
            for layer, parts in enumerate(zip(*(getattr(each, kind) for each in states), strict=True)):
                tensors[f"pool.{kind}.{layer}"] = torch.stack(parts).cpu()
    return tensors


def _standstill(waves: int, tensors: Mapping[str, Tensor], depth: int) -> Standstill:
    numbers = tensors["pool.numbers"].tolist()
    tokens = {number: tensors["pool.tokens"][n] for n, number in enumerate(numbers)}

    def of(kind: str, n: int) -> tuple[Tensor, ...]:
        return tuple(tensors[f"pool.{kind}.{layer}"][n] for layer in range(depth))

    return Standstill(
        waves, tokens, {number: PatchStates(of("keys", n), of("values", n)) for n, number in enumerate(numbers)}
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: kept for name, kept in tensors.items() if name.startswith(prefix)}
