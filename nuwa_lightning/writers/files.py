"""From pixels to a file: which writer, whether the name can be written to, and an output that appears whole or not."""

import glob
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from nuwa_lightning.atomic import fsync_path, short_name
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.base import ImageSource, ImageWriter, Pixels, VideoWriter, Writer, rate
from nuwa_lightning.writers.ome import OmeZarrWriter
from nuwa_lightning.writers.videos import FramesWriter, GifWriter, Mp4Writer, WebpVideoWriter
from nuwa_lightning.writers.vips import FULL, DeepZoomWriter, JpegWriter, PngWriter, TiffWriter, WebpWriter

IMAGE_WRITERS: Final[Mapping[str, type[ImageWriter]]] = {
    ".png": PngWriter,
    ".jpg": JpegWriter,
    ".jpeg": JpegWriter,
    ".tif": TiffWriter,
    ".tiff": TiffWriter,
    ".webp": WebpWriter,
    ".dzi": DeepZoomWriter,
    ".zarr": OmeZarrWriter,
}
"""Suffix, in lower case, to the writer that is taken where none is named."""

VIDEO_WRITERS: Final[Mapping[str, type[VideoWriter]]] = {
    ".mp4": Mp4Writer,
    ".gif": GifWriter,
    ".webp": WebpVideoWriter,
    ".frames": FramesWriter,
}
"""Suffix, in lower case, to the writer that is taken where none is named."""

_W = TypeVar("_W", bound=Writer)


def write_image(
    source: ImageSource,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    writer: ImageWriter | str | None = None,
) -> None:
    """Write an image to a file, in memory for a few bands of rows.

    Example:
        >>> import tempfile
        >>> class Gray:
        ...     width, height, band = 300, 200, 64
        ...     def rows(self, start, stop):
        ...         return np.full((stop - start, self.width, 3), 128, np.uint8)
        >>> path = Path(tempfile.mkdtemp()) / "gray.tif"
        >>> write_image(Gray(), path, metadata={"seed": 1})
        >>> read_metadata(path)
        {'seed': 1}

    Args:
        source: the pixels; ``rows`` is called in the caller's thread, from top to bottom, each row once.
        path: the output.
        metadata: how it was made; anything that JSON can hold.
        overwrite: replace an output of this program that is there; nothing else is ever replaced.
        progress: called with the number of rows that were taken.
        writer: an object, or the class path of one that is made without arguments; by default the suffix decides.

    Raises:
        UsageError: as :func:`check_output` and :meth:`Writer.check`, and if the disk is full or fails.
    """
    path = Path(path)
    chosen = _image_writer(path, writer)
    chosen.check(path, source.width, source.height)
    with _placed(path, chosen, overwrite=overwrite) as partial:
        chosen.write(_Checked(source, progress), partial, metadata or {})


def write_video(
    frames: Iterator[Pixels],
    path: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    fps: Fraction | float,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    writer: VideoWriter | str | None = None,
) -> None:
    """Write a video to a file, in memory for a few frames.

    Args:
        frames: uint8 sRGB, ``(height, width, 3)`` each; there must be one.
        path: the output.
        width: pixels along x.
        height: pixels along y.
        fps: frames a second.
        metadata: as :func:`write_image`.
        overwrite: as :func:`write_image`.
        progress: called with the number of frames that were taken.
        writer: as :func:`write_image`.

    Raises:
        UsageError: as :func:`write_image`.
        ValueError: if there is no frame, or one has another size.
    """
    path = Path(path)
    chosen = _video_writer(path, writer)
    chosen.check(path, width, height, fps)
    checked = _checked_frames(frames, (height, width, 3), progress)
    with _placed(path, chosen, overwrite=overwrite) as partial:
        chosen.write(checked, partial, metadata or {}, fps=rate(fps))


def check_output(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    option: str = "output",
    video: bool = False,
    writer: Writer | str | None = None,
) -> None:
    """Refuse a name that nothing could be written to, before any work is done.

    Args:
        path: the file to make.
        overwrite: whether an output of this program may be there; anything else is refused in any case.
        option: the option to name in an error.
        video: whether it is to hold a video, not an image.
        writer: as :func:`write_image`.

    Raises:
        UsageError: if the suffix is unknown, the name cannot be one, the folder is missing or read-only, or something
            is there that may not be replaced.
    """
    path = Path(path)
    chosen = _video_writer(path, writer, option) if video else _image_writer(path, writer, option)
    try:
        folder, found = path.parent.is_dir(), [name for name in (path, *chosen.companions(path)) if _there(name)]
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise UsageError(option, path, f"cannot be a file's name ({_reason(error)}): give another one") from error
    if not folder:
        raise UsageError(option, path, f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(option, path, f"the folder {path.parent} cannot be written to: choose another one")
    if path.exists() and (not path.is_dir() if chosen.folder else not path.is_file()):
        there = "folder" if path.is_dir() else "file" if path.is_file() else "device"
        needed = "folder" if chosen.folder else "file"
        raise UsageError(option, path, f"is a {there}, and {chosen.format_name} makes a {needed}: give another name")
    if found and not overwrite:
        raise UsageError(option, found[0], "exists already: give another name, or allow to overwrite it")
    if any(_holds_something(name) for name in found) and not _is_ours(path, chosen):
        hint = "was not made by this program and is never replaced: give another name, or move it away"
        raise UsageError(option, found[0], hint)


def check_format(
    path: str | os.PathLike[str],
    width: int | None,
    height: int | None,
    *,
    fps: Fraction | float | None = None,
    writer: Writer | str | None = None,
) -> None:
    """Refuse a size or a speed that the format of ``path`` cannot hold, before any work is done.

    Args:
        path: the file to make.
        width: pixels along x; None where it is not known yet.
        height: pixels along y; None where it is not known yet.
        fps: frames a second of a video; None for an image.
        writer: as :func:`write_image`.

    Raises:
        UsageError: naming the size or the speed.
    """
    path = Path(path)
    if fps is None:
        _image_writer(path, writer).check(path, width, height)
    else:
        _video_writer(path, writer).check(path, width, height, fps)


def read_metadata(path: str | os.PathLike[str], *, writer: Writer | str | None = None) -> dict[str, Any]:
    """Return the metadata that were stored with an output; empty for a file that holds none of ours.

    Only headers are read, so a file of any size will do; no pixel is decoded.

    Args:
        path: an image or a video.
        writer: as :func:`write_image`.

    Raises:
        UsageError: if the file cannot be read, or is none that a writer makes.
    """
    path = Path(path)
    known: Mapping[str, type[Writer]] = {**VIDEO_WRITERS, **IMAGE_WRITERS}  # .webp holds them alike in both
    chosen = _made(writer) if writer is not None else _by_suffix(path, known, "image")()
    try:
        # Killed between two renames, a writer leaves only what lies beside its file.
        beside = chosen.companions(path) if isinstance(chosen, Writer) else []
        if not (path.is_file() or path.is_dir() or any(map(_there, beside))):
            path.stat()
            raise OSError("a pipe, a socket or a device, no file")
        return (chosen.read_metadata(path) if isinstance(chosen, Writer) else None) or {}
    except Exception as error:  # of libraries that parse what anybody may have written
        raise UsageError("image", path, f"cannot be read ({_reason(error)}): name another file") from error


def _image_writer(path: Path, writer: object, option: str = "output") -> ImageWriter:
    made: ImageWriter = _writer(path, writer, IMAGE_WRITERS, ImageWriter, "images", option)
    return made


def _video_writer(path: Path, writer: object, option: str = "output") -> VideoWriter:
    made: VideoWriter = _writer(path, writer, VIDEO_WRITERS, VideoWriter, "videos", option)
    return made


def _writer(path: Path, writer: object, known: Mapping[str, type[_W]], kind: type[Any], of: str, option: str) -> Any:
    made = _made(writer) if writer is not None else _by_suffix(path, known, option)()
    if not isinstance(made, kind):
        raise UsageError("writer", writer, f"is no writer of {of}: subclass nuwa_lightning.writers.{kind.__name__}")
    return made


def _by_suffix(path: Path, known: Mapping[str, type[_W]], option: str) -> type[_W]:
    found = known.get(path.suffix.lower())
    if found is None:
        raise UsageError(option, path, f"the name must end in one of {', '.join(known)}")
    return found


def _made(writer: object) -> object:
    """Return the object that was given, or one of the class that its path names."""
    if not isinstance(writer, str):
        return writer
    module, _, name = writer.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError("writer", writer, f"cannot be made ({error}): name a class as module.Class") from error


def _there(path: Path) -> bool:
    """As ``Path.exists``, which says no where it should say that there can be no such name."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0


def _is_ours(path: Path, writer: Writer) -> bool:
    try:
        return writer.read_metadata(path) is not None
    except Exception:  # a file that its format's library cannot read is certainly somebody else's
        return False


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


@contextmanager
def _placed(path: Path, writer: Writer, *, overwrite: bool) -> Iterator[Path]:
    """Yield a free name in a hidden folder beside ``path``; what was made there is moved to its place in the end."""
    video = isinstance(writer, VideoWriter)
    check_output(path, overwrite=overwrite, video=video, writer=writer)
    target = Path(os.path.realpath(path))
    try:
        folder = Path(tempfile.mkdtemp(prefix=_hidden(target), suffix=".partial", dir=target.parent))
        try:
            yield folder / target.name
            for found in [*folder.rglob("*"), folder]:
                fsync_path(found)
            check_output(path, overwrite=overwrite, video=video, writer=writer)  # much may have happened since
            for place in (*writer.companions(target), target):
                _move(folder / place.name, place)
            fsync_path(target.parent)
        finally:
            _remove(folder)
    except OSError as error:
        way_out = "free space there or name another file" if error.errno in FULL else "name another file"
        hint = f"cannot be written ({_reason(error)}): {way_out}"
        raise UsageError("output", path, hint) from error


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left beside an output that they were writing; none may be writing it now."""
    target = Path(os.path.realpath(path))
    for found in target.parent.glob(f"{glob.escape(_hidden(target))}*.partial"):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)


def _hidden(target: Path) -> str:
    """Return how the hidden folders begin in which an output is made; long names are told apart by their hash."""
    return f".{short_name(target.name)}-"


def _remove(folder: Path) -> None:
    """Remove a folder in which threads of a library that has failed may still be writing."""
    for _ in range(250):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


def _move(made: Path, place: Path) -> None:
    """Rename what was made; a folder cannot be renamed over another one, so that one goes aside first."""
    if not place.is_dir():
        os.replace(made, place)
        return
    aside = made.with_name(f"{made.name}.old")
    os.replace(place, aside)
    try:
        os.replace(made, place)
    except BaseException:
        os.replace(aside, place)
        raise


class _Checked:
    """A source whose rows are as they should be, and counted."""

    def __init__(self, source: ImageSource, progress: Callable[[int], None] | None) -> None:
        self.width, self.height, self.band = source.width, source.height, source.band
        self._source, self._progress = source, progress

    def rows(self, start: int, stop: int) -> Pixels:
        try:
            pixels_YX3 = _checked(self._source.rows(start, stop), (stop - start, self.width, 3))
        except OSError as error:  # not to be told as one of the output
            raise RuntimeError(f"rows {start} to {stop} cannot be read ({_reason(error)})") from error
        if self._progress is not None:
            self._progress(stop)
        return pixels_YX3


def _checked(pixels_YX3: Pixels, shape: tuple[int, ...]) -> Pixels:
    if pixels_YX3.dtype != np.uint8 or pixels_YX3.shape != shape:
        raise ValueError(f"expected uint8 {shape}, got {pixels_YX3.dtype} {pixels_YX3.shape}")
    return np.ascontiguousarray(pixels_YX3)


def _checked_frames(
    frames: Iterator[Pixels], shape: tuple[int, ...], progress: Callable[[int], None] | None
) -> Iterator[Pixels]:
    number = 0
    for number, frame_YX3 in enumerate(frames, start=1):
        yield _checked(frame_YX3, shape)
        if progress is not None:
            progress(number)
    if not number:
        raise ValueError("a video needs at least one frame")
