"""Reading videos from files that nobody vouched for: every frame with its time, or one clear error."""

import importlib.util
import logging
import math
import re
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from nuwa_lightning.data.folders import natural_key, own_kind, regular_stat
from nuwa_lightning.data.reading import (
    MAX_PIXELS,
    ImageReadError,
    MediaReadError,
    NotesLog,
    as_srgb,
    check_size,
    list_images,
    read_image,
)
from nuwa_lightning.data.tones import SHALLOWER, settle
from nuwa_lightning.errors import UsageError

# Legend: Y, X pixels along the axes, 3 colours.

_ZEROS: Final = re.compile(rb"\x00\x00[\x00-\x02]")
_ZEROS_BETWEEN: Final = re.compile(rb"\x00\x00(?:\x00+[^\x00\x01]|\x02)")
"""Where units are told apart by 0, 0, 1, any number of zeros may stand before that."""
_PADDING: Final = 8
"""Some tools leave zeros at the end of a unit; what is lost is longer."""


def length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """Return how many bytes tell the length of a unit; 0 where start codes part units, None if the codec has none."""
    said = extradata or b""
    if codec == "h264":
        return (said[4] & 3) + 1 if len(said) > 6 and said[0] == 1 else 0
    if codec == "hevc":
        # A stream with start codes begins 0, 0, 1 or 0, 0, 0, 1.
        return (said[21] & 3) + 1 if len(said) > 22 and (said[0] or said[1] or said[2] > 1) else 0
    return None


def find_damage(packet: bytes, lengths: int) -> str | None:
    """Return what is wrong with a packet of H.264 or HEVC, which decoders paint over without a word, or None.

    A stretch of a file that was never written, or lost, reads as zeros. These codecs escape zeros: within a unit of
    theirs (NAL; H.264 7.4.1, HEVC 7.4.2) the bytes 0, 0 are never followed by 0, 1 or 2. So such a stretch is found
    without decoding, as is a unit whose length cannot be.
    """
    if lengths == 0:
        return "a stretch of zeros" if _ZEROS_BETWEEN.search(packet) else None
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + lengths], "big")
        at += lengths
        if not 0 < size <= len(packet) - at:
            return f"a unit of {size} bytes where {max(0, len(packet) - at)} are left"
        unit = packet[at : at + size]
        kept = unit.rstrip(b"\0")
        if _ZEROS.search(kept) or len(unit) - len(kept) > _PADDING:
            return "a stretch of zeros"
        at += size
    return None


Frame = npt.NDArray[np.uint8]
"""uint8 RGB, (Y, X, 3)."""

ReaderName = Literal["pyav", "torchcodec"]

SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv", ".ts", ".wmv", ".flv", ".3gp"}
)
"""File name endings, in lower case, that a folder is searched for."""

ANIMATIONS: Final = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""File name endings of moving images, and what Pillow calls their formats."""

_MOVING: Final = SUFFIXES | ANIMATIONS.keys()
_LOG = logging.getLogger(__name__)

_EXTRA: Final = "pip install 'nuwa-lightning[video]'"


class VideoReadError(MediaReadError):
    """A file is not a video that can be read."""

    kind = "video"


class FrameReader(Protocol):
    """Decodes videos."""

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """Yield every frame with its time in seconds from the first one, in the order of showing.

        Frames are upright, of square pixels, and over white where they are transparent.
        """


@final
class PyAvReader:
    """Decodes by PyAV, in one thread, and turns or mirrors videos as the file says.

    Of damage, lost stretches are always found in H.264 and HEVC (`nuwa_lightning.data.video_reading`), and elsewhere
    what the decoder notices.

    Args:
        max_pixels: refuse videos whose frames have more, before any is decoded.
        tell: logs what is not read as it is meant to be shown; by default once for each kind.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS, tell: NotesLog | None = None) -> None:
        self._max_pixels, self._tell = max_pixels, tell or NotesLog()
        if importlib.util.find_spec("av") is None:
            raise UsageError("data.reader", "pyav", f"PyAV is not installed: {_EXTRA}")

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """See `FrameReader.frames`."""
        with _opened(path) as (container, stream):
            width = max(stream.width, _square(stream.width, stream))
            _check_frame(path, (width, stream.height), self._max_pixels)
            yield from _in_time(path, self._decoded(path, container, stream))

    def _decoded(self, path: Path, container: Any, stream: Any) -> Iterator[tuple[float | None, Frame]]:
        stream.thread_type = "NONE"
        # Without this a decoder paints over what it notices and says nothing.
        stream.codec_context.options = {"err_detect": "explode"}
        # AVI tells when a frame is decoded, not when it is shown: frames come in the order of showing, times in theirs.
        in_order = container.format.name == "avi"
        times: deque[float] = deque()
        told = False
        for packet in _whole_packets(path, container, stream):
            if in_order and packet.size and packet.dts is not None:
                times.append(float(packet.dts * packet.time_base))
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise VideoReadError(path, "a frame is damaged")
                if not told:
                    self._tell.say(path, list(_notes(frame, stream)))
                    told = True
                time = times.popleft() if times else frame.time
                yield time, _upright(path, frame, _pixels(frame, stream))


@final
class TorchcodecReader:
    """Decodes by torchcodec, where it is installed.

    It paints over damage, so PyAV looks through the compressed data first, and finds lost stretches in H.264 and HEVC.
    What is turned, mirrored, transparent or of pixels that are not square is left to PyAV.
    """

    def __init__(self) -> None:
        self._tell = NotesLog()
        if importlib.util.find_spec("torchcodec") is None:
            raise UsageError("data.reader", "torchcodec", "torchcodec is not installed: install it, or use pyav")
        if importlib.util.find_spec("av") is None:
            hint = f"needs PyAV, too, which looks for damage: {_EXTRA}"
            raise UsageError("data.reader", "torchcodec", hint)

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """See `FrameReader.frames`."""
        first = None
        with _opened(path) as (container, stream):
            for packet in _whole_packets(path, container, stream):
                first = first or next(iter(packet.decode()), None)
            plain = first is None or _is_plain(first, stream)
            if plain and first is not None:
                self._tell.say(path, list(_notes(first, stream)))
        if not plain:
            yield from PyAvReader(tell=self._tell).frames(path)
            return
        from torchcodec.decoders import VideoDecoder

        try:
            decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
            found = (decoder.get_frame_at(place) for place in range(len(decoder)))
            yield from _in_time(path, ((frame.pts_seconds, frame.data.numpy()) for frame in found))
        except VideoReadError:
            raise
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise VideoReadError(path, f"damaged or no video: {str(error).splitlines()[0]}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield a video and its video stream; what fails within is told in one line."""
    import av
    from av.error import FFmpegError

    try:
        regular_stat(path)
        # What a playlist names elsewhere is not fetched.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.best("video")  # a cover may come before it
            if stream is None:
                raise VideoReadError(path, "it holds no video stream")
            if stream.codec_context is None:
                raise VideoReadError(path, "its video is of a kind that no decoder here reads")
            yield container, stream
    except VideoReadError:
        raise
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        said = error.strerror if isinstance(error, (FFmpegError, OSError)) and error.strerror else str(error)
        raise VideoReadError(path, f"damaged or no video: {said}") from error


def _whole_packets(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, each looked through before it is decoded."""
    context = stream.codec_context
    lengths = length_bytes(context.name, context.extradata)
    for packet in container.demux(stream):
        wrong = None if lengths is None else find_damage(bytes(packet), lengths)
        if wrong is not None:
            raise VideoReadError(path, f"damaged: {wrong}")
        yield packet


_UNTOLD: Final = 2
_TRANSFERS: Final = {8: "linear", 16: "PQ", 18: "HLG"}
_PRIMARIES: Final = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Codes of ITU-T H.273 for colors that do not look nearly the same when they are taken for sRGB."""


def _notes(frame: Any, stream: Any) -> Iterator[str]:
    """Yield what of a video is not read as it is meant to be shown."""
    if max((part.bits for part in frame.format.components), default=8) > 8:
        yield SHALLOWER
    for code, names in ((frame.color_trc, _TRANSFERS), (frame.color_primaries, _PRIMARIES)):
        if code in names:
            yield f"its colors ({names[code]}) are taken as they are"
    if frame.colorspace == _UNTOLD and frame.height >= 720 and not frame.format.is_rgb:
        yield "which colors it means is not told: BT.601 is taken, not BT.709"
    if frame.interlaced_frame:
        yield "it is coded as interlaced: every other row of a frame may be of another moment"
    if stream.metadata.get("alpha_mode") == "1" and not _lets_through(frame):
        yield "its transparency is not read"
    try:
        len(frame.side_data)
    except ValueError:  # something that PyAV does not know
        yield "whether it is mirrored is not known"


def _lets_through(frame: Any) -> bool:
    return any(part.is_alpha for part in frame.format.components)


def _square(width: int, stream: Any) -> int:
    """Return how many columns a frame has once its pixels are square; rows stay. 1 % is not worth a change."""
    square = max(1, round(width * (stream.sample_aspect_ratio or 1)))
    return square if abs(square - width) > width / 100 else width


def _pixels(frame: Any, stream: Any) -> Frame:
    width = _square(frame.width, stream)
    scaled = {} if width == frame.width else {"width": width, "interpolation": "LANCZOS"}
    if _lets_through(frame):
        return np.asarray(as_srgb(Image.fromarray(frame.to_ndarray(format="rgba", **scaled))))
    pixels_YX3: Frame = frame.to_ndarray(format="rgb24", **scaled)
    return pixels_YX3


def _matrix(frame: Any) -> tuple[float, float, float, float]:
    """Return a, b, c, d of a frame whose point (x, y) is shown at (a x + c y, b x + d y)."""
    try:
        told = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # see `_notes`
        turn = math.radians(frame.rotation)
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    a, b, _, c, d = struct.unpack("=5i", bytes(told)[:20]) if told is not None else (1, 0, 0, 0, 1)
    return a, b, c, d


def _is_plain(frame: Any, stream: Any) -> bool:
    a, b, c, d = _matrix(frame)
    turned = b or c or a < 0 or d < 0
    return not (turned or _lets_through(frame) or _square(frame.width, stream) != frame.width)


def _upright(path: Path, frame: Any, pixels_YX3: Frame) -> Frame:
    """Return the pixels as the frame's matrix has them shown, in any of the eight ways that EXIF has, too."""
    a, b, c, d = _matrix(frame)
    straight, across = abs(a) + abs(d), abs(b) + abs(c)
    if 100 * min(straight, across) > max(straight, across):
        raise VideoReadError(path, "it is to be shown at a slant, which is not read")
    if across > straight:
        pixels_YX3, a, d = pixels_YX3.swapaxes(0, 1), c, b
    return pixels_YX3[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def list_clips(folder: Path) -> list[Path]:
    """Return what lies in a folder and moves, by name: videos, animations, and sub-folders of frames."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    names = [path.name for path in paths]
    own = {path: kind for path in paths if (kind := own_kind(path.name, names)) not in (None, ".frames")}
    if left_out := [path.name for path, kind in own.items() if kind in (".zarr", ".canvas")]:
        _LOG.warning("%s: not read: %s", folder, ", ".join(left_out))
    others = (path for path in paths if path not in own)
    return [path for path in others if (list_images(path) if path.is_dir() else path.suffix.lower() in _MOVING)]


def clip_files(clip: Path) -> list[Path]:
    """Return the files of a clip that `list_clips` found: one, or the frames in the order of their numbers."""
    return sorted(list_images(clip), key=natural_key) if clip.is_dir() else [clip]


def read_clip(clip: Path, *, max_pixels: int = MAX_PIXELS, tell: NotesLog | None = None) -> Iterator[Frame]:
    """Yield the frames of a clip that `list_clips` found, in the order of showing; videos are read by PyAV.

    Args:
        clip: the video, animation or folder of frames.
        max_pixels: refuse frames of more pixels, before they are decoded.
        tell: logs what reading changes; by default once for each kind.

    Raises:
        VideoReadError: if it cannot be read.
    """
    tell = tell or NotesLog()
    if clip.is_dir():
        for file in clip_files(clip):
            try:
                yield np.array(tell(file, read_image(file, max_pixels=max_pixels)), np.uint8)
            except ImageReadError as error:
                reason = f"{file.name}: {error.reason}"
                raise VideoReadError(clip, reason, over_limit=error.over_limit) from error
    elif (form := ANIMATIONS.get(clip.suffix.lower())) is not None:
        try:
            with Image.open(clip, formats=[form]) as animation:
                _check_frame(clip, animation.size, max_pixels)
                settle(animation)
                for frame in ImageSequence.Iterator(animation):
                    yield np.array(tell(clip, as_srgb(frame)), np.uint8)
        except VideoReadError:
            raise
        except (OSError, ValueError, SyntaxError) as error:
            raise VideoReadError(clip, " ".join(str(error).split())) from error
    else:
        yield from (frame_YX3 for _, frame_YX3 in PyAvReader(max_pixels=max_pixels, tell=tell).frames(clip))


def _check_frame(clip: Path, size: tuple[int, int], max_pixels: int) -> None:
    try:
        check_size(clip, size, max_pixels)
    except ImageReadError as error:
        raise VideoReadError(clip, error.reason, hint=error.hint, over_limit=True) from None


def make_reader(name: ReaderName) -> FrameReader:
    """Return the reader of that name."""
    if name == "pyav":
        return PyAvReader()
    if name == "torchcodec":
        return TorchcodecReader()
    raise UsageError("data.reader", name, "choose pyav or torchcodec")


def _in_time(path: Path, decoded: Iterator[tuple[float | None, Frame]]) -> Iterator[tuple[float, Frame]]:
    """Yield frames whose times count from 0 and grow; refuse a change of size."""
    first, last, shape = 0.0, -1.0, (0, 0, 0)
    for number, (time, frame_YX3) in enumerate(decoded):
        if time is None:
            raise VideoReadError(path, "a frame has no time")
        if number == 0:
            first, shape = time, frame_YX3.shape
        if frame_YX3.shape != shape:
            sizes = " to ".join(f"{s[1]}x{s[0]}" for s in (shape, frame_YX3.shape))
            raise VideoReadError(path, f"its frames change their size from {sizes}")
        if time - first <= last:
            raise VideoReadError(path, f"times run backwards at frame {number}")
        last = time - first
        yield last, frame_YX3
