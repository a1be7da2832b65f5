"""Animated GIF (GIF89a), frame after frame: Pillow packs one image, its blocks are appended with a palette each."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuwa_lightning.writers.appended import AppendedFile
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.video import VideoWriter, ticks

_LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
_BLOCK = 255
_END = b"\x3b"


class GifWriter(VideoWriter):
    """Writes GIF with 256 colours a frame, dithered, looping for ever; ``metadata`` becomes a comment."""

    format_name = "GIF"
    longest_side = 65535
    fastest = 50

    def _start(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self._blocks = AppendedFile(partial, 0 if state is None else state["length"])
        if state is None:
            size = struct.pack("<HHBBB", self.width, self.height, 0, 0, 0)
            comment = b"\x21\xfe" + in_blocks(description.encode("ascii"))
            self._blocks.append(b"GIF89a" + size + _LOOP + comment)

    def _append(self, frame_YX3: Pixels) -> None:
        delay = ticks(self.frames, self.fps, 100)
        self._blocks.append(struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 4, delay, 0, 0) + _image(frame_YX3))

    def _force(self) -> Mapping[str, Any]:
        self._blocks.force()
        return {"length": self._blocks.length}

    def _end(self) -> None:
        self._blocks.append(_END)

    def _release(self) -> None:
        self._blocks.close()


def in_blocks(data: bytes) -> bytes:
    """Return data in sub-blocks of at most 255 bytes, and the empty one that ends them."""
    parts = (data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _image(frame_YX3: Pixels) -> bytes:
    """Return the blocks of one image, with a palette of its own."""
    from PIL import Image

    image = Image.fromarray(frame_YX3)
    image = image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
    out = io.BytesIO()
    image.save(out, format="GIF", optimize=False, interlace=False)
    data = out.getvalue()
    depth = data[10] & 7
    at = 13 + 3 * 2 ** (depth + 1)
    palette = data[13:at]
    while data[at] == 0x21:  # an extension: label and sub-blocks
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    # The image's descriptor, then its own palette, then its data up to the end of the file.
    descriptor = data[at : at + 9] + bytes([0x80 | depth])
    return descriptor + palette + data[at + 10 : -1]
