"""Folders of clips as streams of uint8 frames ``(T, Y, X, 3)``, one clip in memory at a time (ours).

A clip is a sub-folder of frames (PNG, JPEG; in the order of their names), an animated GIF, WebP or PNG, or a video file
that PyAV reads (the extra ``video``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from nuwa_lightning.data.reading import ImageReadError, list_images, read_image
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

Clip = NDArray[np.uint8]
"""uint8 RGB, ``(frames, rows, columns, 3)``."""

_ANIMATIONS: Final = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
_VIDEOS: Final = frozenset({".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".ogv"})
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

    Raises:
        UsageError: if the folder is missing or holds no clip.
    """

    def __init__(
        self, folder: str | os.PathLike[str], spec: Clips, *, option: str = "folder", skip_corrupt: bool = False
    ) -> None:
        self.folder, self.spec, self.option, self.skip_corrupt = Path(folder), spec, option, skip_corrupt
        self.skipped: dict[str, str] = {}
        self.short = 0
        self.sources = clip_sources(self.folder, option=option)

    def __iter__(self) -> Iterator[tuple[Path, Clip]]:
        """Yield each clip with its source.

        Raises:
            UsageError: if one cannot be read, or sizes are mixed.
        """
        self.short = 0
        first: tuple[Path, tuple[int, ...]] | None = None
        for path in self._chosen():
            for clip in self._parts(path):
                first = first or (path, clip.shape)
                if clip.shape != first[1]:
                    sizes = f"{first[0].name} is {_size(first[1])} but {path.name} is {_size(clip.shape)}"
                    hint = f"mixed sizes ({sizes}): give clips of one size, or a protocol with a side"
                    raise UsageError(self.option, str(self.folder), hint)
                yield path, clip

    def sha256(self) -> str:
        """Return the hash of all contents; the names of clips do not count, the order of frames does."""
        hashes = []
        for source in self.sources:
            files = list_images(source) if source.is_dir() else [source]
            hashes.append(hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest())
        return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()

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
            for frame in read_frames(path):
                held.append(self._fitted(frame))
                if len(held) == needed:
                    yield np.stack(held[:: self.spec.stride])
                    made += 1
                    held = []
                    if not self.spec.all_parts:
                        return
        except UsageError as error:
            if not self.skip_corrupt:
                raise UsageError(self.option, str(path), f"{error.hint}: replace it, or give --skip-corrupt") from error
            self.skipped[path.name] = error.hint
            return
        if not made:
            self.short += 1

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


def clip_sources(folder: Path, *, option: str) -> list[Path]:
    """Return the clips of a folder: files of moving images, and sub-folders of frames.

    Raises:
        UsageError: if the folder is missing or holds none.
    """
    if not folder.is_dir():
        raise UsageError(option, str(folder), "is not a folder: give one with clips")
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        if (path.is_dir() and list_images(path)) or (path.is_file() and (suffix in _VIDEOS or suffix in _ANIMATIONS)):
            found.append(path)
    if not found:
        hint = "holds no clip: give a folder of video files, or of folders of frames"
        raise UsageError(option, str(folder), hint)
    return found


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of one clip, uint8 RGB ``(Y, X, 3)``.

    Raises:
        UsageError: if it cannot be read.
    """
    if path.is_dir():
        for file in list_images(path):
            try:
                yield np.asarray(read_image(file), np.uint8)
            except ImageReadError as error:
                raise UsageError("clip", str(path), f"{file.name}: {error.reason}") from error
    elif path.suffix.lower() in _ANIMATIONS:
        yield from _animation(path)
    else:
        yield from _video(path)


def _animation(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        with Image.open(path, formats=[_ANIMATIONS[path.suffix.lower()]]) as animation:
            for frame in ImageSequence.Iterator(animation):
                yield np.asarray(frame.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError("clip", str(path), " ".join(str(error).split())) from error


def _video(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        import av
    except ImportError:
        raise UsageError("clip", str(path), "needs PyAV: pip install av") from None
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise UsageError("clip", str(path), "has no video stream")
            frames: Any = container.decode(video=0)
            for number, frame in enumerate(frames):
                if number >= _MOST_FRAMES:
                    raise UsageError("clip", str(path), f"has more than {_MOST_FRAMES} frames")
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (OSError, ValueError) as error:  # PyAV's errors are both
        if isinstance(error, UsageError):
            raise
        raise UsageError("clip", str(path), " ".join(str(error).split())) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
