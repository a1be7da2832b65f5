"""Ever smaller copies of a canvas, true at any moment while it is written in any order (ours).

Each rectangle that is written is halved at once into the level above, that one again, and so on up to the level that
fits into one tile. Where a pixel of the level above covers more than the rectangle, the rest is read back. So every
pixel of a level is at all times the mean of the four below it: neither the order of writing nor an interruption leaves
a trace, nothing has to be remembered, and memory holds one rectangle and a third.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from nuwa_lightning.writers.base import Pixels

RGB = 3


class LevelStore(Protocol):
    """Raw pixels of every level, to be written and read back; what was never written is zero."""

    def put(self, level: int, pixels_YXC: Pixels, y: int, x: int) -> None:
        """Store a rectangle that lies inside the level."""
        ...

    def get(self, level: int, y: int, x: int, rows: int, columns: int) -> Pixels:
        """Return a rectangle that lies inside the level."""
        ...


def level_size(size: tuple[int, int], level: int) -> tuple[int, int]:
    """Return height and width of a level: those of the canvas, halved ``level`` times and rounded up."""
    return -(-size[0] // 2**level), -(-size[1] // 2**level)


def level_count(size: tuple[int, int], tile: int) -> int:
    """Return how many levels there are, the canvas included, until one fits into a tile of that side."""
    return 1 + (-(-max(size) // tile) - 1).bit_length()


def halved(pixels_YXC: Pixels) -> Pixels:
    """Return the means of squares of 2x2, rounded; of an odd last row or column those of the pixels that are there.

    Channels after the third are no colours but marks: of these the smallest of the square counts.
    """
    rows, columns = pixels_YXC.shape[:2]
    if rows % 2 or columns % 2:
        pixels_YXC = np.pad(pixels_YXC, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
    parts = (
        pixels_YXC[0::2, 0::2],
        pixels_YXC[0::2, 1::2],
        pixels_YXC[1::2, 0::2],
        pixels_YXC[1::2, 1::2],
    )
    total = np.full(parts[0].shape, 2, np.uint16)
    for part in parts:
        total += part
    out: Pixels = (total >> 2).astype(np.uint8)
    if out.shape[2] > RGB:
        out[..., RGB:] = np.minimum.reduce([part[..., RGB:] for part in parts])
    return out


def write_through(store: LevelStore, pixels_YXC: Pixels, y: int, x: int, *, size: tuple[int, int], levels: int) -> None:
    """Write a rectangle of the canvas into every level.

    Args:
        store: where the levels lie.
        pixels_YXC: the rectangle, inside the canvas.
        y: row of its upper edge.
        x: column of its left edge.
        size: height and width of the canvas.
        levels: how many levels are kept, the canvas included.
    """
    store.put(0, pixels_YXC, y, x)
    _lift(store, pixels_YXC, y, x, size=size, levels=range(1, levels))


def grow(store: LevelStore, *, old: tuple[int, int], new: tuple[int, int], tile: int) -> None:
    """Make the further levels that a longer canvas needs, each from the one below, which is at most two tiles long.

    Args:
        store: where the levels lie.
        old: height and width before; nothing was written beyond.
        new: height and width now.
        tile: side of a tile, even.
    """
    if 0 in old:
        return
    for level in range(level_count(old, tile), level_count(new, tile)):
        rows, columns = level_size(old, level - 1)
        for y in range(0, rows, tile):
            for x in range(0, columns, tile):
                part = store.get(level - 1, y, x, min(tile, rows - y), min(tile, columns - x))
                store.put(level, halved(part), y // 2, x // 2)


def cut(store: LevelStore, *, old: tuple[int, int], new: tuple[int, int], levels: int) -> None:
    """Keep what lies beyond a new edge out of the levels above; one axis is shorter than before.

    Args:
        store: where the levels lie.
        old: height and width before.
        new: height and width now.
        levels: how many levels are kept, the canvas included.
    """
    for axis in (0, 1):
        for level in range(1, levels):
            below = level_size(new, level - 1)
            if new[axis] < old[axis] and below[axis] % 2:
                y, x = (below[0] - 1, 0) if axis == 0 else (0, below[1] - 1)
                edge = store.get(level - 1, y, x, below[0] - y, below[1] - x)
                _lift(store, edge, y, x, size=new, levels=range(level, levels))
                break


def _lift(store: LevelStore, pixels_YXC: Pixels, y: int, x: int, *, size: tuple[int, int], levels: range) -> None:
    for level in levels:
        height, width = level_size(size, level - 1)
        rows, columns = pixels_YXC.shape[:2]
        top, left = y // 2 * 2, x // 2 * 2
        bottom, right = min(height, (y + rows + 1) // 2 * 2), min(width, (x + columns + 1) // 2 * 2)
        if (top, left, bottom, right) != (y, x, y + rows, x + columns):
            pixels_YXC = store.get(level - 1, top, left, bottom - top, right - left)
        pixels_YXC = halved(pixels_YXC)
        y, x = top // 2, left // 2
        store.put(level, pixels_YXC, y, x)
