"""Tiled BigTIFF (TIFF 6.0, BigTIFF design by Aware Systems): each rectangle goes straight to its place in the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nuwa_lightning.writers.base import CanvasWriter, Pixels, write_rows

TILE = 256
_TILE_BYTES = 3 * TILE * TILE
_ALIGNMENT = 4096
# Field types: code and size in bytes.
_ASCII, _SHORT, _LONG, _LONG8 = (2, 1), (3, 2), (4, 4), (16, 8)


class TiffWriter(CanvasWriter):
    """Writes uncompressed BigTIFF in tiles of 256 pixels, for canvases of any size.

    The header is written by hand, since the tiles must have their places before any pixel is known: the file is laid
    out in full (sparse, so at no cost), the order does not matter and memory holds one rectangle. ``metadata`` becomes
    the ``ImageDescription``.
    """

    @property
    def format_name(self) -> str:
        """The name of the format, for messages."""
        return "TIFF"

    @property
    def longest_side(self) -> int:
        """The longest side in pixels that the format can hold."""
        return 2**31 - 1

    def _begin(self, partial: Path, description: str) -> None:
        self._across, down = -(-self.width // TILE), -(-self.height // TILE)
        header, self._first_tile = tiff_header(self.width, self.height, description)
        self._file: BinaryIO = partial.open("r+b", buffering=0)
        try:
            self._file.write(header)
            self._file.truncate(self._first_tile + self._across * down * _TILE_BYTES)
        except OSError:
            self._file.close()
            raise

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        rows, columns = pixels_YX3.shape[:2]
        for tile_y in range(y // TILE, (y + rows - 1) // TILE + 1):
            top, bottom = max(y, tile_y * TILE), min(y + rows, (tile_y + 1) * TILE)
            for tile_x in range(x // TILE, (x + columns - 1) // TILE + 1):
                left, right = max(x, tile_x * TILE), min(x + columns, (tile_x + 1) * TILE)
                part_YX3 = np.ascontiguousarray(pixels_YX3[top - y : bottom - y, left - x : right - x])
                inside = (top - tile_y * TILE) * TILE + (left - tile_x * TILE)
                start = self._first_tile + (tile_y * self._across + tile_x) * _TILE_BYTES + 3 * inside
                write_rows(self._file, part_YX3, start=start, stride=3 * TILE)

    def _finish(self) -> None:
        """Nothing is left to do: every tile is in its place."""

    def _release(self) -> None:
        self._file.close()


def tiff_header(width: int, height: int, description: str) -> tuple[bytes, int]:
    """Return all that stands before the first tile, padded, and its length.

    Args:
        width: pixels along x.
        height: pixels along y.
        description: ASCII text for ``ImageDescription``.
    """
    tiles = -(-width // TILE) * -(-height // TILE)
    counts = np.full(tiles, _TILE_BYTES, "<u4").tobytes()
    text = description.encode("ascii") + b"\0"
    # The sizes do not depend on where the tiles begin, so a first pass with zeros finds that out.
    length = len(_directory(width, height, text, bytes(8 * tiles), counts))
    first_tile = -(-length // _ALIGNMENT) * _ALIGNMENT
    offsets = first_tile + np.arange(tiles, dtype="<u8") * np.uint64(_TILE_BYTES)
    header = _directory(width, height, text, offsets.astype("<u8").tobytes(), counts)
    return header + bytes(first_tile - length), first_tile


def _directory(width: int, height: int, text: bytes, offsets: bytes, counts: bytes) -> bytes:
    """Return the file header, the only directory, and the values that do not fit into its entries."""
    fields = [
        (256, _LONG, struct.pack("<I", width)),
        (257, _LONG, struct.pack("<I", height)),
        (258, _SHORT, struct.pack("<3H", 8, 8, 8)),  # bits per sample
        (259, _SHORT, struct.pack("<H", 1)),  # no compression
        (262, _SHORT, struct.pack("<H", 2)),  # RGB
        (270, _ASCII, text),  # image description
        (277, _SHORT, struct.pack("<H", 3)),  # samples per pixel
        (284, _SHORT, struct.pack("<H", 1)),  # interleaved
        (322, _LONG, struct.pack("<I", TILE)),
        (323, _LONG, struct.pack("<I", TILE)),
        (324, _LONG8, offsets),
        (325, _LONG, counts),
    ]
    place = 16 + 8 + 20 * len(fields) + 8
    entries, values = b"", b""
    for tag, (code, size), value in fields:
        if len(value) <= 8:
            inline = value.ljust(8, b"\0")
        else:
            values += bytes(-(place + len(values)) % 8)
            inline = struct.pack("<Q", place + len(values))
            values += value
        entries += struct.pack("<HHQ", tag, code, len(value) // size) + inline
    return b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(fields)) + entries + bytes(8) + values
