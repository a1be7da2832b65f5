"""What a writer is: it takes the pixels of a finished image band by band, or of a video frame by frame."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.output import Output

Pixels = NDArray[np.uint8]
"""uint8 sRGB, ``(rows, columns, 3)``."""

MARKER: Final = "nuwa_lightning"
"""The name under which metadata lie in every format; a file without it was not made by this program."""


class ImageSource(Protocol):
    """The pixels of a finished image of any size; usually they are decoded when they are asked for."""

    width: int
    """Pixels along x."""
    height: int
    """Pixels along y."""
    band: int
    """How many rows are best asked for at once."""

    def rows(self, start: int, stop: int) -> Pixels:
        """Return the rows from ``start`` up to ``stop``, uint8 ``(stop - start, width, 3)``."""
        ...


def bands(source: ImageSource, height: int | None = None) -> Iterator[Pixels]:
    """Yield the whole image from top to bottom in bands of ``height`` rows (by default ``source.band``)."""
    step = max(1, height or source.band)
    for start in range(0, source.height, step):
        yield source.rows(start, min(start + step, source.height))


class Writer(ABC):
    """What writers of images and of videos have in common: how the format is told from others, and what it can hold.

    A writer makes a new file (or folder) under a name that is not yet taken; that it appears whole or not at all, and
    what may be replaced, is the business of :func:`write_image` and :func:`write_video`.
    """

    format_name: ClassVar[str]
    """For messages."""
    longest_side: ClassVar[int]
    """Most pixels a side."""
    instead: ClassVar[str] = ".tif"
    """The suffix to recommend for what the format cannot hold."""
    multiple: ClassVar[int] = 1
    """Both sides have to be a multiple of this."""
    fastest: ClassVar[int | None] = None
    """Most frames a second; None for images."""
    folder: ClassVar[bool] = False
    """Whether the format is a folder of files."""

    def companions(self, path: Path) -> list[Path]:
        """Return what else the output at ``path`` consists of, beside it."""
        return []

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return what was stored with the output at ``path``; None if this program did not make it.

        No pixel is decoded.

        Raises:
            OSError: if it cannot be read.
            Exception: whatever the library raises for a damaged file.
        """

    def check(self, path: Path, width: int | None, height: int | None, fps: Fraction | float | None = None) -> None:
        """Refuse what the format cannot hold.

        Args:
            path: the output, for messages.
            width: pixels along x; None where it is not known yet.
            height: pixels along y; None where it is not known yet.
            fps: frames a second of a video.

        Raises:
            UsageError: naming the size or the speed.
        """
        sides = [side for side in (width, height) if side is not None]
        size = f"{width or ''}x{height or ''}"
        if any(side < 1 for side in sides):
            raise UsageError("size", f"{width}x{height}", "both sides must be at least 1 pixel")
        if any(side > self.longest_side for side in sides):
            hint = f"{self.format_name} holds at most {self.longest_side} pixels a side: "
            fits = self.instead != path.suffix.lower() and max(sides) <= LONGEST_SIDE
            raise UsageError(
                "output", f"{path} with {size}", hint + (f"use {self.instead}" if fits else "make it smaller")
            )
        if any(side % self.multiple for side in sides):
            near = "x".join(str(max(side // self.multiple, 1) * self.multiple) for side in sides)
            hint = f"{self.format_name} needs sides that are multiples of {self.multiple}, such as {near}"
            raise UsageError("size", size, hint)
        if fps is not None and self.fastest is not None and not 0 < rate(fps) <= self.fastest:
            hint = f"{self.format_name} holds more than 0 and at most {self.fastest} frames a second"
            raise UsageError("fps", float(fps), hint)


class ImageWriter(Writer):
    """Writes one image. To be subclassed; :func:`nuwa_lightning.testing.check_writer` holds a subclass to the laws."""

    @abstractmethod
    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the image and nothing beside ``path`` and its companions.

        Args:
            source: the pixels.
            path: not there yet.
            metadata: to be found by :meth:`read_metadata`; anything that JSON can hold.

        Raises:
            UsageError: if the format cannot hold it.
            OSError: if the disk is full or fails.
        """


class VideoWriter(Writer):
    """Writes one video, of any length, in memory for a few frames. To be subclassed as :class:`ImageWriter`."""

    instead = ".frames"

    @abstractmethod
    def write(self, frames: Iterator[Pixels], path: Path, metadata: Mapping[str, Any], *, fps: Fraction) -> None:
        """Write the frames, of which there is at least one; otherwise as :meth:`ImageWriter.write`."""


LONGEST_SIDE: Final = 100_000_000
"""Most pixels a side that any image format here holds: the limit of libvips."""


def packed(metadata: Mapping[str, Any]) -> str:
    """Return metadata as ASCII JSON under :data:`MARKER`; equal data give equal text.

    Raises:
        ValueError: if they hold NaN or infinity.
        TypeError: if they hold what JSON cannot.
    """
    return json.dumps({MARKER: dict(metadata)}, sort_keys=True, ensure_ascii=True, allow_nan=False)


def unpacked(text: object) -> dict[str, Any] | None:
    """Return what :func:`packed` got; None for any other text, since other programs store JSON, too."""
    try:
        found = json.loads(text) if isinstance(text, str | bytes) and text else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    own = found.get(MARKER)
    if isinstance(own, dict):
        return own
    return found if {"options", "size"} <= found.keys() else None  # as version 0.1 stored them


def rate(fps: Fraction | float) -> Fraction:
    """Return frames a second as a fraction that every format can state."""
    return Fraction(fps).limit_denominator(1001)


# Below: the writers that new code no longer uses.
LONGEST: Final = 2**31 - 1
"""The longest side in pixels that any format here holds."""


class CanvasWriter(Output):
    """Writes one RGB canvas to a file, rectangle by rectangle, in any order.

    Generation runs down columns on one canvas and along rows on another, so a writer takes what comes. What has been
    written lies on the disk, not in memory; pixels that were never written are black. Use
    :func:`nuwa_lightning.writers.open_writer` to pick one by suffix.

    **Endless canvases.** A width or height of None grows as rectangles come; :meth:`cut` gives it its length at last.
    At most one of them may be None, and only where ``endless`` is true.

    Args:
        path: as for :class:`Output`.
        width: pixels along x; None is endless.
        height: pixels along y; None is endless.
        metadata: as for :class:`Output`.
        keep: as for :class:`Output`.
        state: as for :class:`Output`.

    Raises:
        UsageError: as :class:`Output`, and if the size is not one that the format can hold.
        ValueError: if ``state`` is that of another canvas.
    """

    endless: ClassVar[bool] = False
    """Whether one side may be None."""
    lossless: ClassVar[bool] = True
    """Whether the file gives every pixel back as it was."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int | None,
        height: int | None,
        *,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._width, self._height = width, height
        self.check_size(path, width, height)
        super().__init__(path, metadata=metadata, keep=keep, state=state)

    @property
    def width(self) -> int:
        """Pixels along x.

        Raises:
            ValueError: if it is endless and :meth:`cut` has not been called.
        """
        if self._width is None:
            raise ValueError(f"{self.path}: the width is not known yet")
        return self._width

    @property
    def height(self) -> int:
        """Pixels along y.

        Raises:
            ValueError: if it is endless and :meth:`cut` has not been called.
        """
        if self._height is None:
            raise ValueError(f"{self.path}: the height is not known yet")
        return self._height

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Width and height in pixels, None where it is still endless."""
        return self._width, self._height

    @abstractmethod
    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        """Store a rectangle that lies inside the canvas and is contiguous."""

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Store a rectangle with its upper left corner at ``(y, x)``; a later one wins where two overlap.

        Args:
            pixels_YX3: uint8 RGB, ``(rows, columns, 3)``.
            y: row of the upper edge in pixels.
            x: column of the left edge in pixels.

        Raises:
            ValueError: if the array is not uint8 RGB, does not lie inside the canvas, or the writer is closed.
            UsageError: if the disk is full or fails.
        """
        self._check_open()
        if pixels_YX3.dtype != np.uint8 or pixels_YX3.ndim != 3 or pixels_YX3.shape[2] != 3:
            raise ValueError(f"expected uint8 (rows, columns, 3), got {pixels_YX3.dtype} {pixels_YX3.shape}")
        rows, columns = pixels_YX3.shape[:2]
        bottom, right = self._height or self.longest_side, self._width or self.longest_side
        if y < 0 or x < 0 or y + rows > bottom or x + columns > right:
            canvas = f"{self._width}x{self._height}"
            raise ValueError(f"a rectangle of {columns}x{rows} at y={y}, x={x} does not lie inside the canvas {canvas}")
        if pixels_YX3.size:
            with self._telling_errors():
                self._put(np.ascontiguousarray(pixels_YX3), y, x)

    def cut(self, width: int, height: int, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Give an endless canvas its size; what lies beyond is cut off. Only :meth:`close` may follow.

        Args:
            width: pixels along x; as before where it was known.
            height: pixels along y; as before where it was known.
            metadata: instead of what the writer was made with.

        Raises:
            ValueError: if the canvas is not endless, or a known side is changed.
        """
        for old, new in ((self._width, width), (self._height, height)):
            if old not in (None, new) or new < 1:
                raise ValueError(f"{self.path}: a canvas of {self._width}x{self._height} cannot get {width}x{height}")
        if None not in self.size:
            raise ValueError(f"{self.path}: the canvas is not endless")
        self._width, self._height = width, height
        if metadata is not None:
            self._metadata = dict(metadata)

    def _shape(self) -> list[Any]:
        return [self.format_name, self._width, self._height]

    @classmethod
    def check_size(cls, path: str | os.PathLike[str], width: int | None, height: int | None) -> None:
        """Refuse a size that the format cannot hold.

        Args:
            path: the file, for the message.
            width: pixels along x; None is endless.
            height: pixels along y; None is endless.

        Raises:
            UsageError: naming the size.
        """
        shown = f"{width or ''}x{height or ''}"
        known = [side for side in (width, height) if side is not None]
        if len(known) < 2 and not cls.endless:
            raise UsageError("--output", path, f"{cls.format_name} cannot hold an endless canvas: use .tif")
        if not known or min(known) < 1:
            raise UsageError("--size", shown, "give both sides at least 1 pixel; one of them may be left out: endless")
        if max(known) > cls.longest_side:
            hint = "use .tif" if max(known) <= LONGEST else f"no format holds more than {LONGEST}: make it smaller"
            hint = f"{cls.format_name} holds at most {cls.longest_side} pixels a side: {hint}"
            raise UsageError("--output", f"{path} with {shown}", hint)


class ScratchRaster:
    """A canvas of raw RGB in a file; memory holds one rectangle at a time.

    For formats that must be written from top to bottom. Plain writes instead of a memory map: the pages of a map count
    as this process's memory, those of a file are the system's cache.

    Args:
        path: the file; it takes ``3 * width * height`` bytes. ``PartialFile.beside`` gives it a name, so that it goes
            when the output is complete.
        width: pixels along x.
        height: pixels along y.
        found: go on with the file that is there.
    """

    def __init__(self, path: Path, width: int, height: int, *, found: bool = False) -> None:
        self._width = width
        self._height = height
        self._file: BinaryIO = path.open("r+b" if found else "x+b", buffering=0)
        try:
            self._file.truncate(3 * width * height)
        except OSError:
            self._file.close()
            raise

    def put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        """Store a contiguous rectangle."""
        write_rows(self._file, pixels_YX3, start=3 * (y * self._width + x), stride=3 * self._width)

    def rows(self, y: int, count: int) -> Pixels:
        """Return ``count`` rows from ``y`` on, uint8 ``(count, width, 3)``."""
        size = 3 * self._width * count
        self._file.seek(3 * self._width * y)
        parts = bytearray()
        while len(parts) < size:
            part = self._file.read(size - len(parts))
            if not part:
                raise OSError(5, "the scratch file is shorter than it was made")
            parts += part
        return np.frombuffer(parts, np.uint8).reshape(count, self._width, 3)

    def force(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_rows(file: BinaryIO, pixels_YX3: Pixels, *, start: int, stride: int) -> None:
    """Write each row of a contiguous rectangle at ``start + row * stride`` bytes."""
    rows, columns = pixels_YX3.shape[:2]
    if 3 * columns == stride:
        write_all(file, start, pixels_YX3.data.cast("B"))
        return
    for row in range(rows):
        write_all(file, start + row * stride, pixels_YX3[row].data.cast("B"))


def write_all(file: BinaryIO, position: int, data: memoryview) -> None:
    """Write all of ``data`` at ``position`` bytes of an unbuffered file."""
    file.seek(position)
    while data:  # an unbuffered write may take only a part, above all on a nearly full disk
        data = data[file.write(data) :]
