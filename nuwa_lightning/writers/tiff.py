"""Tiled BigTIFF (TIFF 6.0, BigTIFF design by Aware Systems): each rectangle goes straight to its place in the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.writers.base import CanvasWriter, Pixels, write_all, write_rows

TILE = 256
_TILE_BYTES = 3 * TILE * TILE
_ALIGNMENT = 4096
# Field types: code and size in bytes.
_ASCII, _SHORT, _LONG, _LONG8 = (2, 1), (3, 2), (4, 4), (16, 8)


class TiffWriter(CanvasWriter):
    """Writes uncompressed BigTIFF in tiles of 256 pixels, for canvases of any size.

    The header is written by hand, since the tiles must have their places before any pixel is known: the file is laid
    out in full (sparse, so at no cost), the order does not matter and memory holds one rectangle. On an endless canvas
    tiles lie in slabs across the endless axis and the directory comes last. ``metadata`` becomes the
    ``ImageDescription``.
    """

    endless = True

    @property
    def format_name(self) -> str:
        """The name of the format, for messages."""
        return "TIFF"

    @property
    def longest_side(self) -> int:
        """The longest side in pixels that the format can hold."""
        return 2**31 - 1

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        width, height = self.size
        self._across = None if width is None else -(-width // TILE)
        self._down = None if height is None else -(-height // TILE)
        header, self._first_tile = b"", _ALIGNMENT
        if width is not None and height is not None:
            header, self._first_tile = tiff_header(width, height, description)
        # Unbuffered: what a killed process has written is the system's, not lost in a buffer of ours.
        self._tiles: BinaryIO = partial.open("r+b", buffering=0)
        try:
            if state is None:
                self._tiles.write(header)
            if self._across and self._down:
                self._tiles.truncate(self._first_tile + self._across * self._down * _TILE_BYTES)
        except OSError:
            self._tiles.close()
            raise

    def _place(self, tile_y: int, tile_x: int) -> int:
        if self._across is None:
            assert self._down is not None
            return self._first_tile + (tile_x * self._down + tile_y) * _TILE_BYTES
        return self._first_tile + (tile_y * self._across + tile_x) * _TILE_BYTES

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        rows, columns = pixels_YX3.shape[:2]
        for tile_y in range(y // TILE, (y + rows - 1) // TILE + 1):
            top, bottom = max(y, tile_y * TILE), min(y + rows, (tile_y + 1) * TILE)
            for tile_x in range(x // TILE, (x + columns - 1) // TILE + 1):
                left, right = max(x, tile_x * TILE), min(x + columns, (tile_x + 1) * TILE)
                part_YX3 = np.ascontiguousarray(pixels_YX3[top - y : bottom - y, left - x : right - x])
                inside = (top - tile_y * TILE) * TILE + (left - tile_x * TILE)
                start = self._place(tile_y, tile_x) + 3 * inside
                write_rows(self._tiles, part_YX3, start=start, stride=3 * TILE)

    def _own_state(self) -> Mapping[str, Any]:
        # Every tile has its place, so writing again what was written since is harmless: nothing to remember.
        os.fsync(self._tiles.fileno())
        return {}

    def _finish(self) -> None:
        """Write the directory of a canvas that was endless; else every tile is in its place."""
        if self._across and self._down:
            return
        across, down = -(-self.width // TILE), -(-self.height // TILE)
        end = self._first_tile + across * down * _TILE_BYTES
        places = [self._place(tile_y, tile_x) for tile_y in range(down) for tile_x in range(across)]
        self._tiles.truncate(end)  # cuts off what lies beyond, and fills up what was never written
        directory = _directory(self.width, self.height, self.description, np.array(places, "<u8"), at=end)
        write_all(self._tiles, end, memoryview(directory))
        write_all(self._tiles, 0, memoryview(_file_header(end)))

    def _release(self) -> None:
        self._tiles.close()


def tiff_header(width: int, height: int, description: str) -> tuple[bytes, int]:
    """Return all that stands before the first tile, padded, and its length.

    Args:
        width: pixels along x.
        height: pixels along y.
        description: ASCII text for ``ImageDescription``.
    """
    tiles = -(-width // TILE) * -(-height // TILE)
    start = len(_file_header(0))
    # The sizes do not depend on where the tiles begin, so a first pass with zeros finds that out.
    length = start + len(_directory(width, height, description, np.zeros(tiles, "<u8"), at=start))
    first_tile = -(-length // _ALIGNMENT) * _ALIGNMENT
    places = first_tile + np.arange(tiles, dtype="<u8") * np.uint64(_TILE_BYTES)
    header = _file_header(start) + _directory(width, height, description, places, at=start)
    return header + bytes(first_tile - length), first_tile


def _file_header(directory: int) -> bytes:
    return b"II" + struct.pack("<HHHQ", 43, 8, 0, directory)


def _directory(width: int, height: int, description: str, places: NDArray[np.uint64], *, at: int) -> bytes:
    """Return the only directory, which stands ``at`` that byte, and the values that do not fit into its entries."""
    fields = [
        (256, _LONG, struct.pack("<I", width)),
        (257, _LONG, struct.pack("<I", height)),
        (258, _SHORT, struct.pack("<3H", 8, 8, 8)),  # bits per sample
        (259, _SHORT, struct.pack("<H", 1)),  # no compression
        (262, _SHORT, struct.pack("<H", 2)),  # RGB
        (270, _ASCII, description.encode("ascii") + b"\0"),  # image description
        (277, _SHORT, struct.pack("<H", 3)),  # samples per pixel
        (284, _SHORT, struct.pack("<H", 1)),  # interleaved
        (322, _LONG, struct.pack("<I", TILE)),
        (323, _LONG, struct.pack("<I", TILE)),
        (324, _LONG8, places.astype("<u8").tobytes()),
        (325, _LONG, np.full(len(places), _TILE_BYTES, "<u4").tobytes()),
    ]
    place = at + 8 + 20 * len(fields) + 8
    entries, values = b"", b""
    for tag, (code, size), value in fields:
        if len(value) <= 8:
            inline = value.ljust(8, b"\0")
        else:
            values += bytes(-(place + len(values)) % 8)
            inline = struct.pack("<Q", place + len(values))
            values += value
        entries += struct.pack("<HHQ", tag, code, len(value) // size) + inline
    return struct.pack("<Q", len(fields)) + entries + bytes(8) + values
