"""Encoding and decoding piece by piece, equal to doing it in one go (design section 5; ours).

A piece is computed with a margin as wide as the receptive field and the margin is thrown away. At the border of the
canvas the margin is cut off, where the network itself continues the border: hence the equality holds there, too.

Shapes: B batch, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nuwa_lightning.tokenizers.base import Tokenizer


class Rectangle(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, ends excluded, counted in tokens."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, margin: int, height: int, width: int, wrap: str = "") -> Rectangle:
        """Return the rectangle with a margin, cut at a canvas of ``height`` x ``width`` but not at its closed axes."""
        top, left, bottom, right = self.top - margin, self.left - margin, self.bottom + margin, self.right + margin
        if "y" not in wrap:
            top, bottom = max(0, top), min(height, bottom)
        if "x" not in wrap:
            left, right = max(0, left), min(width, right)
        return Rectangle(top, left, bottom, right)

    def from_step(self, step: int) -> Rectangle:
        """Return the rectangle, begun earlier so that its corner is a multiple of ``step``."""
        return self._replace(top=self.top // step * step, left=self.left // step * step)


TokenReader = Callable[[Rectangle], Tensor]
"""Gives the tokens (long, BYX) of a rectangle of the canvas."""


def tiles(height: int, width: int, tile: int) -> Iterator[Rectangle]:
    """Yield rectangles of at most ``tile`` x ``tile`` that cover the canvas once, row by row."""
    if tile < 1:
        raise ValueError(f"tile {tile}: at least one token is needed")
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield Rectangle(top, left, min(top + tile, height), min(left + tile, width))


def decode_rectangle(tokenizer: Tokenizer, read: TokenReader, *, rectangle: Rectangle, size: tuple[int, int]) -> Tensor:
    """Return the pixels ``image_B3YX`` of a rectangle of the canvas as decoding the whole canvas would give them.

    ``read`` is asked once, for the rectangle and its margin; ``size`` is that of the canvas in tokens, on an endless
    axis any number beyond the margin.
    """
    outer = rectangle.grown(tokenizer.decode_halo, *size).from_step(tokenizer.step)
    image = tokenizer.decode(read(outer))
    return cut_out(image, rectangle, outer=outer, factor=tokenizer.downsample_factor)


def decode_tiled(tokenizer: Tokenizer, tokens_BYX: Tensor, *, tile: int = 64) -> Tensor:
    """Return ``tokenizer.decode(tokens_BYX)``, computed in pieces of ``tile`` x ``tile`` tokens."""
    batch, height, width = tokens_BYX.shape

    def read(area: Rectangle) -> Tensor:
        return tokens_BYX[:, area.top : area.bottom, area.left : area.right]

    factor = tokenizer.downsample_factor
    image_B3YX = torch.empty(batch, 3, height * factor, width * factor, device=tokens_BYX.device)
    for piece in tiles(height, width, tile):
        top, left, bottom, right = (factor * v for v in piece)
        pixels = decode_rectangle(tokenizer, read, rectangle=piece, size=(height, width))
        image_B3YX[:, :, top:bottom, left:right] = pixels
    return image_B3YX


def encode_tiled(tokenizer: Tokenizer, image_B3YX: Tensor, *, tile: int = 64) -> Tensor:
    """Return ``tokenizer.encode(image_B3YX)``, computed in pieces of ``tile`` x ``tile`` tokens."""
    factor = tokenizer.downsample_factor
    height, width = (side // factor for side in image_B3YX.shape[2:])
    tokens_BYX = torch.empty(len(image_B3YX), height, width, dtype=torch.long, device=image_B3YX.device)
    for piece in tiles(height, width, tile):
        outer = piece.grown(tokenizer.encode_halo, height, width).from_step(tokenizer.step)
        top, left, bottom, right = (factor * v for v in outer)
        found = tokenizer.encode(image_B3YX[:, :, top:bottom, left:right])
        inner = found[:, piece.top - outer.top : piece.bottom - outer.top, piece.left - outer.left :]
        tokens_BYX[:, piece.top : piece.bottom, piece.left : piece.right] = inner[..., : piece.right - piece.left]
    return tokens_BYX


def cut_out(image_B3YX: Tensor, inner: Rectangle, *, outer: Rectangle, factor: int) -> Tensor:
    """Return the pixels of ``inner`` out of an image of ``outer``; both in tokens of ``factor`` pixels."""
    top, left = (inner.top - outer.top) * factor, (inner.left - outer.left) * factor
    height, width = (inner.bottom - inner.top) * factor, (inner.right - inner.left) * factor
    return image_B3YX[:, :, top : top + height, left : left + width]
