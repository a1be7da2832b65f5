"""Tiled BigTIFF with a pyramid (TIFF 6.0, BigTIFF design by Aware Systems): each rectangle goes to its own place."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.writers.base import CanvasWriter, Pixels, write_all, write_rows
from nuwa_lightning.writers.pyramid import cut, grow, level_count, level_size, write_through
from nuwa_lightning.writers.slabs import SlabLayout

TILE = 256
_TILE_BYTES = 3 * TILE * TILE
_FIRST_TILE = 4096
# Field types: code and size in bytes.
_ASCII, _SHORT, _LONG, _LONG8 = (2, 1), (3, 2), (4, 4), (16, 8)
_REDUCED = 1
"""NewSubfileType of a page that is a smaller copy of the first."""


class TiffWriter(CanvasWriter):
    """Writes uncompressed BigTIFF in tiles of 256 pixels, for canvases of any size, endless ones included.

    The directories are written by hand, since the tiles must have their places before any pixel is known: the file is
    sparse until it is written to, the order does not matter, and memory holds one rectangle. Smaller copies of the
    canvas, each half as large as the one before, are kept up to date on the way; they are further pages, marked as
    reduced. ``metadata`` becomes the ``ImageDescription`` of the first.
    """

    endless = True
    format_name = "TIFF"
    longest_side = 2**31 - 1

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        width, height = self.size
        # Slabs lie across the side that may go on; the place of a tile then never depends on how long that gets.
        self._upright = width is not None and height is None
        self._extent = (height or 0, width or 0) if state is None else (state["extent"][0], state["extent"][1])
        breadth = width if self._upright else height
        assert breadth is not None
        longest = (height or self.longest_side, width or self.longest_side)
        self._layout = SlabLayout(breadth, TILE, level_count(longest, TILE))
        # Unbuffered: what a killed process has written is the system's, not lost in a buffer of ours.
        self._tiles: BinaryIO = partial.open("r+b", buffering=0)
        try:
            if None not in self.size:
                self._tiles.truncate(self._end())
        except OSError:
            self._tiles.close()
            raise

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        rows, columns = pixels_YX3.shape[:2]
        extent = max(self._extent[0], y + rows), max(self._extent[1], x + columns)
        if extent != self._extent:
            grow(self, old=self._extent, new=extent, tile=TILE)
            self._extent = extent
        write_through(self, pixels_YX3, y, x, size=extent, levels=level_count(extent, TILE))

    def put(self, level: int, pixels_YXC: Pixels, y: int, x: int) -> None:
        """Store a rectangle of a level."""
        for start, part_YXC in self._parts(level, pixels_YXC, y, x):
            write_rows(self._tiles, np.ascontiguousarray(part_YXC), start=start, stride=3 * TILE)

    def get(self, level: int, y: int, x: int, rows: int, columns: int) -> Pixels:
        """Return a rectangle of a level."""
        out_YXC = np.zeros((rows, columns, 3), np.uint8)
        for start, part_YXC in self._parts(level, out_YXC, y, x):
            for row, row_XC in enumerate(part_YXC):
                self._tiles.seek(start + 3 * TILE * row)
                data = self._tiles.read(row_XC.nbytes)  # what lies beyond the end of the file was never written
                row_XC.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        return out_YXC

    def _parts(self, level: int, pixels_YXC: Pixels, y: int, x: int) -> Iterator[tuple[int, Pixels]]:
        """Yield for each tile that a rectangle touches the first byte in the file and that part of it (a view)."""
        rows, columns = pixels_YXC.shape[:2]
        for tile_y in range(y // TILE, (y + rows - 1) // TILE + 1):
            top, bottom = max(y, tile_y * TILE), min(y + rows, (tile_y + 1) * TILE)
            for tile_x in range(x // TILE, (x + columns - 1) // TILE + 1):
                left, right = max(x, tile_x * TILE), min(x + columns, (tile_x + 1) * TILE)
                slab, place = (tile_y, tile_x) if self._upright else (tile_x, tile_y)
                inside = (top - tile_y * TILE) * TILE + (left - tile_x * TILE)
                start = _FIRST_TILE + self._layout.slot(level, slab, place) * _TILE_BYTES + 3 * inside
                yield start, pixels_YXC[top - y : bottom - y, left - x : right - x]

    def _end(self) -> int:
        length = self.height if self._upright else self.width
        return _FIRST_TILE + self._layout.total(-(-length // TILE)) * _TILE_BYTES

    def _own_state(self) -> Mapping[str, Any]:
        # Every tile has its place, so writing again what was written since is harmless.
        os.fsync(self._tiles.fileno())
        return {"extent": list(self._extent)}

    def _finish(self) -> None:
        size = self.height, self.width
        if size != self._extent:
            grow(self, old=self._extent, new=size, tile=TILE)
            self._trim(size)
        end = self._end()
        self._tiles.truncate(end)  # cuts off what lies beyond, and fills up what was never written
        write_all(self._tiles, 0, memoryview(b"II" + struct.pack("<HHHQ", 43, 8, 0, end)))
        levels = level_count(size, TILE)
        for level in range(levels):
            directory = self._directory(level, level_size(size, level), at=end, last=level == levels - 1)
            write_all(self._tiles, end, memoryview(directory))
            end += len(directory)

    def _trim(self, size: tuple[int, int]) -> None:
        """Make the levels true at a new edge, and black beyond it."""
        levels = level_count(size, TILE)
        cut(self, old=(max(self._extent[0], size[0]), max(self._extent[1], size[1])), new=size, levels=levels)
        for level in range(levels):
            height, width = level_size(size, level)
            if self._upright and height % TILE:
                self.put(level, np.zeros((-height % TILE, width, 3), np.uint8), height, 0)
            elif not self._upright and width % TILE:
                self.put(level, np.zeros((height, -width % TILE, 3), np.uint8), 0, width)

    def _release(self) -> None:
        self._tiles.close()

    def _directory(self, level: int, size: tuple[int, int], *, at: int, last: bool) -> bytes:
        height, width = size
        down, across = -(-height // TILE), -(-width // TILE)
        first_S = self._layout.slots(level, np.arange(down if self._upright else across))
        slot_YX = first_S[:, None] + np.arange(across) if self._upright else first_S + np.arange(down)[:, None]
        places = _FIRST_TILE + slot_YX.flatten() * _TILE_BYTES
        description = self.description if level == 0 else None
        return directory(width, height, places, at=at, description=description, last=last)


def directory(
    width: int, height: int, places: NDArray[np.int64], *, at: int, description: str | None, last: bool
) -> bytes:
    """Return a directory and the values that do not fit into its entries; the next one, if any, comes right after it.

    Args:
        width: pixels along x.
        height: pixels along y.
        places: first byte of each tile, row by row.
        at: the byte where the directory stands.
        description: ASCII text of the first page; None for a page that is a reduced copy.
        last: whether no further directory follows.
    """
    fields = [
        (256, _LONG, struct.pack("<I", width)),
        (257, _LONG, struct.pack("<I", height)),
        (258, _SHORT, struct.pack("<3H", 8, 8, 8)),  # bits per sample
        (259, _SHORT, struct.pack("<H", 1)),  # no compression
        (262, _SHORT, struct.pack("<H", 2)),  # RGB
        (277, _SHORT, struct.pack("<H", 3)),  # samples per pixel
        (284, _SHORT, struct.pack("<H", 1)),  # interleaved
        (322, _LONG, struct.pack("<I", TILE)),
        (323, _LONG, struct.pack("<I", TILE)),
        (324, _LONG8, places.astype("<u8").tobytes()),
        (325, _LONG, np.full(len(places), _TILE_BYTES, "<u4").tobytes()),
    ]
    if description is None:
        fields.append((254, _LONG, struct.pack("<I", _REDUCED)))
    else:
        fields.append((270, _ASCII, description.encode("ascii") + b"\0"))
    values_at = at + 8 + 20 * len(fields) + 8
    entries, values = b"", bytearray()
    for tag, (code, size), value in sorted(fields):
        if len(value) <= 8:
            inline = value.ljust(8, b"\0")
        else:
            values += bytes(-(values_at + len(values)) % 8)
            inline = struct.pack("<Q", values_at + len(values))
            values += value
        entries += struct.pack("<HHQ", tag, code, len(value) // size) + inline
    values += bytes(-(values_at + len(values)) % 8)
    following = 0 if last else values_at + len(values)
    return struct.pack("<Q", len(fields)) + entries + struct.pack("<Q", following) + bytes(values)
