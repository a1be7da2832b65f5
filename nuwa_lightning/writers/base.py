"""What every canvas writer does: take rectangles in any order, appear whole or not at all (ours)."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.output import Output

Pixels = NDArray[np.uint8]
"""uint8 RGB, ``(rows, columns, 3)``."""


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
