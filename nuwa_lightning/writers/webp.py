"""Animated WebP (RFC 9649), frame after frame: Pillow packs one image, its chunk is appended."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.appended import AppendedFile
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.video import VideoWriter, ticks

IMAGE_DESCRIPTION = 0x010E
"""The tag of EXIF that holds the metadata."""
_QUALITY = 90
_ANIMATED, _EXIF = 0x02, 0x08
_NO_BLENDING = 0x02
_LONGEST_FILE = 2**32 - 2


class WebpWriter(VideoWriter):
    """Writes lossy WebP (quality 90), looping for ever; ``metadata`` becomes the EXIF field ``ImageDescription``."""

    format_name = "WebP"
    longest_side = 16383
    fastest = 1000

    def _start(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self._chunks = AppendedFile(partial, 0 if state is None else state["length"])
        if state is None:
            canvas = _three(self.width - 1) + _three(self.height - 1)
            self._chunks.append(b"RIFF\0\0\0\0WEBP" + chunk(b"VP8X", bytes([_ANIMATED | _EXIF, 0, 0, 0]) + canvas))
            self._chunks.append(chunk(b"ANIM", bytes(6)))  # black behind it, no end

    def _append(self, frame_YX3: Pixels) -> None:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(frame_YX3).save(out, format="WEBP", quality=_QUALITY, method=4)
        size = _three(self.width - 1) + _three(self.height - 1)
        shown = _three(ticks(self.frames, self.fps, 1000)) + bytes([_NO_BLENDING])
        packed = chunk(b"ANMF", bytes(6) + size + shown + out.getvalue()[12:])
        if self._chunks.length + len(packed) > _LONGEST_FILE - len(self.description) - 1024:
            raise UsageError("--output", self.path, f"WebP holds 4 GB, reached at frame {self.frames}: use .mp4")
        self._chunks.append(packed)

    def _force(self) -> Mapping[str, Any]:
        self._chunks.force()
        return {"length": self._chunks.length}

    def _end(self) -> None:
        from PIL import Image

        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = self.description
        self._chunks.append(chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))
        self._chunks.patch(4, struct.pack("<I", self._chunks.length - 8))

    def _release(self) -> None:
        self._chunks.close()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
