"""JPEG by Pillow."""

from __future__ import annotations

from pathlib import Path

from nuwa_lightning.writers.base import CanvasWriter, Pixels, ScratchRaster

_LONGEST_COMMENT = 65533


class JpegWriter(CanvasWriter):
    """Writes JPEG (quality 95, no chroma subsampling) of up to 65,535 pixels a side.

    The encoder wants the whole picture: :meth:`close` holds it in memory once. ``metadata`` becomes the comment.
    """

    @property
    def format_name(self) -> str:
        """The name of the format, for messages."""
        return "JPEG"

    @property
    def longest_side(self) -> int:
        """The longest side in pixels that the format can hold."""
        return 65535

    def _begin(self, partial: Path, description: str) -> None:
        if len(description) > _LONGEST_COMMENT:
            raise ValueError(f"metadata of {len(description)} bytes: a JPEG comment holds {_LONGEST_COMMENT}")
        self._partial = partial
        self._description = description
        self._scratch = ScratchRaster(partial.parent, self.width, self.height)

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        self._scratch.put(pixels_YX3, y, x)

    def _finish(self) -> None:
        from PIL import Image

        image = Image.new("RGB", (self.width, self.height))
        strip = 256
        for y in range(0, self.height, strip):
            image.paste(Image.fromarray(self._scratch.rows(y, min(strip, self.height - y))), (0, y))
        image.save(self._partial, format="JPEG", quality=95, subsampling=0, comment=self._description)

    def _release(self) -> None:
        self._scratch.close()
