"""From finished patches to what a writer takes: rectangles of an image, whole frames of a video.

Shape legend: B canvases side by side, Y/X rows and columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, final, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.canvas.streaming_decoder import Finish, StreamingDecoder
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.tokenizers.tiling import Rectangle

Pixels = NDArray[np.uint8]
_UNWRITTEN: Final = -1


@runtime_checkable
class Sink(Protocol):
    """Where the pixels of an image go; a ``CanvasWriter`` is one."""

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Take a rectangle whose upper left corner lies at ``(y, x)``."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on from here, as plain JSON."""
        ...


@runtime_checkable
class FrameSink(Protocol):
    """Where the frames of a video go; a ``VideoWriter`` is one."""

    def append(self, frame_YX3: Pixels) -> None:
        """Take the next frame."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on from here, as plain JSON."""
        ...


class FrameDecoder(Protocol):
    """Turns the tokens of one frame after the other into pixels."""

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before."""
        ...

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame.

        Args:
            tokens_YX: its tokens.
            previous_YX3: the frame before as it was decoded or given; None for the first one.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where the canvas lies on its grid of patches, in pixels.

    Attributes:
        size: height and width; None along an endless axis.
        origin: row and column of the grid at which it begins.
        factor: pixels of a token.
    """

    size: tuple[int | None, int | None]
    origin: tuple[int, int]
    downsample_factor: int

    def inside(self, pixels_YX3: Pixels, *, top: int, left: int) -> tuple[Pixels, int, int]:
        """Return what of the pixels lies on the canvas, and where its corner is there.

        Args:
            pixels_YX3: pixels.
            top: row of the grid, in tokens, at which they begin.
            left: column of the grid, in tokens.
        """
        corner, kept = [], []
        for axis, start in enumerate((top, left)):
            first, length = start * self.downsample_factor - self.origin[axis], self.size[axis]
            kept.append(slice(max(0, -first), None if length is None else max(0, length - first)))
            corner.append(max(0, first))
        return pixels_YX3[kept[0], kept[1]], corner[0], corner[1]


class Assembler(ABC):
    """Takes the patches of one canvas as they are finished, and gives pixels to a sink as soon as they are final."""

    @abstractmethod
    def put(self, tokens_YX: Tensor, patch: PatchIndex) -> None:
        """Take the tokens of a finished patch as they lie on the canvas."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors."""

    @property
    @abstractmethod
    def complete(self) -> int:
        """How long an endless canvas is so far, in tokens."""

    @abstractmethod
    def end(self) -> None:
        """End an endless canvas after what is complete."""


@final
class ImageAssembler(Assembler):
    """Tile by tile.

    Args:
        decoder: from tokens to pixels; with its state, if there is one.
        sink: where they go.
        place: of the canvas.
    """

    def __init__(self, decoder: StreamingDecoder, sink: Sink, place: Place) -> None:
        self._decoder, self._sink, self._place = decoder, sink, place

    def put(self, tokens_YX: Tensor, patch: PatchIndex) -> None:
        """See `Developer.put`."""
        rows, columns = tokens_YX.shape
        for piece, pixels in self._decoder.put(tokens_YX, top=patch.y * rows, left=patch.x * columns):
            self._write(piece, pixels)

    def state(self) -> dict[str, Tensor]:
        """See `Developer.state`."""
        return self._decoder.state()

    @property
    def complete(self) -> int:
        """See `Developer.complete`."""
        return self._decoder.complete

    def end(self) -> None:
        """See `Developer.end`."""
        for piece, pixels in self._decoder.cut():
            self._write(piece, pixels)

    def _write(self, piece: Rectangle, pixels_YX3: Pixels) -> None:
        """Write what of a tile lies on the canvas, which may be smaller than its grid."""
        inside_YX3, y, x = self._place.inside(pixels_YX3, top=piece.top, left=piece.left)
        if inside_YX3.size:
            self._sink.write(inside_YX3, y=y, x=x)


@final
class VideoAssembler(Assembler):
    """Frame by frame: patches of later frames may come before a frame is complete, and wait.

    Args:
        decoder: from tokens to pixels.
        sink: where frames go.
        place: of each frame.
        tokens: rows and columns of the grid in tokens.
        finish: what is done to the pixels of the first frame, such as laying the given image over them.
        state: what :meth:`state` of an earlier one returned: go on from there.
    """

    def __init__(
        self,
        decoder: FrameDecoder,
        sink: FrameSink,
        place: Place,
        *,
        tokens: tuple[int, int],
        finish: Finish | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._decoder, self._sink, self._place, self._finish = decoder, sink, place, finish
        self._tokens = tokens
        self._waiting: dict[int, Tensor] = {}
        self._missing: dict[int, int] = {}
        self._next = 0
        self._previous: Pixels | None = None
        if state is not None:
            self._next, *numbers = state["numbers"].tolist()
            for number, tokens_YX in zip(numbers, state["tokens"], strict=True):
                self._waiting[number] = tokens_YX.clone()
                self._missing[number] = int((tokens_YX == _UNWRITTEN).sum())
            if "previous" in state:
                self._previous = state["previous"].numpy().copy()

    def put(self, tokens_YX: Tensor, patch: PatchIndex) -> None:
        """See `Developer.put`."""
        if patch.t not in self._waiting:
            self._waiting[patch.t] = torch.full(self._tokens, _UNWRITTEN, dtype=torch.int32)
            self._missing[patch.t] = self._waiting[patch.t].numel()
        rows, columns = tokens_YX.shape
        top, left = patch.y * rows, patch.x * columns
        self._waiting[patch.t][top : top + rows, left : left + columns] = tokens_YX
        self._missing[patch.t] -= tokens_YX.numel()
        while self._missing.get(self._next) == 0:
            self._give()

    def state(self) -> dict[str, Tensor]:
        """See `Developer.state`."""
        numbers = sorted(self._waiting)
        empty = torch.zeros(0, *self._tokens, dtype=torch.int32)
        kept = {
            "numbers": torch.tensor([self._next, *numbers], dtype=torch.int64),
            "tokens": torch.stack([self._waiting[number] for number in numbers]) if numbers else empty,
        }
        return kept if self._previous is None else {**kept, "previous": torch.from_numpy(self._previous)}

    @property
    def complete(self) -> int:
        """A video has a size."""
        raise ValueError("the frames of a video have a size")

    def end(self) -> None:
        """A video has a size."""
        raise ValueError("the frames of a video have a size")

    def _give(self) -> None:
        """Decode the next frame and give it away."""
        del self._missing[self._next]
        tokens_YX = self._waiting.pop(self._next).long()
        pixels_YX3 = self._decoder.decode(tokens_YX, self._previous)
        if self._next == 0 and self._finish is not None:
            pixels_YX3 = self._finish.finish(pixels_YX3, y=0, x=0)
        self._previous = pixels_YX3 if self._decoder.guided else None
        inside_YX3, _, _ = self._place.inside(pixels_YX3, top=0, left=0)
        self._sink.append(np.ascontiguousarray(inside_YX3))
        self._next += 1
