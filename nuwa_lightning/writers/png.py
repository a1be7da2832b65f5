"""PNG, streamed strip by strip (PNG specification, third edition): the canvas is never held in memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nuwa_lightning.writers.base import CanvasWriter, Pixels, ScratchRaster

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"nuwa_lightning"
_STRIP_BYTES = 1 << 19


class PngWriter(CanvasWriter):
    """Writes 8-bit RGB PNG of up to 2,147,483,647 pixels a side.

    Rectangles go to an unnamed file first, since PNG runs from top to bottom; :meth:`close` filters and deflates it
    strip by strip. ``metadata`` becomes an ``iTXt`` chunk.
    """

    format_name = "PNG"
    longest_side = 2**31 - 1

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self._partial = partial
        self._description = description
        scratch = self._file.beside("scratch")
        self._scratch = ScratchRaster(scratch, self.width, self.height, found=state is not None)

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        self._scratch.put(pixels_YX3, y, x)

    def _own_state(self) -> Mapping[str, Any]:
        self._scratch.force()
        return {}

    def _finish(self) -> None:
        with self._partial.open("wb") as file:
            file.write(SIGNATURE)
            _chunk(file, b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0))
            _chunk(file, b"iTXt", KEYWORD + b"\0\0\0\0\0" + self._description.encode())
            self._pixels(file)
            _chunk(file, b"IEND", b"")

    def _release(self) -> None:
        self._scratch.close()

    def _pixels(self, file: BinaryIO) -> None:
        deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
        strip = max(1, _STRIP_BYTES // (3 * self.width))
        above_X3 = np.zeros((self.width, 3), np.uint8)
        for y in range(0, self.height, strip):
            rows_YX3 = self._scratch.rows(y, min(strip, self.height - y))
            if packed := deflate.compress(filtered(rows_YX3, above_X3).tobytes()):
                _chunk(file, b"IDAT", packed)
            above_X3 = rows_YX3[-1]
        _chunk(file, b"IDAT", deflate.flush())


def filtered(rows_YX3: Pixels, above_X3: Pixels) -> Pixels:
    """Filter each row by the one of None, Sub, Up and Paeth whose residual is smallest in absolute value.

    Args:
        rows_YX3: uint8 pixels.
        above_X3: the row above the first; zeros at the top of the image.

    Returns:
        uint8 ``(rows, 1 + 3 * columns)``, the filter's number first in each row.
    """
    rows, columns = rows_YX3.shape[:2]
    up = np.concatenate([above_X3[None], rows_YX3[:-1]]).astype(np.int16)
    left = np.zeros_like(up)
    left[:, 1:] = rows_YX3[:, :-1]
    corner = np.zeros_like(up)
    corner[:, 1:] = up[:, :-1]
    # Paeth: of left, up and corner the nearest to left + up - corner, ties in this order.
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)
    to_corner = np.abs(left + up - 2 * corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    out = np.empty((rows, 1 + 3 * columns), np.uint8)
    best = np.full(rows, np.iinfo(np.int64).max)
    for number, guess in ((0, np.zeros_like(up)), (1, left), (2, up), (4, paeth)):
        residual = (rows_YX3 - guess).astype(np.uint8).reshape(rows, -1)
        cost = np.abs(residual.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64)
        better = cost < best
        best[better] = cost[better]
        out[better, 0] = number
        out[better, 1:] = residual[better]
    return out


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
