"""Which writer for which name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.base import CanvasWriter
from nuwa_lightning.writers.deep_zoom import DeepZoomWriter, tiles_folder
from nuwa_lightning.writers.frames import FramesWriter
from nuwa_lightning.writers.gif import GifWriter
from nuwa_lightning.writers.jpeg import JpegWriter
from nuwa_lightning.writers.mp4 import Mp4Writer
from nuwa_lightning.writers.ome_zarr import OmeZarrWriter
from nuwa_lightning.writers.output import Output
from nuwa_lightning.writers.png import PngWriter
from nuwa_lightning.writers.tiff import TiffWriter
from nuwa_lightning.writers.video import VideoWriter
from nuwa_lightning.writers.webp import WebpWriter

WRITERS: Mapping[str, type[CanvasWriter]] = {
    ".png": PngWriter,
    ".jpg": JpegWriter,
    ".jpeg": JpegWriter,
    ".tif": TiffWriter,
    ".tiff": TiffWriter,
    ".zarr": OmeZarrWriter,
    ".dzi": DeepZoomWriter,
}
"""Suffix, in lower case, to writer of images."""

VIDEO_WRITERS: Mapping[str, type[VideoWriter]] = {
    ".mp4": Mp4Writer,
    ".gif": GifWriter,
    ".webp": WebpWriter,
    ".frames": FramesWriter,
}
"""Suffix, in lower case, to writer of videos."""


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, option: str = "--output", video: bool = False
) -> None:
    """Refuse a name that nothing could be written to, before any work is done.

    Args:
        path: the file to make.
        overwrite: whether it may be there.
        option: the option to name in an error.
        video: whether it is to hold a video, not an image.

    Raises:
        UsageError: if the suffix is unknown, the folder is missing or read-only, something else is there, or it is
            there and ``overwrite`` is false.
    """
    path = Path(path)
    writers: Mapping[str, type[Output]] = VIDEO_WRITERS if video else WRITERS
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise UsageError(option, str(path), f"the name must end in one of {', '.join(writers)}")
    if not path.parent.is_dir():
        raise UsageError(option, str(path), f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(option, str(path), f"the folder {path.parent} cannot be written to: choose another one")
    if path.exists() and path.is_dir() != writer.folder:
        there, needed = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise UsageError(option, str(path), f"is a {there}, and {path.suffix} makes a {needed}: give another name")
    for found in (path, tiles_folder(path)) if writer is DeepZoomWriter else (path,):
        if found.exists() and not overwrite:
            raise UsageError(option, str(found), "exists already: give another name, or --overwrite")


def check_format(
    path: str | os.PathLike[str], width: int | None, height: int | None, *, fps: Fraction | float | None = None
) -> None:
    """Refuse a size or a speed that the format of ``path`` cannot hold, before any work is done.

    Args:
        path: the file to make; its suffix is a known one.
        width: pixels along x; None is endless.
        height: pixels along y; None is endless.
        fps: frames a second of a video; None for an image.

    Raises:
        UsageError: naming the size or the speed.
    """
    suffix = Path(path).suffix.lower()
    if fps is None:
        WRITERS[suffix].check_size(path, width, height)
    elif width is not None and height is not None:
        VIDEO_WRITERS[suffix].check(path, width, height, fps=fps)


def open_writer(
    path: str | os.PathLike[str],
    width: int | None,
    height: int | None,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    keep: bool = False,
    state: Mapping[str, Any] | None = None,
    option: str = "--output",
) -> CanvasWriter:
    """Open the writer that the suffix of ``path`` names.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> name = Path(tempfile.mkdtemp()) / "wide.png"
        >>> with open_writer(name, width=300, height=2, metadata={"seed": 1}) as writer:
        ...     writer.write(np.full((2, 100, 3), 255, np.uint8), y=0, x=200)
        >>> from nuwa_lightning.writers import read_metadata
        >>> read_metadata(name)
        {'seed': 1}

    Args:
        path: the file to make.
        width: pixels along x; None is endless.
        height: pixels along y; None is endless.
        metadata: how the image was made; anything that JSON can hold.
        overwrite: replace a file that is there.
        keep: leave the unfinished file for a later writer with ``state`` when an error ends the ``with`` block.
        state: what the writer's ``state()`` returned in an earlier run: go on from there.
        option: the option to name in an error.

    Raises:
        UsageError: as :func:`check_output`, and if the size is not one that the format can hold.
    """
    check_output(path, overwrite=overwrite, option=option)
    return WRITERS[Path(path).suffix.lower()](path, width, height, metadata=metadata, keep=keep, state=state)


def open_video_writer(
    path: str | os.PathLike[str],
    width: int,
    height: int,
    *,
    fps: Fraction | float = 8,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    keep: bool = False,
    state: Mapping[str, Any] | None = None,
    option: str = "--output",
) -> VideoWriter:
    """Open the writer of videos that the suffix of ``path`` names.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> name = Path(tempfile.mkdtemp()) / "grey.gif"
        >>> with open_video_writer(name, width=32, height=16, fps=10, metadata={"seed": 1}) as writer:
        ...     for level in range(0, 250, 50):
        ...         writer.append(np.full((16, 32, 3), level, np.uint8))
        >>> from nuwa_lightning.writers import read_metadata
        >>> read_metadata(name)
        {'seed': 1}

    Args:
        path: the file to make.
        width: pixels along x.
        height: pixels along y.
        fps: frames a second.
        metadata: how the video was made; anything that JSON can hold.
        overwrite: replace a file that is there.
        keep: leave the unfinished file for a later writer with ``state`` when an error ends the ``with`` block.
        state: what the writer's ``state()`` returned in an earlier run: go on from there.
        option: the option to name in an error.

    Raises:
        UsageError: as :func:`check_output`, and if the size or the speed is not one that the format can hold.
    """
    check_output(path, overwrite=overwrite, option=option, video=True)
    writer = VIDEO_WRITERS[Path(path).suffix.lower()]
    return writer(path, width, height, fps=fps, metadata=metadata, keep=keep, state=state)
