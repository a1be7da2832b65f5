"""MP4 by PyAV, GIF and frames by Pillow, WebP by Pillow one frame at a time; none holds more than a few frames."""

import io
import json
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import read_json
from nuwa_lightning.writers.base import MARKER, Pixels, VideoWriter, packed, unpacked
from nuwa_lightning.writers.vips import IMAGE_DESCRIPTION, webp_metadata

_LIMITED_RANGE = _BT709 = 1
# One thread: with several the bits depend on how many there are. No macroblock tree: x264's vectorized one reads memory
# that nobody wrote where a frame is few blocks wide, so that one run in twenty gets other bits.
_X264 = {"crf": "17", "preset": "medium", "threads": "1", "mbtree": "0"}
ABOUT = "video.json"
"""The file beside the frames: frames a second, how many, and the metadata."""


class Mp4Writer(VideoWriter):
    """H.264 (4:2:0, BT.709, constant quality 17) in MP4; the metadata are the comment. Needs the extra ``video``."""

    format_name = "MP4"
    lossless = False
    longest_side = 16384
    multiple = 2
    fastest = 300

    def write(self, frames: Iterator[Pixels], path: Path, metadata: Mapping[str, Any], *, fps: Fraction) -> None:
        try:
            import av
        except ImportError as error:
            hint = "MP4 needs PyAV: pip install 'nuwa-lightning[video]', or name a .gif, .webp or .frames"
            raise UsageError("output", path.name, hint) from error
        first_YX3 = next(frames)
        try:
            with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
                container.metadata["comment"] = packed(metadata)
                stream = container.add_stream("libx264", rate=fps, options=_X264)
                stream.height, stream.width, stream.pix_fmt = *first_YX3.shape[:2], "yuv420p"
                context = stream.codec_context
                context.color_range = _LIMITED_RANGE
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                for frame_YX3 in chain([first_YX3], frames):
                    frame = av.VideoFrame.from_ndarray(frame_YX3, format="rgb24")
                    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:  # not all of them are errors of the operating system
            raise OSError(error.errno, error.strerror) from error

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of the comment."""
        import av

        with av.open(str(path), format="mp4") as container:
            return unpacked(container.metadata.get("comment"))


class GifWriter(VideoWriter):
    """GIF with 256 colors a frame, dithered, looping for ever; the metadata are the comment."""

    format_name = "GIF"
    lossless = False
    longest_side = 65535
    fastest = 50

    def write(self, frames: Iterator[Pixels], path: Path, metadata: Mapping[str, Any], *, fps: Fraction) -> None:
        from PIL.GifImagePlugin import getdata, getheader

        with path.open("xb") as file:
            for number, frame_YX3 in enumerate(frames):
                image = Image.fromarray(frame_YX3)
                image = image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
                if number == 0:
                    info = {"loop": 0, "comment": packed(metadata), "duration": 1}
                    file.writelines(getheader(image.copy(), info=info)[0])
                milliseconds = 10 * ticks(number, fps, 100)
                blocks = getdata(image, duration=milliseconds, include_color_table=True)
                file.writelines(blocks)
                blocks.clear()  # they hang on a class, which lives until the next collection of garbage
            file.write(b";")

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of the comment, by Pillow."""
        from PIL.GifImagePlugin import GifImageFile

        with GifImageFile(path) as image:
            return unpacked(image.info.get("comment"))


class WebpVideoWriter(VideoWriter):
    """Lossy WebP, looping for ever; the metadata are the EXIF field ``ImageDescription``.

    libwebp's own encoder of animations holds all of it in memory. So each frame is packed by Pillow, and its chunk is
    appended (RFC 9649).

    Args:
        quality: from 1 to 100.
    """

    format_name = "WebP"
    lossless = False
    longest_side = 16383
    fastest = 1000
    _longest_file = 2**32 - 2

    def __init__(self, quality: int = 90) -> None:
        self.quality = quality

    def write(self, frames: Iterator[Pixels], path: Path, metadata: Mapping[str, Any], *, fps: Fraction) -> None:
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = packed(metadata)
        end = _chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0"))
        with path.open("xb") as file:
            for number, frame_YX3 in enumerate(frames):
                out = io.BytesIO()
                Image.fromarray(frame_YX3).save(out, format="WEBP", quality=self.quality, method=4)
                size = b"".join(_three(side - 1) for side in frame_YX3.shape[1::-1])
                if number == 0:
                    animated, has_exif = 0x02, 0x08
                    file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", bytes([animated | has_exif, 0, 0, 0]) + size))
                    file.write(_chunk(b"ANIM", bytes(6)))  # black behind it, no end
                unblended = b"\x02"
                head = bytes(6) + size + _three(ticks(number, fps, 1000)) + unblended
                chunk = _chunk(b"ANMF", head + out.getvalue()[len(b"RIFF0000WEBP") :])
                if file.tell() + len(chunk) + len(end) > self._longest_file:
                    raise UsageError("output", path.name, f"WebP holds 4 GB, reached at frame {number}: use .mp4")
                file.write(chunk)
            file.write(end)
            length = file.tell()
            file.seek(4)
            file.write(struct.pack("<I", length - 8))

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of EXIF, by Pillow."""
        return webp_metadata(path)


class FramesWriter(VideoWriter):
    """A folder ``NAME.frames`` with ``000000.png``, ``000001.png`` and so on, and a JSON file with the metadata."""

    format_name = "PNG frames"
    longest_side = 2**31 - 1
    fastest = 1_000_000
    folder = True

    def write(self, frames: Iterator[Pixels], path: Path, metadata: Mapping[str, Any], *, fps: Fraction) -> None:
        path.mkdir()
        count = 0
        for count, frame_YX3 in enumerate(frames, start=1):
            Image.fromarray(frame_YX3).save(path / f"{count - 1:06d}.png", format="PNG")
        about = {"fps": [fps.numerator, fps.denominator], "frames": count, "metadata": dict(metadata), "by": MARKER}
        (path / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True, allow_nan=False), encoding="utf-8")

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the metadata of the JSON file."""
        found = read_json(path / ABOUT)
        ours = {"fps", "frames", "metadata"} <= found.keys() and isinstance(found["metadata"], dict)
        return found["metadata"] if ours else None


def ticks(frame: int, fps: Fraction, a_second: int) -> int:
    """Return how long a frame is shown, in whole parts of a second; over many frames the speed is exact."""
    return round((frame + 1) * a_second / fps) - round(frame * a_second / fps)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
