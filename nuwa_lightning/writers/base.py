"""What every canvas writer does: take rectangles in any order, appear whole or not at all (ours)."""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError

Pixels = NDArray[np.uint8]
"""uint8 RGB, ``(rows, columns, 3)``."""


class CanvasWriter(ABC):
    """Writes one RGB canvas to a file, rectangle by rectangle, in any order.

    Generation runs down columns on one canvas and along rows on another, so a writer takes what comes. What has been
    written lies on the disk, not in memory; pixels that were never written are black. The file is made under a hidden
    name in the same folder and gets its own name in :meth:`close`; leaving a ``with`` block by an error, or
    :meth:`abort`, leaves nothing behind. Use :func:`nuwa_lightning.writers.open_writer` to pick one by suffix.

    Args:
        path: the file to make; it is replaced if it exists.
        width: pixels along x.
        height: pixels along y.
        metadata: how the picture was made; anything that JSON can hold.

    Raises:
        UsageError: if the size is not one that the format can hold, or the file cannot be made.
    """

    def __init__(
        self, path: str | os.PathLike[str], width: int, height: int, *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.width = width
        self.height = height
        if width < 1 or height < 1:
            raise UsageError("--size", f"{width}x{height}", "both sides must be at least 1 pixel")
        if max(width, height) > self.longest_side:
            cure = f"{self.format_name} holds at most {self.longest_side} pixels a side: use .tif"
            raise UsageError("--output", f"{self.path} with {width}x{height}", cure)
        description = json.dumps(dict(metadata or {}), sort_keys=True, ensure_ascii=True)
        self._open = True
        self._begun = False
        self._atomic = atomic_write(self.path)
        with self._telling_errors():
            partial = self._atomic.__enter__()
            try:
                self._begin(partial, description)
            except BaseException:
                self.abort()
                raise
            self._begun = True

    @property
    @abstractmethod
    def format_name(self) -> str:
        """The name of the format, for messages."""

    @property
    @abstractmethod
    def longest_side(self) -> int:
        """The longest side in pixels that the format can hold."""

    @abstractmethod
    def _begin(self, partial: Path, description: str) -> None:
        """Prepare for rectangles; ``partial`` is an empty file, ``description`` ASCII JSON. Cleans up if it fails."""

    @abstractmethod
    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        """Store a rectangle that lies inside the canvas and is contiguous."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file under its hidden name."""

    @abstractmethod
    def _release(self) -> None:
        """Close what :meth:`_begin` opened; called once, after :meth:`_finish` or instead of it."""

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
        if not self._open:
            raise ValueError(f"{self.path}: the writer is closed")
        if pixels_YX3.dtype != np.uint8 or pixels_YX3.ndim != 3 or pixels_YX3.shape[2] != 3:
            raise ValueError(f"expected uint8 (rows, columns, 3), got {pixels_YX3.dtype} {pixels_YX3.shape}")
        rows, columns = pixels_YX3.shape[:2]
        if y < 0 or x < 0 or y + rows > self.height or x + columns > self.width:
            canvas = f"{self.width}x{self.height}"
            raise ValueError(f"a rectangle of {columns}x{rows} at y={y}, x={x} does not lie inside the canvas {canvas}")
        if pixels_YX3.size:
            with self._telling_errors():
                self._put(np.ascontiguousarray(pixels_YX3), y, x)

    def close(self) -> None:
        """Complete the file and give it its name; closing twice does nothing.

        Raises:
            UsageError: if the disk is full or fails; nothing is left behind then.
        """
        if not self._open:
            return
        with self._telling_errors():
            try:
                self._finish()
            except BaseException:
                self.abort()
                raise
            self._open = False
            self._release()
            self._atomic.__exit__(None, None, None)

    def abort(self) -> None:
        """Give up: remove what was written, leave a file of that name as it was."""
        if not self._open:
            return
        self._open = False
        if self._begun:
            self._release()
        reason = _AbandonedError()
        try:
            self._atomic.__exit__(_AbandonedError, reason, None)
        except _AbandonedError:
            return

    def __enter__(self) -> CanvasWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            cure = f"cannot be written ({reason}): free space there or name another file"
            raise UsageError("--output", str(self.path), cure) from error


class _AbandonedError(Exception):
    """Tells :func:`atomic_write` to remove its file."""


class ScratchRaster:
    """A canvas of raw RGB in an unnamed file beside the output; memory holds one rectangle at a time.

    For formats that must be written from top to bottom. Plain writes instead of a memory map: the pages of a map count
    as this process's memory, those of a file are the system's cache.

    Args:
        folder: where the unnamed file lies; it needs ``3 * width * height`` bytes.
        width: pixels along x.
        height: pixels along y.
    """

    def __init__(self, folder: Path, width: int, height: int) -> None:
        self._width = width
        self._height = height
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
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

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


def write_rows(file: BinaryIO, pixels_YX3: Pixels, *, start: int, stride: int) -> None:
    """Write each row of a contiguous rectangle at ``start + row * stride`` bytes."""
    rows, columns = pixels_YX3.shape[:2]
    if 3 * columns == stride:
        _write_all(file, start, pixels_YX3.data.cast("B"))
        return
    for row in range(rows):
        _write_all(file, start + row * stride, pixels_YX3[row].data.cast("B"))


def _write_all(file: BinaryIO, position: int, data: memoryview) -> None:
    file.seek(position)
    while data:  # an unbuffered write may take only a part, above all on a nearly full disk
        data = data[file.write(data) :]
