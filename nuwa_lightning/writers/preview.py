"""A small image of a canvas that is still being written (ours)."""

import logging
import time
from pathlib import Path

import numpy as np

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.base import Pixels

_COARSEST = 512
_SCALE = "nuwa_lightning scale"
_LOG = logging.getLogger(__name__)


class GrowingPreview:
    """A reduced copy of what has been written so far, saved as PNG from time to time; black where nothing is yet.

    Each of its pixels is the mean of a square of the canvas, whose side is a power of two and doubles whenever the
    preview outgrows ``longest``. Memory: the preview alone. What is no preview is never replaced.
    """

    def __init__(self, path: Path, *, found: bool = False, longest: int = 2048, every: float = 10.0) -> None:
        self.path = path
        self._longest, self._every = longest, every
        self._scale, self._pixels_YX3 = 1, np.zeros((0, 0, 3), np.uint8)
        if path.exists():
            scale, pixels_YX3 = _load(path)
            if found:
                self._scale, self._pixels_YX3 = scale, pixels_YX3
        self._saved = time.monotonic()
        self._told = False

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Take a rectangle of the canvas whose upper left corner lies at ``(y, x)``."""
        bottom, right = y + pixels_YX3.shape[0], x + pixels_YX3.shape[1]
        while max(bottom, right) > self._longest * self._scale and self._scale < _COARSEST:
            self._pixels_YX3 = reduced(self._pixels_YX3, 2)
            self._scale *= 2
        small_YX3 = reduced(pixels_YX3, self._scale)
        top, left = y // self._scale, x // self._scale
        self._grow(top + small_YX3.shape[0], left + small_YX3.shape[1])
        self._pixels_YX3[top : top + small_YX3.shape[0], left : left + small_YX3.shape[1]] = small_YX3
        if time.monotonic() - self._saved >= self._every:
            self.save()

    def save(self) -> None:
        """Write the preview, whole or not at all; a disk that is full is no reason to stop, and is told once."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        self._saved = time.monotonic()
        if not self._pixels_YX3.size:
            return
        text = PngInfo()
        text.add_text(_SCALE, str(self._scale))
        try:
            with atomic_write(self.path) as partial:
                Image.fromarray(self._pixels_YX3).save(partial, format="PNG", compress_level=1, pnginfo=text)
        except OSError as error:
            if not self._told:
                _LOG.warning("%s: cannot be written (%s): going on without it", self.path, error.strerror or error)
            self._told = True

    def _grow(self, height: int, width: int) -> None:
        old = self._pixels_YX3.shape
        if height > old[0] or width > old[1]:
            self._pixels_YX3 = np.pad(
                self._pixels_YX3, ((0, max(0, height - old[0])), (0, max(0, width - old[1])), (0, 0))
            )


def reduced(pixels_YX3: Pixels, scale: int) -> Pixels:
    """Return the means of squares of ``scale`` pixels a side; those at the lower and right edge may be cut."""
    if scale == 1 or not pixels_YX3.size:
        return pixels_YX3
    height, width = pixels_YX3.shape[:2]
    padded_YX3 = np.pad(pixels_YX3, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="edge")
    rows, columns = padded_YX3.shape[0] // scale, padded_YX3.shape[1] // scale
    means_YX3 = padded_YX3.reshape(rows, scale, columns, scale, 3).mean(axis=(1, 3), dtype=np.float32)
    out_YX3: Pixels = np.rint(means_YX3).astype(np.uint8)
    return out_YX3


def _load(path: Path) -> tuple[int, Pixels]:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            scale = int(image.info[_SCALE])
            pixels_YX3: Pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        hint = "is no preview and is never replaced: give another name, or move it away"
        raise UsageError("preview", path, hint) from error
    return scale, pixels_YX3
