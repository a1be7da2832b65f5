"""Folders of clips as streams of uint8 frames ``(T, Y, X, 3)``, one clip in memory at a time (ours).

A clip is a sub-folder of frames (PNG, JPEG; in the order of their numbers), an animated GIF, WebP or PNG, or a video
file that PyAV reads (the extra ``video``), turned upright; see `nuwa_lightning.data.video_reading`.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.images import format_of, said_of_sizes
from nuwa_lightning.data.reading import MAX_PIXELS, NotesLog
from nuwa_lightning.data.video_reading import VideoReadError, clip_files, list_clips, read_clip
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

Clip = NDArray[np.uint8]
"""uint8 RGB, ``(frames, rows, columns, 3)``."""

_MOST_FRAMES: Final = 100_000


@dataclass(frozen=True)
class Clips:
    """Which clips are taken of a folder.

    Attributes:
        split: which clips the folder is meant to hold; said, not checked.
        frames: length of a clip; longer ones are cut into as many as fit one after another, if ``all_parts``, else
            only their beginning is taken. Shorter ones are left out and counted.
        stride: take every so many frames.
        all_parts: see ``frames``.
        side: bring clips to crops of this side: shorter side resized, center cut out; None leaves them as they are,
            all of one size.
        filter: Pillow's filter for it.
        count: how many clips; None takes all.
        seed: of which, where ``count`` is below what there is.
    """

    frames: int
    split: Literal["any", "train", "val"] = "any"
    stride: int = 1
    all_parts: bool = False
    side: int | None = None
    filter: Literal["lanczos", "bicubic", "bilinear", "box"] = "bicubic"
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 2 or self.stride < 1:
            raise UsageError("protocol.frames", self.frames, "a clip has two frames or more, a stride is 1 or more")


class ClipSet:
    """The clips of a folder that a protocol asks for, read again at each pass and never held together.

    Args:
        folder: the folder.
        spec: which clips.
        option: the option to name in an error.
        skip_corrupt: leave out clips that cannot be read, and count them in ``skipped``.
        max_pixels: refuse clips whose frames have more, before they are decoded.

    Raises:
        UsageError: if the folder is missing or holds no clip.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        spec: Clips,
        *,
        option: str = "folder",
        skip_corrupt: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.folder, self.spec, self.option, self.skip_corrupt = Path(folder), spec, option, skip_corrupt
        self.skipped: dict[Path, VideoReadError] = {}
        self._max_pixels, self._tell = max_pixels, NotesLog()
        self._sizes: set[tuple[int, int]] = set()
        self._unused: set[Path] = set()
        self._short: set[Path] = set()
        if not self.folder.is_dir():
            raise UsageError(option, str(folder), "is not a folder: give one with clips")
        # Names move no number: clips are in the order of their content.
        self._hashes = {source: _sha256(source) for source in list_clips(self.folder)}
        self.sources = sorted(self._hashes, key=lambda source: (self._hashes[source], str(source)))
        if not self.sources:
            hint = "holds no clip: give a folder of video files, or of folders of frames"
            raise UsageError(option, str(folder), hint)

    def __iter__(self) -> Iterator[tuple[Path, Clip]]:
        """Yield each clip with its source."""
        first: tuple[Path, tuple[int, ...]] | None = None
        for path in self._chosen():
            for clip in self._parts(path):
                first = first or (path, clip.shape)
                if clip.shape != first[1]:
                    sizes = f"{first[0].name} is {_size(first[1])} but {path.name} is {_size(clip.shape)}"
                    hint = f"mixed sizes ({sizes}): give clips of one size, or a protocol with a side"
                    raise UsageError(self.option, str(self.folder), hint)
                yield path, clip

    @property
    def short(self) -> int:
        """How many clips had too few frames."""
        return len(self._short)

    def sha256(self) -> str:
        """Return the hash of the contents of all clips that could be read; their names and order do not count."""
        used = [self._hashes[source] for source in self.sources if source not in self._unused]
        return hashlib.sha256("".join(used).encode()).hexdigest()

    def formats(self) -> dict[str, int]:
        """Return how many clips are of which format, by what their files begin with."""
        found: Counter[str] = Counter()
        for source in self.sources:
            kinds = "/".join(sorted(set(map(format_of, clip_files(source)))))
            found[f"folders of {kinds}" if source.is_dir() else kinds] += 1
        return dict(sorted(found.items()))

    def sizes(self) -> str:
        """Return the size of the frames that were read, as they are in their files."""
        return said_of_sizes(self._sizes)

    def some(self, numbers: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
        """Return the middle frame of clips by their numbers; all before the last of them are read again."""
        held: dict[int, NDArray[np.uint8]] = {}
        for number, (_, clip) in enumerate(self):
            if number in numbers:
                held[number] = clip[len(clip) // 2].copy()
            if number >= max(numbers):
                break
        return [held[int(number)] for number in numbers]

    def _chosen(self) -> list[Path]:
        count = self.spec.count
        if count is None or count >= len(self.sources):
            return self.sources
        kept = np.random.default_rng(self.spec.seed).choice(len(self.sources), count, replace=False)
        return [self.sources[i] for i in sorted(kept.tolist())]

    def _parts(self, path: Path) -> Iterator[Clip]:
        needed = (self.spec.frames - 1) * self.spec.stride + 1
        held: list[NDArray[np.uint8]] = []
        made = 0
        try:
            for number, frame in enumerate(read_clip(path, max_pixels=self._max_pixels, tell=self._tell)):
                if number >= _MOST_FRAMES:
                    raise VideoReadError(path, f"it has more than {_MOST_FRAMES} frames")
                self._sizes.add((frame.shape[0], frame.shape[1]))
                held.append(self._fitted(frame))
                if len(held) == needed:
                    yield np.stack(held[:: self.spec.stride])
                    made += 1
                    held = []
                    if not self.spec.all_parts:
                        return
        except VideoReadError as error:
            if not self.skip_corrupt:
                way = "give a larger `max_pixels` if you trust it" if error.over_limit else "replace it"
                hint = f"{error.reason}: {way}, or give `skip_corrupt`"
                raise UsageError(self.option, str(path), hint) from error
            self.skipped[path] = error
            self._unused |= set() if made else {path}  # what came before the damage may be clips
            return
        if not made:
            self._short.add(path)

    def _fitted(self, frame_YX3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        side = self.spec.side
        if side is None or frame_YX3.shape[:2] == (side, side):
            return frame_YX3
        height, width = frame_YX3.shape[:2]
        edge = min(height, width)
        left, top = (width - edge) / 2, (height - edge) / 2
        resample = Image.Resampling[self.spec.filter.upper()]
        box = (left, top, left + edge, top + edge)
        return np.asarray(Image.fromarray(frame_YX3).resize((side, side), resample, box=box), np.uint8)


def _sha256(source: Path) -> str:
    """Return the hash of a clip's content; the order of its frames counts."""
    return hashlib.sha256("".join(map(file_sha256, clip_files(source))).encode()).hexdigest()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
