"""What a writer is: it takes the pixels of a finished image band by band, or of a video frame by frame."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_json

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
    lossless: ClassVar[bool] = True
    """Whether the output gives every pixel back as it was."""
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
        found = parse_json(text) if isinstance(text, str | bytes) and text else None
    except ValueError:
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
