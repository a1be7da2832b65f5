"""From finished patches to pixels, tile by tile, while the rest of the canvas is still being written.

Shape legend: B canvases, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle, decode_rectangle, tiles

_UNWRITTEN: Final = -1


def to_uint8(image_3YX: Tensor) -> NDArray[np.uint8]:
    """Return pixels ``[Y, X, 3]`` in 0..255 of an image in [-1, 1]."""
    pixels = ((image_3YX.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array: NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


class Finish(Protocol):
    """What is done to decoded pixels before they are given away, such as laying a given picture over them."""

    @property
    def margin(self) -> int:
        """How many tokens around a tile it has to see."""
        ...

    def finish(self, pixels_YX3: NDArray[np.uint8], *, y: int, x: int) -> NDArray[np.uint8]:
        """Return finished pixels ``[Y, X, 3]``, given those that begin at pixel ``(y, x)`` of the grid."""
        ...


class StreamingDecoder:
    """Decode a tile as soon as it and its margin are written; equal to decoding the whole canvas at once.

    Args:
        tokenizer: what decodes.
        size: height and width of the canvas in tokens.
        tile: side of a tile in tokens.
        finish: what is done to pixels before they are given away.
    """

    def __init__(
        self, tokenizer: Tokenizer, size: tuple[int, int], *, tile: int = 64, finish: Finish | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._finish = finish
        self._halo = tokenizer.decode_halo + (finish.margin if finish else 0)
        self._size = size
        self._tile = tile
        # Two bytes a token: a canvas of 100,000 x 2,048 pixels takes 6 MB. The model's side is bounded by the pool.
        self._tokens_YX = torch.full(size, _UNWRITTEN, dtype=torch.int32)
        self._missing: dict[Rectangle, int] = {}
        for piece in tiles(*size, tile):
            outer = piece.grown(self._halo, *size)
            self._missing[piece] = (outer.bottom - outer.top) * (outer.right - outer.left)

    def put(self, tokens_YX: Tensor, *, top: int, left: int) -> Iterator[tuple[Rectangle, NDArray[np.uint8]]]:
        """Take a patch and yield the tiles that it completes.

        Args:
            tokens_YX: its tokens as they lie on the canvas.
            top: row of its first token.
            left: column of its first token.

        Yields:
            A tile (in tokens) and its pixels ``[Y, X, 3]``.
        """
        rows, columns = tokens_YX.shape
        self._tokens_YX[top : top + rows, left : left + columns] = tokens_YX
        patch = Rectangle(top, left, top + rows, left + columns)
        for piece in self._near(patch):
            outer = piece.grown(self._halo, *self._size)
            self._missing[piece] -= _overlap(outer, patch)
            if self._missing[piece] == 0:
                del self._missing[piece]
                yield piece, self._decode(piece)

    def _near(self, patch: Rectangle) -> list[Rectangle]:
        outer = patch.grown(self._halo, *self._size)
        found = []
        for top in range(outer.top // self._tile * self._tile, outer.bottom, self._tile):
            for left in range(outer.left // self._tile * self._tile, outer.right, self._tile):
                piece = Rectangle(
                    top, left, min(top + self._tile, self._size[0]), min(left + self._tile, self._size[1])
                )
                if piece in self._missing:
                    found.append(piece)
        return found

    @torch.inference_mode()
    def _decode(self, piece: Rectangle) -> NDArray[np.uint8]:
        def read(area: Rectangle) -> Tensor:
            return self._tokens_YX[None, area.top : area.bottom, area.left : area.right].long()

        f, margin = self._tokenizer.factor, self._finish.margin if self._finish else 0
        outer = piece.grown(margin, *self._size)
        pixels = to_uint8(decode_rectangle(self._tokenizer, read, rectangle=outer, size=self._size)[0])
        if self._finish is None:
            return pixels
        finished = self._finish.finish(pixels, y=outer.top * f, x=outer.left * f)
        top, left = (piece.top - outer.top) * f, (piece.left - outer.left) * f
        height, width = (piece.bottom - piece.top) * f, (piece.right - piece.left) * f
        return finished[top : top + height, left : left + width]


def _overlap(a: Rectangle, b: Rectangle) -> int:
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    width = min(a.right, b.right) - max(a.left, b.left)
    return max(0, height) * max(0, width)
