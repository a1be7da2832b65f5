"""Videos shrunk once to the size and the speed that training takes clips from, and cut into shots.

Decoding a video costs far more than training on it, so each is decoded once: its frames at the wanted speed lie on disk
as one plain array, which is mapped. Cuts are looked for among all frames, before any is dropped.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import content_key, locked
from nuwa_lightning.data.preparing import shrunk
from nuwa_lightning.data.sources import Prepared, Skipped
from nuwa_lightning.data.video_reading import Frame, FrameReader, VideoReadError
from nuwa_lightning.data.videos import Video
from nuwa_lightning.errors import UsageError, some_of
from nuwa_lightning.plain_data import fits, mapped_array, read_json

# Legend: T frames, Y, X pixels along the axes, 3 colours.

_SIDE: Final = 32
_BINS: Final = 16
_AROUND: Final = 6
_LEAST_CHANGE: Final = 12.0
"""Mean difference of pixels, of 255."""
_TIMES_AROUND: Final = 3.0
_LEAST_COLOUR: Final = 0.2
"""Share of the histogram that moves."""


class Thumbnail(NamedTuple):
    """What is kept of a frame to compare it with the next one."""

    pixels: npt.NDArray[np.float32]
    histogram: npt.NDArray[np.float32]


class Change(NamedTuple):
    """How far a frame is from the one before it."""

    pixels: float
    colours: float


def thumbnail(frame_YX3: Frame) -> Thumbnail:
    """Return the means of 32x32 fields (of a small frame the nearest pixels), and how often colours occur."""
    height, width = frame_YX3.shape[:2]
    rows, columns = (np.linspace(0, side, _SIDE + 1).astype(int)[:-1] for side in (height, width))
    if min(height, width) >= _SIDE:
        # A few rows of each field are enough, and much faster than all.
        thin_YX3 = frame_YX3[np.unique(np.linspace(0, height - 1, 4 * _SIDE).astype(int))].astype(np.float32)
        fields = np.linspace(0, len(thin_YX3), _SIDE + 1).astype(int)[:-1]
        sums = np.add.reduceat(np.add.reduceat(thin_YX3, fields, axis=0), columns, axis=1)
        heights = np.diff([*fields, len(thin_YX3)])[:, None, None]
        small = sums / (heights * np.diff([*columns, width])[None, :, None])
    else:
        small = frame_YX3[rows][:, columns].astype(np.float32)
    counts = [np.bincount((small[..., c].astype(int) * _BINS // 256).ravel(), minlength=_BINS) for c in range(3)]
    histogram = np.concatenate(counts).astype(np.float32) / np.float32(3 * _SIDE**2)
    return Thumbnail(small.astype(np.float32), histogram)


def change(before: Thumbnail, after: Thumbnail) -> Change:
    """Return how far two frames are apart."""
    pixels = float(np.abs(after.pixels - before.pixels).mean())
    return Change(pixels, float(np.abs(after.histogram - before.histogram).sum() / 2))


def find_cuts(changes: Sequence[Change]) -> list[int]:
    """Return the frames that begin a new shot, given how each but the first differs from the one before it (ours).

    A cut changes the image at once and in its colours; motion changes it over several frames, and a flash or a shaking
    camera moves pixels about but keeps the colours. So three things are asked of a cut: the change is large, it is
    several times as large as the changes around it, and the histogram of colours changes, too. FFmpeg's scene score
    compares with the change just before only: the first move of a shaking hand is a cut to it (docs/captions.md).
    """
    pixels = np.array([c.pixels for c in changes])
    cuts = []
    for place, found in enumerate(changes):
        if found.pixels < _LEAST_CHANGE or found.colours < _LEAST_COLOUR:
            continue
        around = np.concatenate([pixels[max(0, place - _AROUND) : place], pixels[place + 1 : place + 1 + _AROUND]])
        usual = float(np.median(around)) if len(around) else 0.0
        if found.pixels >= _TIMES_AROUND * (usual + 1):
            cuts.append(place + 1)
    return cuts


_VERSION: Final = "clips-5"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipSettings:
    """How clips are taken from videos.

    Attributes:
        fps: frames a second. Of a video that has more the nearest are taken; of one that has fewer some are repeated.
        frames: frames of a clip.
        stride: take one of so many frames at that speed.
        short_side: length of the shorter side to which videos are shrunk, in pixels; they are never enlarged.
    """

    fps: float = 8.0
    frames: int = 5
    stride: int = 1
    short_side: int = 160

    def check(self) -> None:
        """Refuse what cannot work."""
        if not 0 < self.fps <= 1000:
            raise UsageError("data.clips.fps", self.fps, "give frames a second, such as 8")
        for name, value in (("frames", self.frames), ("stride", self.stride), ("short_side", self.short_side)):
            if value < 1:
                raise UsageError(f"data.clips.{name}", value, "give 1 or more")

    @property
    def reach(self) -> int:
        """How many frames at the wanted speed a clip spans."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True)
class Shot:
    """Frames ``start`` to ``stop`` (excluded) of a video, between two cuts."""

    start: int
    stop: int


@final
@dataclass(frozen=True)
class PreparedVideo:
    """A video on disk as an array."""

    sample: Video
    file: Path
    shots: tuple[Shot, ...]

    def starts(self, reach: int) -> list[int]:
        """Return every frame at which a clip that spans ``reach`` frames may begin without meeting a cut."""
        return [start for shot in self.shots for start in range(shot.start, shot.stop - reach + 1)]

    def array(self) -> npt.NDArray[np.uint8]:
        """Return the frames (T, Y, X, 3), mapped."""
        mapped: npt.NDArray[np.uint8] = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return mapped


PreparedVideos = Prepared[PreparedVideo]
"""Videos on disk; some are left out because they have no shot as long as a clip, or are smaller than one."""


def prepare_videos(
    videos: Sequence[Video], settings: ClipSettings, *, reader: FrameReader, cache: Path, progress: bool = True
) -> PreparedVideos:
    """Decode what is not on disk yet, and return what can be used; what cannot is named and counted."""
    from tqdm.auto import tqdm

    folder = cache / _VERSION
    entries: list[PreparedVideo] = []
    skipped: list[Skipped] = []
    too_short: list[Video] = []
    with locked(folder):
        for video in tqdm(videos, desc="decoding videos", unit="video", disable=None if progress else True):
            try:
                prepared = _prepared(video, settings, reader, folder)
            except VideoReadError as error:
                _LOG.warning("skipping %s: %s", video.path, error.reason)
                skipped.append(Skipped(video.path, error.reason))
                continue
            if any(shot.stop - shot.start >= settings.reach for shot in prepared.shots):
                entries.append(prepared)
            else:
                too_short.append(video)
    if skipped:
        _LOG.warning("%d of %d videos cannot be read", len(skipped), len(videos))
    tell_left_out(len(videos), too_short, f"without {settings.reach} frames between two cuts")
    return Prepared(tuple(entries), tuple(skipped), {"too_short": tuple(too_short), "too_small": ()})


def tell_left_out(total: int, videos: Sequence[Video], what: str) -> None:
    """Say in one line how many videos are left out, and which."""
    if videos:
        named = some_of([str(video.path) for video in videos])
        _LOG.warning("leaving out %d of %d videos %s: %s", len(videos), total, what, named)


def nothing_usable(option: tuple[str, str], found: PreparedVideos, settings: ClipSettings) -> UsageError:
    """Return what to raise if no video is left."""
    if found.left_out["too_short"]:
        hint = (
            f"no video of {option[1]} has {settings.reach} frames between two cuts: use longer videos or shorter clips"
        )
        return UsageError("data.clips.frames", settings.frames, hint)
    first = found.skipped[0]
    hint = f"none of {len(found.skipped)} videos can be read, the first is {first.path} ({first.reason})"
    return UsageError(*option, f"{hint}; give readable ones")


def _prepared(video: Video, settings: ClipSettings, reader: FrameReader, folder: Path) -> PreparedVideo:
    name = _name(video, settings)
    array, about = folder / f"{name}.npy", folder / f"{name}.json"
    bounds = _bounds(array, about)
    if not bounds:
        cuts = _decode(video, settings, reader, array)
        # Last, so that an array of a process that was killed is made anew.
        write_json(about, {"key": video.key, "synthetic": video.synthetic, "cuts": cuts})
        bounds = _bounds(array, about)
    shots = tuple(Shot(a, b) for a, b in itertools.pairwise(bounds) if a < b)
    return PreparedVideo(video, array, shots)


def _bounds(array: Path, about: Path) -> list[int]:
    """Return where shots of a decoded video begin and end; none if it is not there, or damaged: it is made anew."""
    try:
        frames_TYX3 = mapped_array(array)
        cuts = read_json(about)["cuts"]
        if frames_TYX3 is None or frames_TYX3.ndim != 4 or frames_TYX3.shape[3] != 3 or frames_TYX3.dtype != np.uint8:
            return []
        bounds = [0, *cuts, len(frames_TYX3)] if fits(cuts, list[int]) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return bounds if bounds == sorted(set(bounds)) else []


def _name(video: Video, settings: ClipSettings) -> str:
    try:
        content = content_key(video.path)
    except OSError as error:
        raise VideoReadError(video.path, error.strerror or str(error)) from error
    motion = asdict(video.motion) if video.motion else None
    said = json.dumps([content, settings.fps, settings.short_side, motion], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _decode(video: Video, settings: ClipSettings, reader: FrameReader, file: Path) -> list[int]:
    """Write the frames at the wanted speed as an array; return which of them begin a shot."""
    changes: list[Change] = []
    before: Thumbnail | None = None
    count = 0
    sources: list[int] = []

    def watched() -> Iterator[tuple[int, float, Frame]]:
        nonlocal before, count
        for number, (time, frame_YX3) in enumerate(video.frames(reader)):
            small = thumbnail(frame_YX3)
            if before is not None:
                changes.append(change(before, small))
            before, count = small, number + 1
            yield number, time, frame_YX3

    with atomic_write(file) as partial, partial.open("r+b") as raw:
        shape: tuple[int, int] | None = None
        for number, frame_YX3 in _at_speed(watched(), settings.fps):
            if shape is None:
                shape = _target(frame_YX3.shape, settings.short_side)
                _write_header(raw, 0, shape)
            raw.write(shrunk(Image.fromarray(frame_YX3), shape).tobytes())
            sources.append(number)
        if shape is None or count < 2:
            raise VideoReadError(video.path, f"it has {count} frame{'' if count == 1 else 's'}, no video")
        raw.seek(0)
        _write_header(raw, len(sources), shape)
    cuts = find_cuts(changes)
    # The first kept frame at or after each cut; two cuts between two kept frames are one.
    found = {int(np.searchsorted(sources, cut)) for cut in cuts}
    return sorted(place for place in found if 0 < place < len(sources))


def _at_speed(frames: Iterator[tuple[int, float, Frame]], fps: float) -> Iterator[tuple[int, Frame]]:
    """Yield for each tick of the wanted speed the frame that is shown then: the last whose time has come."""
    tick, last = 0, 0.0
    held: tuple[int, Frame] | None = None
    for number, time, frame_YX3 in frames:
        while held is not None and tick / fps < time - 1e-6:
            yield held
            tick += 1
        held, last = (number, frame_YX3), time
    if held is not None and tick / fps < last + 1e-6:
        yield held


def _target(shape: tuple[int, ...], short_side: int) -> tuple[int, int]:
    height, width = shape[:2]
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _write_header(raw: Any, count: int, shape: tuple[int, int]) -> None:
    """Write the header of a .npy file; its length does not depend on the number of frames."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape, 3)}
    np.lib.format.write_array_header_1_0(raw, header)
