"""Tiles in files of their own: raw until all their pixels are there, then packed for good (ours).

A packed tile cannot be changed in place, and rectangles come as they like. So an unfinished tile is kept raw, some in
memory and the others in a scratch folder, with a mark beside each pixel that says whether it is there. Marks are halved
like pixels, so that tiles of smaller levels know, too, when they are complete. A tile that comes whole is packed at
once, and that is what a canvas that is decoded in tiles of this size brings.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.pyramid import RGB, cut, level_count, level_size, write_through

Key = tuple[int, int, int]
"""Level, row and column of a tile."""

SIDE = 512
"""Side of a tile in pixels."""
_RAW = (SIDE, SIDE, RGB + 1)
_AT_HAND = 48
"""How many unfinished tiles, of 1 MB each, are kept in memory at most."""


class TileCodec(ABC):
    """How one tile is packed into a file."""

    @abstractmethod
    def path(self, key: Key) -> Path:
        """Return where the file of a tile lies."""

    @abstractmethod
    def packed(self) -> Iterator[Key]:
        """Yield every tile that has a file."""

    @abstractmethod
    def pack(self, pixels_YX3: Pixels) -> bytes:
        """Return the content of the file of a tile, cut at the edge of the level; equal pixels give equal bytes."""

    @abstractmethod
    def unpack(self, data: bytes) -> Pixels:
        """Return the pixels of a file, edge included or not."""


class TilePyramid:
    """All levels of a canvas as files of tiles.

    Args:
        codec: how tiles are packed.
        scratch: folder of unfinished tiles; what is there is taken up.
        size: height and width of the canvas in pixels; of an endless side the longest that there can be, so that every
            level is there from the beginning.
    """

    def __init__(self, codec: TileCodec, scratch: Path, *, size: tuple[int, int]) -> None:
        self._codec = codec
        self._scratch = scratch
        self._size = size
        self._missing: dict[Key, int] = {}
        self._at_hand: dict[Key, Pixels] = {}
        self._changed: set[Path] = set()
        # What a packed tile was made from stays until nobody can go back to a time before it was packed.
        self._spent: set[Key] = set()
        scratch.mkdir(parents=True, exist_ok=True)
        for path in scratch.glob("*.raw"):
            level, y, x = map(int, path.stem.split("_"))
            self._missing[level, y, x] = self._count_missing((level, y, x), _read_raw(path))

    @property
    def levels(self) -> int:
        """How many levels there are, the canvas included."""
        return level_count(self._size, SIDE)

    def write(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        """Take a rectangle of the canvas."""
        marked_YXC = np.pad(pixels_YX3, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        write_through(self, marked_YXC, y, x, size=self._size, levels=self.levels)

    def put(self, level: int, pixels_YXC: Pixels, y: int, x: int) -> None:
        """Store a rectangle of a level, with marks."""
        for key, inside, part_YXC in _parts(level, pixels_YXC, y, x):
            if part_YXC.shape[:2] == self._bounds(key) and part_YXC[..., RGB].all():
                self._pack(key, part_YXC)
                self._forget(key)
                continue
            raw_YXC = self._take(key)
            raw_YXC[inside] = part_YXC
            self._missing[key] = self._count_missing(key, raw_YXC)
            self._at_hand[key] = raw_YXC
            if self._missing[key] == 0:
                self._lay_down(key)
                self._pack(key, raw_YXC)
            elif len(self._at_hand) > _AT_HAND:
                self._lay_down(next(iter(self._at_hand)))

    def get(self, level: int, y: int, x: int, rows: int, columns: int) -> Pixels:
        """Return a rectangle of a level, with marks."""
        out_YXC = np.zeros((rows, columns, RGB + 1), np.uint8)
        for key, inside, part_YXC in _parts(level, out_YXC, y, x):
            part_YXC[:] = self._load(key)[inside]
        return out_YXC

    def force(self) -> None:
        """Force what was written to the disk; after this nobody goes back to before the call before."""
        for key in list(self._at_hand):
            self._lay_down(key)
        folders = set()
        for path in self._changed:
            if path.exists():
                fsync_path(path)
            folders.add(path.parent)
        for folder in folders:
            fsync_path(folder)
        self._changed.clear()
        for key in self._spent:
            if self._missing.get(key) == 0:
                self._forget(key)
        self._spent = {key for key, missing in self._missing.items() if missing == 0}

    def finish(self, size: tuple[int, int]) -> None:
        """Pack what is unfinished and cut off what lies beyond ``size``; nothing may be written after this."""
        before, self._size = self._size, size
        if size != before:
            cut(self, old=before, new=size, levels=self.levels)
            self._trim(before)
        for key in self._missing:
            if self._on_canvas(key):
                self._pack(key, self._load(key))
        self.force()

    def _trim(self, before: tuple[int, int]) -> None:
        """Remove packed tiles beyond the edge, and cut those that it runs through and did not before."""
        for key in list(self._codec.packed()):
            if not self._on_canvas(key):
                self._codec.path(key).unlink()
            elif self._bounds(key) != _bounds(key, before) and key not in self._missing:
                self._pack(key, self._load(key))

    def _on_canvas(self, key: Key) -> bool:
        return key[0] < self.levels and min(self._bounds(key)) > 0

    def _bounds(self, key: Key) -> tuple[int, int]:
        """Return how many rows and columns of a tile lie on the canvas."""
        return _bounds(key, self._size)

    def _count_missing(self, key: Key, raw_YXC: Pixels) -> int:
        rows, columns = self._bounds(key)
        return rows * columns - int(np.count_nonzero(raw_YXC[:rows, :columns, RGB]))

    def _load(self, key: Key) -> Pixels:
        """Return a tile with marks, whatever state it is in."""
        if key in self._at_hand:
            return self._at_hand[key]
        if key in self._missing:
            return _read_raw(self._scratch_path(key))
        raw_YXC = np.zeros(_RAW, np.uint8)
        if self._codec.path(key).exists():
            pixels_YX3 = self._codec.unpack(self._codec.path(key).read_bytes())
            raw_YXC[: pixels_YX3.shape[0], : pixels_YX3.shape[1], :RGB] = pixels_YX3
            raw_YXC[: pixels_YX3.shape[0], : pixels_YX3.shape[1], RGB] = 1
        return raw_YXC

    def _take(self, key: Key) -> Pixels:
        """Return a tile to be changed; it becomes the last one to be laid down."""
        raw_YXC = self._load(key)
        self._at_hand.pop(key, None)
        return raw_YXC

    def _lay_down(self, key: Key) -> None:
        self._store(self._scratch_path(key), self._at_hand.pop(key).tobytes())

    def _pack(self, key: Key, pixels_YXC: Pixels) -> None:
        path = self._codec.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, columns = self._bounds(key)
        self._store(path, self._codec.pack(np.ascontiguousarray(pixels_YXC[:rows, :columns, :RGB])))

    def _store(self, path: Path, data: bytes) -> None:
        partial = self._scratch / "partial"
        partial.write_bytes(data)
        os.replace(partial, path)
        self._changed.add(path)

    def _forget(self, key: Key) -> None:
        self._at_hand.pop(key, None)
        if self._missing.pop(key, None) is not None:
            self._scratch_path(key).unlink(missing_ok=True)

    def _scratch_path(self, key: Key) -> Path:
        return self._scratch / "{}_{}_{}.raw".format(*key)


def _bounds(key: Key, size: tuple[int, int]) -> tuple[int, int]:
    height, width = level_size(size, key[0])
    return min(SIDE, height - key[1] * SIDE), min(SIDE, width - key[2] * SIDE)


def _read_raw(path: Path) -> Pixels:
    return np.frombuffer(bytearray(path.read_bytes()), np.uint8).reshape(_RAW)


def _parts(level: int, pixels_YXC: Pixels, y: int, x: int) -> Iterator[tuple[Key, tuple[slice, slice], Pixels]]:
    """Yield each tile that a rectangle touches, where in the tile, and that part of the rectangle (a view)."""
    rows, columns = pixels_YXC.shape[:2]
    for tile_y in range(y // SIDE, (y + rows - 1) // SIDE + 1):
        top, bottom = max(y, tile_y * SIDE), min(y + rows, (tile_y + 1) * SIDE)
        for tile_x in range(x // SIDE, (x + columns - 1) // SIDE + 1):
            left, right = max(x, tile_x * SIDE), min(x + columns, (tile_x + 1) * SIDE)
            inside = (
                slice(top - tile_y * SIDE, bottom - tile_y * SIDE),
                slice(left - tile_x * SIDE, right - tile_x * SIDE),
            )
            yield (level, tile_y, tile_x), inside, pixels_YXC[top - y : bottom - y, left - x : right - x]
