"""What every video writer does: take frames one after the other, hold only a few of them (ours)."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.output import Output


class VideoWriter(Output):
    """Writes RGB frames of one size, one after the other; there may be any number of them.

    Use :func:`nuwa_lightning.writers.open_video_writer` to pick one by suffix. A state is taken between two frames.

    Args:
        path: as for :class:`Output`.
        width: pixels along x.
        height: pixels along y.
        fps: frames a second.
        metadata: as for :class:`Output`.
        keep: as for :class:`Output`.
        state: as for :class:`Output`.

    Raises:
        UsageError: as :class:`Output`, and if the size or the speed is not one that the format can hold.
        ValueError: if ``state`` is that of another video.
    """

    fastest: ClassVar[int]
    """Most frames a second that the format can hold, or that players take seriously."""
    multiple: ClassVar[int] = 1
    """Both sides have to be a multiple of this."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        *,
        fps: Fraction | float = 8,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.width, self.height = width, height
        self.fps = _rate(fps)
        self.frames = 0
        """How many frames were taken."""
        self.check(path, width, height, fps=fps)
        super().__init__(path, metadata=metadata, keep=keep, state=state)

    @abstractmethod
    def _start(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        """Prepare for the frame number ``self.frames``, as :meth:`Output._begin`."""

    @abstractmethod
    def _append(self, frame_YX3: Pixels) -> None:
        """Store a contiguous frame; its number is ``self.frames``."""

    @abstractmethod
    def _force(self) -> Mapping[str, Any]:
        """Force what was written to the disk; return what :meth:`_start` needs beside the number of frames."""

    def append(self, frame_YX3: Pixels) -> None:
        """Store the next frame.

        Args:
            frame_YX3: uint8 RGB, ``(height, width, 3)``.

        Raises:
            ValueError: if the array is not uint8 RGB of this size, or the writer is closed.
            UsageError: if the disk is full or fails.
        """
        self._check_open()
        if frame_YX3.dtype != np.uint8 or frame_YX3.shape != (self.height, self.width, 3):
            expected = f"uint8 {(self.height, self.width, 3)}"
            raise ValueError(f"expected {expected}, got {frame_YX3.dtype} {frame_YX3.shape}")
        with self._telling_errors():
            self._append(np.ascontiguousarray(frame_YX3))
        self.frames += 1

    @abstractmethod
    def _end(self) -> None:
        """Complete the file under its hidden name; there is at least one frame."""

    def _finish(self) -> None:
        if not self.frames:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        self._end()

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self.frames = 0 if state is None else int(state["frames"])
        self._start(partial, description, state)

    def _own_state(self) -> Mapping[str, Any]:
        return {**self._force(), "frames": self.frames}

    def _shape(self) -> list[Any]:
        return [self.format_name, self.width, self.height, str(self.fps)]

    @classmethod
    def check(cls, path: str | os.PathLike[str], width: int, height: int, *, fps: Fraction | float) -> None:
        """Refuse a size or a speed that the format cannot hold.

        Args:
            path: the file, for the message.
            width: pixels along x.
            height: pixels along y.
            fps: frames a second.

        Raises:
            UsageError: naming the size or the speed.
        """
        shown = f"{width}x{height}"
        if min(width, height) < 1:
            raise UsageError("--size", shown, "both sides must be at least 1 pixel")
        if max(width, height) > cls.longest_side:
            hint = f"{cls.format_name} holds at most {cls.longest_side} pixels a side: use .frames"
            raise UsageError("--output", f"{path} with {shown}", hint)
        if width % cls.multiple or height % cls.multiple:
            near = "x".join(str(max(side // cls.multiple, 1) * cls.multiple) for side in (width, height))
            hint = f"{cls.format_name} needs sides that are multiples of {cls.multiple}, such as {near}"
            raise UsageError("--size", shown, hint)
        if not 0 < _rate(fps) <= cls.fastest:
            hint = f"{cls.format_name} holds more than 0 and at most {cls.fastest} frames a second"
            raise UsageError("--fps", float(fps), hint)


def _rate(fps: Fraction | float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def ticks(frame: int, fps: Fraction, a_second: int) -> int:
    """Return how long a frame is shown, in whole parts of a second; over many frames the speed is exact."""
    return round((frame + 1) * a_second / fps) - round(frame * a_second / fps)
