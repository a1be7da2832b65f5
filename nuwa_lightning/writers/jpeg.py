"""JPEG by Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.base import CanvasWriter, Pixels, ScratchRaster

_LONGEST_COMMENT = 65533


class JpegWriter(CanvasWriter):
    """Writes JPEG (quality 95, no chroma subsampling) of up to 65,535 pixels a side.

    The encoder wants the whole image: :meth:`close` holds it in memory once. ``metadata`` becomes the comment.
    """

    format_name = "JPEG"
    longest_side = 65535
    lossless = False

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        if len(description) > _LONGEST_COMMENT:
            hint = f"JPEG holds {_LONGEST_COMMENT} bytes on how it was made, not {len(description)}: use .png"
            raise UsageError("--output", self.path, hint)
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
        from PIL import Image

        image = Image.new("RGB", (self.width, self.height))
        strip = 256
        for y in range(0, self.height, strip):
            image.paste(Image.fromarray(self._scratch.rows(y, min(strip, self.height - y))), (0, y))
        image.save(self._partial, format="JPEG", quality=95, subsampling=0, comment=self._description)

    def _release(self) -> None:
        self._scratch.close()
