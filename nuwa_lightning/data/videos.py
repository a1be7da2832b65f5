"""What video data modules read from: videos, split by whole scenes into training and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from nuwa_lightning.data.reading import ImageReadError, NotesLog, read_image
from nuwa_lightning.data.sources import FolderSource, Sample, Source, Split
from nuwa_lightning.data.video_reading import SUFFIXES, Frame, FrameReader, VideoReadError

if TYPE_CHECKING:
    from PIL import Image

# Legend: Y, X pixels along the axes, 3 colours.

_tell = NotesLog()


@dataclass(frozen=True)
class Movement(ABC):
    """What makes a video of a file that is none: synthetic, and said so wherever such a video is named."""

    @abstractmethod
    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """Yield the frames with their times in seconds."""


@final
@dataclass(frozen=True)
class Motion(Movement):
    """A camera that moves over a photograph.

    Attributes:
        seconds: how long.
        fps: frames a second.
        zoom: how large the window is in the beginning and at the end, as a share of the largest that fits.
        start: where the window lies in the beginning, in [0, 1] along (y, x) of the room that it has.
        stop: where it lies at the end.
    """

    seconds: float
    fps: int
    zoom: tuple[float, float]
    start: tuple[float, float]
    stop: tuple[float, float]

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """Yield views of the photograph, 9:16 and at most 360 rows, at places between its pixels."""
        photo = photograph(path)
        largest = min(photo.height, photo.width * 9 / 16)
        count = max(2, round(self.seconds * self.fps))
        boxes = []
        for number in range(count):
            way = number / (count - 1)
            way = way * way * (3 - 2 * way)  # a camera starts and stops softly
            height = largest * (self.zoom[0] + (self.zoom[1] - self.zoom[0]) * way)
            room = photo.height - height, photo.width - height * 16 / 9
            y, x = (max(0.0, r) * (a + (b - a) * way) for r, a, b in zip(room, self.start, self.stop, strict=True))
            boxes.append((y, x, height))
        return _views(photo, boxes, self.fps)


@dataclass(frozen=True)
class Steady(Movement):
    """To the left or to the right over a photograph, always at one speed.

    Attributes:
        seconds: how long, at most; the photograph may end before.
        fps: frames a second.
        zoom: how large the window is, as a share of the largest that fits.
        speed: heights of the window a second, to the left if negative.
        start: where the window begins, in [0, 1] along (y, x) of the room that it has.
    """

    seconds: float
    fps: int
    zoom: float
    speed: float
    start: tuple[float, float]


@final
class Pan(Steady):
    """A camera that turns."""

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """Yield views of the photograph, as `Motion.frames` does."""
        photo = photograph(path)
        height = min(photo.height, photo.width * 9 / 16) * self.zoom
        width = photo.width - height * 16 / 9
        step = abs(self.speed) * height / self.fps
        count = max(2, min(round(self.seconds * self.fps), int(max(0.0, width) / step) + 1))
        y, first = max(0.0, photo.height - height) * self.start[0], max(0.0, width - step * (count - 1)) * self.start[1]
        boxes = [(y, min(first + step * number, max(0.0, width)), height) for number in range(count)]
        return _views(photo, boxes if self.speed > 0 else boxes[::-1], self.fps)


@dataclass(frozen=True)
class Video(Sample):
    """One video; ``path`` may also be the file of what a video is made of.

    Attributes:
        motion: how a video is made of the file; None for a real video.
    """

    motion: Movement | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the motion was made up."""
        return self.motion is not None

    def frames(self, reader: FrameReader) -> Iterator[tuple[float, Frame]]:
        """Yield the frames with their times in seconds."""
        return reader.frames(self.path) if self.motion is None else self.motion.frames(self.path)


def photograph(path: Path) -> Image.Image:
    """Return the photograph that a video is made of."""
    try:
        return _tell(path, read_image(path))
    except ImageReadError as error:
        raise VideoReadError(path, error.reason) from error


def view(photo: Image.Image, top: float, left: float, height: float, *, rows: float) -> Frame:
    """Return a part of a photograph, 16 wide and 9 high, in at most 360 and at most ``rows`` rows."""
    from PIL import Image

    down = int(min(360, rows)) // 2 * 2
    across = round(down * 16 / 9) // 2 * 2
    box = left, top, min(left + height * across / down, photo.width), top + height
    return np.array(photo.resize((across, down), Image.Resampling.LANCZOS, box=box, reducing_gap=None), dtype=np.uint8)


def _views(photo: Image.Image, boxes: Sequence[tuple[float, float, float]], fps: int) -> Iterator[tuple[float, Frame]]:
    rows = min(height for _, _, height in boxes)
    for number, (top, left, height) in enumerate(boxes):
        yield number / fps, view(photo, top, left, height, rows=rows)


class VideoSource(Source):
    """A set of videos with a fixed split. Subclass this to train on videos from elsewhere."""

    @abstractmethod
    def videos(self, split: Split) -> list[Video]:
        """Return the videos of ``split``, always in the same order; call `prepare` before.

        Raises:
            UsageError: if the source holds no video at all.
        """

    def listed(self, split: Split) -> list[Video]:
        return self.videos(split)


@final
class FolderVideos(FolderSource[Video], VideoSource):
    """Every video below a folder; see `nuwa_lightning.data.sources.FolderSource`."""

    make = Video
    noun = "video"
    suffixes = SUFFIXES
    hint = "MP4, WebM, MKV, AVI or MOV"

    def videos(self, split: Split) -> list[Video]:
        return self.listed(split)
