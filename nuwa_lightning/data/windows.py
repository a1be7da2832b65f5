"""Reading a huge image window by window, without ever holding it (ours).

A TIFF is made of tiles or strips that are decoded one at a time. PNG, JPEG and the like, and the less common kinds of
TIFF (see `can_be_read_by_parts`), are decoded whole, so for them the limit on pixels holds.

Legend: Y, X pixels along the axes, C samples, 3 colours.
"""

from __future__ import annotations

import functools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, main_page, notes_of, read_image
from nuwa_lightning.data.tones import ANOTHER, CONVERTED, NOT_ALL, SHALLOWER, UNUSABLE, applied, to_srgb

if TYPE_CHECKING:
    import tifffile

Pixels = npt.NDArray[np.uint8]

_LOG = logging.getLogger(__name__)

HELD_BYTES: Final = 256 << 20
"""Default limit on the decoded tiles that are kept for the next window."""

_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BY_PARTS: Final = "upright RGB or grey of 8 or 16 bits, uncompressed or deflated, is read by parts"
_GREY, _RGB = 1, 2
"""Photometric interpretations that need no conversion by a codec."""


class WindowReader(ABC):
    """An image as 8-bit RGB, of which any rectangle can be read."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @abstractmethod
    def _read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Return a rectangle that lies inside."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Return a rectangle (Y, X, 3)."""
        rows, columns = self.size
        if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
            raise ValueError(f"window {top, left, height, width} of an image of {rows}x{columns} pixels")
        return self._read(top, left, height, width)

    def __enter__(self) -> WindowReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the file."""
        self.close()


@final
class WholeImage(WindowReader):
    """An image that its format only gives whole."""

    def __init__(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> None:
        image = read_image(path, max_pixels=max_pixels)
        _tell(path, notes_of(image))
        self._pixels_YX3: Pixels = np.asarray(image)

    @property
    def size(self) -> tuple[int, int]:
        return self._pixels_YX3.shape[0], self._pixels_YX3.shape[1]

    def _read(self, top: int, left: int, height: int, width: int) -> Pixels:
        return self._pixels_YX3[top : top + height, left : left + width].copy()

    def close(self) -> None:
        """Forget the pixels."""
        self._pixels_YX3 = self._pixels_YX3[:0, :0].copy()


@final
class TiffWindows(WindowReader):
    """A page of a TIFF or BigTIFF, tile by tile or strip by strip; see :func:`can_be_read_by_parts`.

    ``held_bytes`` of decoded parts are kept for the next windows; a part of more than ``max_pixels`` is refused.
    """

    def __init__(
        self, path: Path, page: tifffile.TiffPage, *, held_bytes: int = HELD_BYTES, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._path, self._page = path, page
        self._file = page.parent.filehandle
        strip = min(page.rowsperstrip, page.imagelength), page.imagewidth
        self._tile = (page.tilelength, page.tilewidth) if page.is_tiled else strip
        if self._tile[0] * self._tile[1] > max_pixels:
            reason = f"one part of it holds {self._tile[1]}x{self._tile[0]} pixels, more than max_pixels={max_pixels}"
            hint = "save it in tiles, or raise `max_pixels` if you trust the file"
            raise ImageReadError(path, reason, hint=hint, over_limit=True)
        tall, wide = self._tile
        parts = -(-page.imagelength // tall) * -(-page.imagewidth // wide)
        if not len(page.dataoffsets) == len(page.databytecounts) == parts:
            raise ImageReadError(path, f"damaged: it does not say where its {parts} parts lie")
        ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > self._file.size:
            raise ImageReadError(path, f"cut short: it has {self._file.size} bytes and speaks of more")
        self._transform, notes = _profile_of(page)
        self._white = 65535
        self._part = functools.lru_cache(max(1, held_bytes // (3 * tall * wide)))(self._decode)
        self.decoded = 0
        """How many parts were decoded so far."""
        if page.dtype == np.dtype(np.uint16):
            self._white = self._find_white(parts)
            notes = [SHALLOWER, *([NOT_ALL.format("white", self._white)] if self._white < 65535 else []), *notes]
        _tell(path, notes)

    @property
    def size(self) -> tuple[int, int]:
        return self._page.imagelength, self._page.imagewidth

    def _read(self, top: int, left: int, height: int, width: int) -> Pixels:
        out_YX3 = np.empty((height, width, 3), np.uint8)
        tall, wide = self._tile
        per_row = -(-self._page.imagewidth // wide)
        for row in range(top // tall, -(-(top + height) // tall)):
            for column in range(left // wide, -(-(left + width) // wide)):
                part_YX3 = self._part(row * per_row + column)
                y, x = max(top, row * tall), max(left, column * wide)
                bottom, right = min(top + height, (row + 1) * tall), min(left + width, (column + 1) * wide)
                out_YX3[y - top : bottom - top, x - left : right - left] = part_YX3[
                    y - row * tall : bottom - row * tall, x - column * wide : right - column * wide
                ]
        return out_YX3

    def _find_white(self, parts: int) -> int:
        """Return what stands for white, as `read_image` does: 12 or 8 bits in 16 are told by no part being lighter."""
        white = 0
        for index in range(parts):
            segment = self._segment(index)
            if segment is not None:
                white = max(white, int(segment.max(initial=0)))
            if white > 4095:
                return 65535
        return 255 if 0 < white <= 255 else 4095 if white else 65535

    def _decode(self, index: int) -> Pixels:
        self.decoded += 1
        segment = self._segment(index)
        if segment is None:
            return np.zeros((*self._tile, 3), np.uint8)
        pixels_YX3 = _to_rgb(segment, self._white)
        if self._transform is None:
            return pixels_YX3
        mode, transform = self._transform
        image = Image.fromarray(pixels_YX3)
        return np.array(applied(transform, image if mode == "RGB" else image.getchannel(0)))

    def _segment(self, index: int) -> npt.NDArray[Any] | None:
        page = self._page
        start, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:  # a tile that was never written
            return None
        try:
            self._file.seek(start)
            segment, _, _ = page.decode(self._file.read(count), index)
        except Exception as error:  # codecs raise nearly everything on damaged input
            reason = f"part {index} of {len(page.dataoffsets)} is damaged: {_said(error)}"
            raise ImageReadError(self._path, reason) from error
        return None if segment is None else np.asarray(segment[0])

    def close(self) -> None:
        self._part.cache_clear()
        self._page.parent.close()


def _tell(path: Path, notes: Iterable[str]) -> None:
    for note in notes:
        _LOG.warning("%s: %s", path, note)


def can_be_read_by_parts(page: Any) -> bool:
    """Say whether the parts of a TIFF page are plain pixels that need nothing from one another: the common kinds."""
    upright = "Orientation" not in page.tags or page.tags["Orientation"].value == 1
    samples = page.photometric == _RGB and page.samplesperpixel == 3
    samples = samples or (page.photometric == _GREY and page.samplesperpixel == 1)
    scaled = page.dtype != np.dtype(np.uint16) or page.tags.valueof("MaxSampleValue", default=65535) == 65535
    whole_bytes = page.dtype in (np.dtype(np.uint8), np.dtype(np.uint16)) and page.bitspersample in (8, 16)
    plain = scaled and page.planarconfig == 1 and whole_bytes
    return bool(upright and samples and plain and page.imagedepth == 1 and _has_codec(page))


def open_windows(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, held_bytes: int = HELD_BYTES
) -> WindowReader:
    """Open an image to be read window by window.

    A TIFF of 8 or 16 bits, grey or RGB, that is uncompressed or compressed by deflate (all codecs where the package
    imagecodecs is installed) is never held whole and may have any size. Anything else is decoded whole.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ImageReadError(path, error.strerror or str(error), hint="give the file of an image") from None
    if head not in _TIFF:
        return WholeImage(path, max_pixels=max_pixels)
    import tifffile

    with _quiet(), ExitStack() as opened:
        try:
            tiff = tifffile.TiffFile(path)
            opened.callback(tiff.close)
            page = main_page(tiff)
            if can_be_read_by_parts(page):
                assert isinstance(page, tifffile.TiffPage)
                reader = TiffWindows(path, page, held_bytes=held_bytes, max_pixels=max_pixels)
                opened.pop_all()
                return reader
        except ImageReadError:
            raise
        except Exception as error:  # on damaged input tifffile raises nearly everything
            raise ImageReadError(path, f"damaged: {_said(error)}") from error
    whole = WholeImage(path, max_pixels=max_pixels)
    _LOG.warning("%s: a TIFF of a kind that is held whole; %s", path, _BY_PARTS)
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile from telling every oddity of a file in a line of its own: the error is told once."""
    logger = logging.getLogger("tifffile")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _profile_of(page: Any) -> tuple[tuple[str, Any] | None, list[str]]:
    """Return what turns the colors of a page into sRGB, by the mode that it takes; and what is to be said of that."""
    profile = page.tags.valueof("InterColorProfile")
    try:
        mode, transform = to_srgb(bytes(profile)) if profile else ("", None)
    except ValueError:
        return None, [UNUSABLE]
    if transform is None:
        return None, []
    if mode == "CMYK" or (mode == "L" and page.samplesperpixel == 3):
        return None, [ANOTHER.format("one of CMYK" if mode == "CMYK" else "one of gray")]
    return (mode, transform), [CONVERTED]


def _has_codec(page: Any) -> bool:
    """Say whether the page can be decoded here: without the package imagecodecs few compressions can."""
    import tifffile

    compression, predictor = page.compression, page.predictor
    known = compression == 1 or compression in tifffile.TIFF.DECOMPRESSORS
    return known and (predictor == 1 or predictor in tifffile.TIFF.UNPREDICTORS)


def _to_rgb(segment_YXC: npt.NDArray[Any], white: int) -> Pixels:
    if segment_YXC.dtype == np.uint16:
        segment_YXC = np.rint(segment_YXC * np.float32(255 / white)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(segment_YXC, (*segment_YXC.shape[:2], 3)))
