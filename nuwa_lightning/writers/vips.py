"""PNG, JPEG, WebP, TIFF and Deep Zoom by libvips, which reads the image once from top to bottom.

libvips pulls pixels in threads of its own. Decoding must stay in the caller's thread (gradient modes, interrupts and
tracebacks belong to it), so libvips works in a second thread and waits for one band at a time. It has no loader for raw
pixels that come as a stream; the one for uncompressed TIFF does, given a header in front of them.
"""

import errno
import os
import queue
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from nuwa_lightning.errors import UsageError, shortened
from nuwa_lightning.writers.base import LONGEST_SIDE, MARKER, ImageSource, ImageWriter, Pixels, bands, packed, unpacked

IMAGE_DESCRIPTION: Final = 0x010E
"""The tag of EXIF and TIFF that holds the metadata."""
FULL: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What the system says where there is no room."""
_TILE = 256
_STRIP = 16
_THREADS = 6
"""From seven threads on each of libvips's buffers has twice as many rows, from 14 on three times as many."""
_DOTS = 72 / 25.4
"""Dots a millimeter, for formats that want to know: 72 an inch is what programs take for unknown."""


class PngWriter(ImageWriter):
    """PNG; the metadata are a text chunk."""

    format_name = "PNG"
    longest_side = LONGEST_SIDE

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        fields = {f"png-comment-0-{MARKER}": _short(metadata, path, self.format_name, 1_000_000)}
        _save(source, fields, lambda image: image.pngsave(os.fsencode(path), compression=6, filter="sub", keep="other"))

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of the text chunk, by Pillow."""
        from PIL.PngImagePlugin import PngImageFile  # the class: Image.open refuses large images

        with PngImageFile(path) as image:
            return unpacked(image.info.get(MARKER))


class JpegWriter(ImageWriter):
    """JPEG without chroma subsampling; the metadata are the EXIF field ``ImageDescription``.

    Args:
        quality: from 1 to 100.
    """

    format_name = "JPEG"
    lossless = False
    longest_side = 65500  # of libjpeg; the format itself has 35 more

    def __init__(self, quality: int = 95) -> None:
        self.quality = quality

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        fields = {"exif-ifd0-ImageDescription": _short(metadata, path, self.format_name, 65_000)}
        _save(source, fields, lambda image: image.jpegsave(os.fsencode(path), Q=self.quality, subsample_mode="off"))

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of EXIF, by Pillow."""
        from PIL.JpegImagePlugin import JpegImageFile

        with JpegImageFile(path) as image:
            return unpacked(image.getexif().get(IMAGE_DESCRIPTION))


class WebpWriter(ImageWriter):
    """WebP; the encoder wants the whole image in memory. The metadata are the EXIF field ``ImageDescription``.

    Args:
        quality: from 1 to 100.
    """

    format_name = "WebP"
    lossless = False
    longest_side = 16383

    def __init__(self, quality: int = 90) -> None:
        self.quality = quality

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        fields = {"exif-ifd0-ImageDescription": packed(metadata)}
        _save(source, fields, lambda image: image.webpsave(os.fsencode(path), Q=self.quality))

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of EXIF, by Pillow."""
        return webp_metadata(path)


class TiffWriter(ImageWriter):
    """Tiled BigTIFF with a pyramid, deflate; the metadata are the ``ImageDescription`` of the first page.

    The smaller copies lie in unnamed files of the folder for temporary files until the end: a third of the output.
    """

    format_name = "TIFF"
    longest_side = LONGEST_SIDE

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        tiles = {"tile": True, "tile_width": _TILE, "tile_height": _TILE, "pyramid": True, "bigtiff": True}
        packing = {"compression": "deflate", "predictor": "horizontal", "level": 6}
        fields = {"image-description": packed(metadata)}
        _save(source, fields, lambda image: image.tiffsave(os.fsencode(path), **tiles, **packing))

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of the first page, by tifffile."""
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            return unpacked(tiff.pages.first.description)


class DeepZoomWriter(ImageWriter):
    """Deep Zoom: ``NAME.dzi`` and ``NAME_files/`` with JPEG tiles of every level; the metadata are a JSON file there.

    Args:
        quality: from 1 to 100.
    """

    format_name = "Deep Zoom"
    lossless = False
    longest_side = LONGEST_SIDE

    def __init__(self, quality: int = 95) -> None:
        self.quality = quality

    def companions(self, path: Path) -> list[Path]:
        """Return the folder of the tiles."""
        return [path.with_name(f"{path.stem}_files")]

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        options = {"tile_size": _TILE, "overlap": 0, "depth": "onepixel", "keep": "none"}
        options |= {"suffix": f".jpg[Q={self.quality},subsample_mode=off]"}
        _save(source, {}, lambda image: image.dzsave(os.fsencode(path.with_suffix("")), **options))
        (self.companions(path)[0] / "vips-properties.xml").unlink(missing_ok=True)  # holds the time
        self._sidecar(path).write_text(packed(metadata), encoding="ascii")

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata that lie beside the tiles."""
        return unpacked(self._sidecar(path).read_bytes()) if self._sidecar(path).is_file() else None

    def _sidecar(self, path: Path) -> Path:
        return self.companions(path)[0] / f"{MARKER}.json"


def _short(metadata: Mapping[str, Any], path: Path, format_name: str, longest: int) -> str:
    """Return metadata as text, if the format (or whoever reads it) can take so many bytes."""
    text = packed(metadata)
    if len(text) > longest:
        hint = f"{format_name} holds {longest} bytes on how it was made, not {len(text)}: use .tif"
        raise UsageError("output", path.name, hint)
    return text


def webp_metadata(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a still or moving WebP, by Pillow."""
    from PIL.WebPImagePlugin import WebPImageFile

    with WebPImageFile(path) as image:
        return unpacked(image.getexif().get(IMAGE_DESCRIPTION))


def _save(source: ImageSource, fields: Mapping[str, str], operation: Callable[[Any], None]) -> None:
    """Run an operation of libvips on a ``pyvips.Image`` that can be read once, from top to bottom, in a few bands.

    ``fields`` are metadata by libvips's names.
    """
    import pyvips

    feed = _Feed(source.width, source.height)
    failed: list[Exception] = []

    def work() -> None:
        try:
            pyvips.concurrency_set(min(pyvips.concurrency_get(), _THREADS))
            pixels = pyvips.SourceCustom()  # has to live as long as the image
            pixels.on_read(feed.read)
            pixels.on_seek(feed.seek)
            image = pyvips.Image.tiffload_source(pixels, access="sequential", fail_on="error")
            image = image.copy(xres=_DOTS, yres=_DOTS)
            for name, text in fields.items():
                image.set_type(pyvips.GValue.gstr_type, name, text)
            operation(image)
        except Exception as error:  # whatever it is, it belongs to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=work, name="libvips", daemon=True)
    thread.start()
    try:
        for pixels_YX3 in bands(source):
            if not feed.put(pixels_YX3, thread):
                break
        thread.join()
    finally:
        feed.end(thread)
        thread.join()
    if failed and isinstance(failed[0], pyvips.Error):
        # libvips repeats the path and the error for each of its layers: too much for one line.
        reason = " ".join(str(failed[0]).split())
        full = next((code for code in FULL if os.strerror(code) in reason), None)
        raise OSError(full or errno.EIO, os.strerror(full) if full else shortened(reason)) from failed[0]
    if failed:
        raise failed[0]


class _Feed:
    """An uncompressed TIFF that does not exist: a header, then pixels as they come."""

    def __init__(self, width: int, height: int) -> None:
        self._head = tiff_header(width, height)
        self._size = len(self._head) + 3 * width * height
        self._at = 0
        self._queue: queue.Queue[memoryview | None] = queue.Queue(maxsize=1)
        self._band = memoryview(self._head)
        self._start = 0

    def put(self, pixels_YX3: Pixels, thread: threading.Thread) -> bool:
        """Hand over the next band; False if nobody takes it any more."""
        return self._offer(pixels_YX3.data.cast("B"), thread)

    def end(self, thread: threading.Thread) -> None:
        """Tell a reader that still waits that nothing will come."""
        self._offer(None, thread)

    def _offer(self, band: memoryview | None, thread: threading.Thread) -> bool:
        while thread.is_alive():
            try:
                self._queue.put(band, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def read(self, size: int) -> memoryview | None:
        """Return up to ``size`` bytes from where the reader stands; None at the end."""
        while self._at >= self._start + len(self._band):
            if self._at >= self._size:
                return None
            band = self._queue.get()
            if band is None:
                return None
            self._start, self._band = self._start + len(self._band), band
        inside = self._at - self._start
        if inside < 0:
            if self._at + size > len(self._head):
                return None  # no way back to a band that is gone
            part = memoryview(self._head)[self._at : self._at + size]
        else:
            part = self._band[inside : inside + size]
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int) -> int:
        """Stand elsewhere, as ``io.IOBase.seek``."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at


def tiff_header(width: int, height: int) -> bytes:
    """Return all that stands before the pixels of an uncompressed RGB BigTIFF in strips (TIFF 6.0, BigTIFF design)."""
    count = -(-height // _STRIP)
    sizes = np.full(count, 3 * width * _STRIP, "<u8")
    sizes[-1] = 3 * width * (height - (count - 1) * _STRIP)
    short, number = 3, 16
    fields = [(256, number, width), (257, number, height), (258, short, (8, 8, 8)), (259, short, 1), (262, short, 2)]
    fields += [(273, number, None), (277, short, 3), (278, number, _STRIP), (279, number, None)]
    arrays = 16 + 8 + 20 * len(fields) + 8
    starts = arrays + 16 * count + np.cumsum(sizes) - sizes
    head = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(fields))
    for tag, kind, value in fields:
        if value is None and count > 1:
            data = struct.pack("<Q", arrays + (8 * count if tag == 279 else 0))
        elif value is None:
            data = struct.pack("<Q", int((sizes if tag == 279 else starts)[0]))
        else:
            data = struct.pack("<4H", *value, 0) if isinstance(value, tuple) else struct.pack("<Q", value)
        length = count if value is None else len(value) if isinstance(value, tuple) else 1
        head += struct.pack("<HHQ", tag, kind, length) + data
    arrays_S = np.concatenate([starts, sizes]).astype("<u8")
    return bytes(head + bytes(8) + arrays_S.tobytes())
