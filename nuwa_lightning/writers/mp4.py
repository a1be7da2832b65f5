"""MP4 with H.264 by PyAV, in segments, so that a killed process can be gone on from with the same bits (ours).

An encoder's inside cannot be saved. So the video is cut into segments of equal length, each encoded by an encoder of
its own: raw frames gather in a file until a segment is full, and in the end the segments are joined, packet by packet,
without encoding again. Memory holds one frame and what the encoder looks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.appended import AppendedFile
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.video import VideoWriter

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

SEGMENT = 48
"""Frames in a segment."""
# One thread: with several the bits depend on how many there are. No macroblock tree: x264's vectorised one reads memory
# that nobody wrote where a frame is few blocks wide, and in one process of twenty a frame got other bits for it.
_OPTIONS = {"crf": "17", "preset": "medium", "threads": "1", "mbtree": "0"}
_BT709 = 1
_LIMITED_RANGE = 1


class Mp4Writer(VideoWriter):
    """Writes H.264 (4:2:0, BT.709, constant quality 17) in MP4; ``metadata`` becomes the comment.

    Needs PyAV, the extra ``video``.
    """

    multiple = 2
    format_name = "MP4"
    longest_side = 16384
    fastest = 300

    def _start(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        try:
            import av  # noqa: F401
        except ImportError as error:
            hint = "MP4 needs PyAV: pip install 'nuwa-lightning[video]', or name a .gif, .webp or .frames"
            raise UsageError("--output", self.path, hint) from error
        self._raw: AppendedFile | None = None
        self._forced = self.frames
        self._dropped = 0
        self._packed: list[Path] = []
        if self.frames % SEGMENT:
            # A killed process may have packed this segment already; its frames are kept as long as it may be gone back.
            self._raw = AppendedFile(self._raw_path(self.frames // SEGMENT), self.frames % SEGMENT * self._frame_bytes)

    @property
    def _frame_bytes(self) -> int:
        return 3 * self.width * self.height

    def _raw_path(self, segment: int) -> Path:
        return self._file.beside(f"{segment}.raw")

    def _segment_path(self, segment: int) -> Path:
        return self._file.beside(f"{segment}.mp4")

    def _append(self, frame_YX3: Pixels) -> None:
        segment, place = divmod(self.frames, SEGMENT)
        if self._raw is None:
            self._raw_path(segment).write_bytes(b"")
            self._raw = AppendedFile(self._raw_path(segment))
        self._raw.append(frame_YX3.tobytes())
        if place == SEGMENT - 1:
            self._pack(segment)

    def _pack(self, segment: int) -> None:
        """Encode the frames that have gathered."""
        import av

        if self._raw is None:
            return
        self._raw.close()
        self._raw = None
        path = self._segment_path(segment)
        self._packed.append(path)
        with _plain_errors(), av.open(str(path), "w", format="mp4") as container:
            stream = self._stream(container)
            for frame_YX3 in self._frames_of(segment):
                frame = av.VideoFrame.from_ndarray(frame_YX3, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    def _stream(self, container: OutputContainer) -> VideoStream:
        stream = container.add_stream("libx264", rate=self.fps, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        context = stream.codec_context
        context.color_range = _LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        return stream

    def _frames_of(self, segment: int) -> Iterator[Pixels]:
        with self._raw_path(segment).open("rb") as file:
            while data := file.read(self._frame_bytes):
                yield np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)

    def _force(self) -> Mapping[str, Any]:
        for path in self._packed:
            fsync_path(path)
        self._packed = []
        if self._raw is not None:
            self._raw.force()
        fsync_path(self._file.path.parent)
        # Nobody goes back to before the state before this one: frames of segments that were full then may go.
        for segment in range(self._dropped, self._forced // SEGMENT):
            self._raw_path(segment).unlink(missing_ok=True)
            self._dropped = segment
        self._forced = self.frames
        return {}

    def _end(self) -> None:
        import av

        segments = -(-self.frames // SEGMENT)
        self._pack(segments - 1)
        options = {"movflags": "faststart"}
        with _plain_errors(), av.open(str(self._file.path), "w", format="mp4", options=options) as container:
            container.metadata["comment"] = self.description
            stream, first, number = None, 0, 0
            for segment in range(segments):
                with av.open(str(self._segment_path(segment)), format="mp4") as found:
                    source = found.streams.video[0]
                    stream = stream or container.add_stream_from_template(source)
                    assert source.time_base is not None
                    tick = round(1 / self.fps / source.time_base)
                    for packet in found.demux(source):
                        if packet.pts is None or packet.dts is None:  # the empty one at the end
                            continue
                        first = packet.dts if number == 0 else first
                        # Counted anew, since the encoder of a short last segment reorders less and so begins later.
                        packet.dts = first + number * tick
                        packet.pts, packet.duration = packet.pts + segment * SEGMENT * tick, tick
                        packet.stream = stream
                        container.mux(packet)
                        number += 1

    def _release(self) -> None:
        if self._raw is not None:
            self._raw.close()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Tell PyAV's errors, of which not all are operating system errors, as such."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
