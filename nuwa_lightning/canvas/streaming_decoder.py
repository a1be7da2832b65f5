"""From finished patches to pixels, tile by tile, while the rest of the canvas is still being written.

Shape legend: B canvases, Y/X rows and columns.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle, cut_out

Pixels = NDArray[np.uint8]

_UNWRITTEN: Final = -1
_Place = tuple[int, int]
"""Row and column of a tile among the tiles."""


def to_uint8(image_3YX: Tensor) -> Pixels:
    """Return pixels ``[Y, X, 3]`` in 0..255 of an image in [-1, 1]."""
    pixels = ((image_3YX.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array: Pixels = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


class Finish(Protocol):
    """What is done to decoded pixels before they are given away, such as laying a given image over them."""

    @property
    def margin(self) -> int:
        """How many tokens around a tile it has to see."""
        ...

    def finish(self, pixels_YX3: Pixels, *, y: int, x: int) -> Pixels:
        """Return finished pixels ``[Y, X, 3]``, given those that begin at pixel ``(y, x)`` of the grid."""
        ...


class StreamingDecoder:
    """Decode a tile as soon as it and its margin are written; equal to decoding the whole canvas at once.

    Tokens are kept until every tile that sees them is decoded, so memory is bounded by the front of the canvas. On an
    endless axis a tile waits until whole columns (rows) up to the end of its margin are there: wherever the canvas is
    then cut off, nothing that was given away has seen what lies beyond. On a closed axis tiles at the seam see the
    tokens on its other side.

    Args:
        tokenizer: what decodes.
        size: height and width of the canvas in tokens; one may be None, which is endless.
        tile: side of a tile in tokens.
        finish: what is done to pixels before they are given away.
        wrap: the closed axes, as in ``PatchGrid``.
        state: what :meth:`state` of an earlier decoder with the same other arguments returned: go on from there.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        size: tuple[int | None, int | None],
        *,
        tile: int = 64,
        finish: Finish | None = None,
        wrap: str = "",
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._finish = finish
        self._margin = finish.margin if finish else 0
        self._halo = tokenizer.decode_halo + self._margin + tokenizer.step - 1
        self._size = size
        self._endless = size.index(None) if None in size else None
        self._closed = ("y" in wrap, "x" in wrap)
        self._tile = tile
        self._blocks: dict[_Place, _Block] = {}
        self._missing: dict[_Place, int] = {}
        self._slabs: dict[int, int] = {}
        self.complete = 0
        """How many columns (rows) on the endless axis are complete from the beginning on, in tokens."""
        if state is not None:
            self._restore(state)

    def put(self, tokens_YX: Tensor, *, top: int, left: int) -> Iterator[tuple[Rectangle, Pixels]]:
        """Take a patch and yield the tiles that it completes; the iterator is to be drawn to its end.

        Args:
            tokens_YX: its tokens as they lie on the canvas.
            top: row of its first token.
            left: column of its first token.

        Yields:
            A tile (in tokens) and its pixels ``[Y, X, 3]``.
        """
        rows, columns = tokens_YX.shape
        patch = Rectangle(top, left, top + rows, left + columns)
        self._store(tokens_YX, patch)
        self._count_slabs(patch)
        ready = []
        for image in self._images(patch):
            for place in self._tiles_near(image):
                need = self._need(self._piece(place))
                missing = self._missing.get(place, _area(need)) - _overlap(need, image)
                self._missing[place] = missing
                if missing == 0:
                    del self._missing[place]
                    ready.append(place)
        for place in ready:
            yield self._give(place)

    def cut(self) -> Iterator[tuple[Rectangle, Pixels]]:
        """End an endless canvas after what is :attr:`complete`, and yield the tiles that were not yet given away."""
        assert self._endless is not None
        self._size = (self.complete, self._size[1]) if self._endless == 0 else (self._size[0], self.complete)
        left = [place for place in self._missing if place[self._endless] * self._tile < self.complete]
        self._endless = None
        for place in sorted(left):
            yield self._give(place)
        self._blocks.clear()

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors; not to be called while :meth:`put` is being drawn from."""
        blocks = sorted(self._blocks)
        empty = torch.zeros(0, self._tile, self._tile, dtype=torch.int32)
        return {
            "places": torch.tensor([[*p, self._blocks[p].readers] for p in blocks], dtype=torch.int64).view(-1, 3),
            "tokens": torch.stack([self._blocks[p].tokens_YX for p in blocks]) if blocks else empty,
            "missing": torch.tensor([[*p, n] for p, n in self._missing.items()], dtype=torch.int64).view(-1, 3),
            "slabs": torch.tensor([[0, self.complete], *self._slabs.items()], dtype=torch.int64),
        }

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        for (row, column, readers), tokens_YX in zip(state["places"].tolist(), state["tokens"], strict=True):
            self._blocks[row, column] = _Block(tokens_YX.clone(), readers)
        self._missing = {(row, column): n for row, column, n in state["missing"].tolist()}
        (_, self.complete), *slabs = state["slabs"].tolist()
        self._slabs = dict(slabs)

    def _axis_length(self, axis: int) -> int:
        length = self._size[axis]
        return sys.maxsize if length is None else length

    def _grown(self, area: Rectangle, margin: int) -> Rectangle:
        """Return the area with a margin, cut off at the borders of the canvas but not at its seams."""
        bounds = []
        for axis, (start, stop) in enumerate(((area.top, area.bottom), (area.left, area.right))):
            start, stop = start - margin, stop + margin
            if not self._closed[axis]:
                start, stop = max(0, start), min(self._axis_length(axis), stop)
            bounds.append((start, stop))
        return Rectangle(bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1])

    def _need(self, piece: Rectangle) -> Rectangle:
        """Return what has to be written before a tile is decoded."""
        outer = self._grown(piece, self._halo)
        if self._endless == 0:
            return Rectangle(outer.top, 0, outer.bottom, self._axis_length(1))
        if self._endless == 1:
            return Rectangle(0, outer.left, self._axis_length(0), outer.right)
        return outer

    def _images(self, area: Rectangle) -> Iterator[Rectangle]:
        """Yield the area and its copies beyond the seams, as far as some tile sees them."""
        shifts = []
        for axis in (0, 1):
            period = self._axis_length(axis)
            copies = -(-self._halo // period) if self._closed[axis] else 0
            shifts.append([copy * period for copy in range(-copies, copies + 1)])
        for down, right in itertools.product(*shifts):
            yield Rectangle(area.top + down, area.left + right, area.bottom + down, area.right + right)

    def _piece(self, place: _Place) -> Rectangle:
        top, left = place[0] * self._tile, place[1] * self._tile
        bottom, right = min(top + self._tile, self._axis_length(0)), min(left + self._tile, self._axis_length(1))
        return Rectangle(top, left, bottom, right)

    def _tiles_near(self, area: Rectangle) -> Iterator[_Place]:
        """Yield the places of the tiles that need something of an area."""
        reach = Rectangle(
            max(0, area.top - self._halo),
            max(0, area.left - self._halo),
            min(self._axis_length(0), area.bottom + self._halo),
            min(self._axis_length(1), area.right + self._halo),
        )
        if self._endless == 0:
            reach = reach._replace(left=0, right=self._axis_length(1))
        elif self._endless == 1:
            reach = reach._replace(top=0, bottom=self._axis_length(0))
        return _covering(reach, self._tile)

    def _store(self, tokens_YX: Tensor, patch: Rectangle) -> None:
        for place in _covering(patch, self._tile):
            piece = self._piece(place)
            if place not in self._blocks:
                unwritten = torch.full((self._tile, self._tile), _UNWRITTEN, dtype=torch.int32)
                self._blocks[place] = _Block(unwritten, self._count_readers(piece))
            rows = slice(max(patch.top, piece.top), min(patch.bottom, piece.bottom))
            columns = slice(max(patch.left, piece.left), min(patch.right, piece.right))
            kept_YX, new_YX = (
                whole_YX[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                for whole_YX, top, left in (
                    (self._blocks[place].tokens_YX, piece.top, piece.left),
                    (tokens_YX, patch.top, patch.left),
                )
            )
            kept_YX.copy_(new_YX)

    def _count_readers(self, block: Rectangle) -> int:
        seen = set()
        for image in self._images(block):
            for place in self._tiles_near(image):
                if _overlap(self._grown(self._piece(place), self._halo), image):
                    seen.add(place)
        return len(seen)

    def _count_slabs(self, patch: Rectangle) -> None:
        if self._endless is None:
            return
        begin, end, wide = (
            (patch.top, patch.bottom, patch.right - patch.left)
            if self._endless == 0
            else (patch.left, patch.right, patch.bottom - patch.top)
        )
        full = self._axis_length(1 - self._endless)
        for slab in range(begin, end):
            self._slabs[slab] = self._slabs.get(slab, 0) + wide
        while self._slabs.get(self.complete) == full:
            del self._slabs[self.complete]
            self.complete += 1

    def _give(self, place: _Place) -> tuple[Rectangle, Pixels]:
        piece = self._piece(place)
        pixels = self._decode(piece)
        for block in self._blocks_under(self._grown(piece, self._halo)):
            kept = self._blocks[block]
            kept.readers -= 1
            if kept.readers == 0:
                del self._blocks[block]
        return piece, pixels

    @torch.inference_mode()
    def _decode(self, piece: Rectangle) -> Pixels:
        f = self._tokenizer.downsample_factor
        shown = self._grown(piece, self._margin)
        outer = self._grown(shown, self._tokenizer.decode_halo).from_step(self._tokenizer.step)
        image_B3YX = self._tokenizer.decode(self._read(outer)[None])
        pixels = to_uint8(cut_out(image_B3YX, shown, outer=outer, factor=f)[0])
        if self._finish is None:
            return pixels
        finished = self._finish.finish(pixels, y=shown.top * f, x=shown.left * f)
        top, left = (piece.top - shown.top) * f, (piece.left - shown.left) * f
        height, width = (piece.bottom - piece.top) * f, (piece.right - piece.left) * f
        return finished[top : top + height, left : left + width]

    def _runs(self, axis: int, start: int, stop: int) -> Iterator[_Run]:
        """Yield the stretches of an axis, which may lie beyond a seam, that lie in one block each."""
        at = start
        while at < stop:
            home = at % self._axis_length(axis) if self._closed[axis] else at
            inside = home % self._tile
            length = min(stop - at, self._tile - inside)
            if self._closed[axis]:
                length = min(length, self._axis_length(axis) - home)
            yield _Run(at - start, home // self._tile, inside, length)
            at += length

    def _blocks_under(self, area: Rectangle) -> set[_Place]:
        rows = {run.block for run in self._runs(0, area.top, area.bottom)}
        columns = {run.block for run in self._runs(1, area.left, area.right)}
        return set(itertools.product(rows, columns))

    def _read(self, area: Rectangle) -> Tensor:
        tokens_YX = torch.empty(area.bottom - area.top, area.right - area.left, dtype=torch.long)
        runs = self._runs(0, area.top, area.bottom), self._runs(1, area.left, area.right)
        for y, x in itertools.product(*runs):
            kept_YX = self._blocks[y.block, x.block].tokens_YX
            tokens_YX[y.at : y.at + y.length, x.at : x.at + x.length] = kept_YX[
                y.inside : y.inside + y.length, x.inside : x.inside + x.length
            ]
        return tokens_YX


class _Block:
    """Tokens of one tile's place, and how many tiles have yet to see some of them."""

    def __init__(self, tokens_YX: Tensor, readers: int) -> None:
        self.tokens_YX, self.readers = tokens_YX, readers


class _Run(NamedTuple):
    """A stretch of one axis: where it goes, which block it comes from, from where in it, and how long it is."""

    at: int
    block: int
    inside: int
    length: int


def _covering(area: Rectangle, tile: int) -> Iterator[_Place]:
    """Yield the places of the tiles that an area touches."""
    if area.top >= area.bottom or area.left >= area.right:
        return
    for row in range(area.top // tile, -(-area.bottom // tile)):
        for column in range(area.left // tile, -(-area.right // tile)):
            yield row, column


def _area(area: Rectangle) -> int:
    return (area.bottom - area.top) * (area.right - area.left)


def _overlap(a: Rectangle, b: Rectangle) -> int:
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    width = min(a.right, b.right) - max(a.left, b.left)
    return max(0, height) * max(0, width)
