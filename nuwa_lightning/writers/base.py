"""What every canvas writer does: take rectangles in any order, appear whole or not at all (ours)."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.atomic import PartialFile
from nuwa_lightning.errors import UsageError

Pixels = NDArray[np.uint8]
"""uint8 RGB, ``(rows, columns, 3)``."""


class CanvasWriter(ABC):
    """Writes one RGB canvas to a file, rectangle by rectangle, in any order.

    Generation runs down columns on one canvas and along rows on another, so a writer takes what comes. What has been
    written lies on the disk, not in memory; pixels that were never written are black. The file is made under a hidden
    name in the same folder and gets its own name in :meth:`close`; leaving a ``with`` block by an error, or
    :meth:`abort`, leaves nothing behind. Use :func:`nuwa_lightning.writers.open_writer` to pick one by suffix.

    **Going on after a kill.** :meth:`state` forces to the disk what has been written and tells as plain JSON where the
    writer stands. A writer that is made with that ``state``, in this process or in a later one, stands exactly there,
    whatever was written in between: the same rectangles are then written once more, in the same order and with the same
    pixels. So a format that writes in place needs no state of its own, and one that appends cuts its file back to the
    length that its state tells. The last two states that were taken stay usable; older ones need not. With ``keep`` an
    error (a full disk, a kill) leaves the unfinished file where it is.

    **Endless canvases.** A width or height of None grows as rectangles come; :meth:`cut` gives it its length at last.
    At most one of them may be None, and only where ``endless`` is true.

    Args:
        path: the file to make; it is replaced if it exists.
        width: pixels along x; None is endless.
        height: pixels along y; None is endless.
        metadata: how the picture was made; anything that JSON can hold.
        keep: leave the unfinished file for a later writer with ``state`` when an error ends the ``with`` block, or when
            :meth:`close` fails.
        state: what :meth:`state` of an earlier writer, made with the same other arguments, returned: go on from there.

    Raises:
        UsageError: if the size is not one that the format can hold, the file cannot be made, or the unfinished file
            that ``state`` names is gone.
        ValueError: if ``state`` is that of another canvas.
    """

    endless: ClassVar[bool] = False
    """Whether one side may be None."""

    folder: ClassVar[bool] = False
    """Whether the format is a folder of files."""

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
        self.path = Path(path)
        self._width, self._height = width, height
        self._keep = keep
        self._check_size()
        self._metadata = dict(metadata or {})
        self._open = True
        self._begun = False
        if state is not None and state.get("canvas") != self._canvas():
            raise ValueError(f"{self.path}: the state is of {state.get('canvas')}, not of {self._canvas()}")
        with self._telling_errors():
            try:
                name = None if state is None else str(state["partial"])
                self._file = PartialFile(self.path, name=name, folder=self.folder)
                try:
                    self._begin(self._file.path, self.description, None if state is None else state["own"])
                except BaseException:
                    self._give_up(keep=state is not None)
                    raise
            except FileNotFoundError as error:
                if state is None:
                    raise
                cure = "the unfinished file is gone: start again without --resume"
                raise UsageError("--output", str(error.filename), cure) from error
            self._begun = True

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

    @property
    def description(self) -> str:
        """The metadata as ASCII JSON."""
        return json.dumps(self._metadata, sort_keys=True, ensure_ascii=True)

    @property
    @abstractmethod
    def format_name(self) -> str:
        """The name of the format, for messages."""

    @property
    @abstractmethod
    def longest_side(self) -> int:
        """The longest side in pixels that the format can hold."""

    @abstractmethod
    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        """Prepare for rectangles. Cleans up if it fails.

        Args:
            partial: an empty file (or folder), or with ``state`` the unfinished one.
            description: ASCII JSON.
            state: what :meth:`_own_state` returned.
        """

    @abstractmethod
    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        """Store a rectangle that lies inside the canvas and is contiguous."""

    @abstractmethod
    def _own_state(self) -> Mapping[str, Any]:
        """Force what was written to the disk; return what :meth:`_begin` needs to go on from here, as plain JSON."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file under its hidden name; ``width`` and ``height`` are known."""

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
        bottom, right = self._height or self.longest_side, self._width or self.longest_side
        if y < 0 or x < 0 or y + rows > bottom or x + columns > right:
            canvas = f"{self._width}x{self._height}"
            raise ValueError(f"a rectangle of {columns}x{rows} at y={y}, x={x} does not lie inside the canvas {canvas}")
        if pixels_YX3.size:
            with self._telling_errors():
                self._put(np.ascontiguousarray(pixels_YX3), y, x)

    def state(self) -> dict[str, Any]:
        """Force what was written to the disk and return where the writer stands, as plain JSON (see the class).

        Raises:
            ValueError: if the writer is closed.
            UsageError: if the disk is full or fails.
        """
        if not self._open:
            raise ValueError(f"{self.path}: the writer is closed")
        with self._telling_errors():
            return {"canvas": self._canvas(), "partial": self._file.path.name, "own": dict(self._own_state())}

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

    def close(self) -> None:
        """Complete the file and give it its name; closing twice does nothing.

        Raises:
            ValueError: if a side is still endless: :meth:`cut` first.
            UsageError: if the disk is full or fails; without ``keep`` nothing is left behind then.
        """
        if not self._open:
            return
        with self._telling_errors():
            try:
                assert min(self.width, self.height) > 0
                self._finish()
                self._begun = False
                self._release()
                self._file.complete()
            except BaseException:
                self._give_up(keep=self._keep)
                raise
            self._open = False

    def abort(self) -> None:
        """Give up: remove what was written, leave a file of that name as it was."""
        self._give_up(keep=False)

    def suspend(self) -> None:
        """Close the unfinished file and leave it where it is, for a later writer with ``state``."""
        self._give_up(keep=True)

    def _give_up(self, *, keep: bool) -> None:
        if not self._open:
            return
        self._open = False
        if self._begun:
            self._begun = False
            self._release()
        if not keep:
            self._file.abandon()

    def __enter__(self) -> CanvasWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._give_up(keep=self._keep)

    def _canvas(self) -> list[Any]:
        return [self.format_name, self._width, self._height]

    def _check_size(self) -> None:
        shown = f"{self._width or ''}x{self._height or ''}"
        known = [side for side in self.size if side is not None]
        if len(known) < 2 and not self.endless:
            raise UsageError("--output", self.path, f"{self.format_name} cannot hold an endless canvas: use .tif")
        if not known or min(known) < 1:
            raise UsageError("--size", shown, "give both sides at least 1 pixel; one of them may be left out: endless")
        if max(known) > self.longest_side:
            cure = f"{self.format_name} holds at most {self.longest_side} pixels a side: use .tif"
            raise UsageError("--output", f"{self.path} with {shown}", cure)

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            cure = f"cannot be written ({reason}): free space there or name another file"
            raise UsageError("--output", str(self.path), cure) from error


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
