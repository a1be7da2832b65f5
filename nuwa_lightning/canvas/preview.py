"""The preview of a canvas that is being generated: its tiles, decoded by themselves as soon as they are complete."""

import numpy as np
import torch

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.canvas.job import Order
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle
from nuwa_lightning.writers.preview import GrowingPreview


class CanvasPreview:
    """Shows the first image of a canvas; at the borders of tiles one may see them, which a reduced copy hides."""

    def __init__(self, preview: GrowingPreview, canvas: Canvas, tokenizer: Tokenizer, order: Order) -> None:
        self._preview, self._canvas, self._tokenizer, self._order = preview, canvas, tokenizer, order
        self._patches = tuple(max(1, order.tile // cells) for cells in canvas.facts.patch_size)
        """Rows and columns of patches of a tile."""
        self._shown: set[tuple[int, int]] = set()

    def save(self, cut: Order | None = None) -> None:
        """Decode the tiles that are complete by now, and save; of an endless canvas that was ``cut`` all of them."""
        self._order = cut or self._order
        (down, across), (rows, columns) = self._patches, self._canvas.facts.patch_size
        missing: dict[tuple[int, int], int] = {}
        for patch in self._canvas.written():
            if patch not in self._order.grid:
                continue
            tile = (patch.y // down, patch.x // across)
            if tile not in self._shown:
                missing[tile] = missing.get(tile, self._full(tile)) - 1
        for tile in (tile for tile, count in missing.items() if count == 0):
            top, left = tile[0] * down * rows, tile[1] * across * columns
            bottom, right = top + down * rows, left + across * columns
            if self._order.grid.y is not None:
                bottom = min(bottom, self._order.grid.y * rows)
            if self._order.grid.x is not None:
                right = min(right, self._order.grid.x * columns)
            self._show(Rectangle(top, left, bottom, right))
            self._shown.add(tile)
        self._preview.save()

    def _full(self, tile: tuple[int, int]) -> int:
        lengths = zip(tile, self._patches, (self._order.grid.y, self._order.grid.x), strict=True)
        down, across = (side if n is None else min(side, n - place * side) for place, side, n in lengths)
        return down * across

    def _show(self, area: Rectangle) -> None:
        f, (top, left) = self._tokenizer.downsample_factor, self._order.origin
        with torch.inference_mode():
            pixels_YX3 = to_uint8(self._tokenizer.decode(self._canvas.read(area)[None])[0])
        if self._order.finish is not None:
            pixels_YX3 = self._order.finish.finish(pixels_YX3, y=area.top * f, x=area.left * f)
        kept, corner = [], []
        for start, begin, length in zip((area.top * f, area.left * f), (top, left), self._order.size, strict=True):
            kept.append(slice(max(0, begin - start), None if length is None else max(0, begin + length - start)))
            corner.append(max(0, start - begin))
        inside_YX3 = np.ascontiguousarray(pixels_YX3[kept[0], kept[1]])
        if inside_YX3.size:
            self._preview.write(inside_YX3, y=corner[0], x=corner[1])
