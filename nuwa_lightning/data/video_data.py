"""Data modules that give clips of videos.

Batches are dicts: ``video`` float32 (B, T, 3, Y, X) in [-1, 1], ``index`` int64 (B), the place of the video among the
usable ones of its split, and ``caption``, a list of B texts, "" for none.
"""

import dataclasses
import functools
from typing import Any, final

import numpy as np
import torch

from nuwa_lightning.data.clips import ClipSettings, PreparedVideos, nothing_usable, prepare_videos, tell_left_out
from nuwa_lightning.data.data_module import PreparedDataModule
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.landscape_clips import LandscapeClips
from nuwa_lightning.data.preparing import as_pixels
from nuwa_lightning.data.sources import Split
from nuwa_lightning.data.streams import FixedSamples, RandomBatches
from nuwa_lightning.data.video_reading import ReaderName, make_reader
from nuwa_lightning.data.videos import FolderVideos, VideoSource
from nuwa_lightning.errors import UsageError

# Legend: B clips of a batch, T frames, Y, X pixels along the axes, 3 colours.

_CLIPS = ClipSettings()


class VideosDataModule(PreparedDataModule[PreparedVideos]):
    """Clips of videos, at random places in time and space for training, fixed ones for validation.

    A clip never spans a cut. Videos are decoded once (`nuwa_lightning.data.clips`).

    Args:
        videos: where the videos come from.
        clips: speed, length and size of clips.
        size: side of the square that is cut from each clip in pixels.
        flip: probability of a left-right flip of a training clip.
        batch_size: clips in a batch, per process.
        reader: what decodes, ``pyav`` or ``torchcodec``.
        options: see `StreamingDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "video"

    def __init__(
        self,
        videos: VideoSource,
        *,
        clips: ClipSettings = _CLIPS,
        size: int = 128,
        flip: float = 0.5,
        batch_size: int = 4,
        reader: ReaderName = "pyav",
        **options: Any,
    ) -> None:
        clips.check()
        super().__init__(videos, batch_size=batch_size, **options)
        if not 1 <= size <= clips.short_side:
            raise UsageError("data.size", size, f"give from 1 to data.clips.short_side={clips.short_side} pixels")
        if not 0.0 <= flip <= 1.0:
            raise UsageError("data.flip", flip, "give a probability in [0, 1]")
        self.videos = videos
        self.clips = clips
        self.size = size
        self.flip = flip
        self.reader: ReaderName = reader

    def prepare_split(self, split: Split) -> PreparedVideos:
        videos, reader = self.videos.videos(split), make_reader(self.reader)
        found = prepare_videos(videos, self.clips, reader=reader, cache=cache_folder(self.cache))
        large = tuple(entry for entry in found.entries if min(entry.array().shape[1:3]) >= self.size)
        small = tuple(entry.sample for entry in found.entries if entry not in large)
        if large:
            tell_left_out(len(videos), small, f"below {self.size} px")
        return dataclasses.replace(found, entries=large, left_out={**found.left_out, "too_small": small})

    def training_batches(self, rank: int, world: int) -> RandomBatches:
        videos = self.prepared("train")
        draw = functools.partial(_random_clip, videos, self.clips, self.size, self.flip)
        return RandomBatches(draw, len(videos), self.batch_size, self.seed, rank, world)

    def validation_samples(self) -> FixedSamples[tuple[int, int]]:
        """Return as many clips as fit one after the other into each shot, cut from the center."""
        reach = self.clips.reach
        places = [
            (index, start)
            for index, entry in enumerate(self.prepared("val").entries)
            for shot in entry.shots
            for start in range(shot.start, shot.stop - reach + 1, reach)
        ]
        return FixedSamples(places, functools.partial(_center_clip, self.prepared("val"), self.clips, self.size))

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data; videos with made-up motion are told apart."""
        used = [entry.sample for found in self._prepared.values() for entry in found.entries]
        real = sorted(video.key for video in used if not video.synthetic)
        synthetic = sorted(video.key for video in used if video.synthetic)
        return {**super().record(), "real": real, "synthetic": synthetic}

    def settings(self) -> dict[str, Any]:
        return {"clips": repr(self.clips)}

    def nothing_usable(self, split: Split, found: PreparedVideos) -> UsageError:
        if found.left_out["too_small"]:
            hint = f"all videos of {self.videos.option(split)[1]} are smaller: use larger videos or a smaller size"
            return UsageError("data.size", self.size, hint)
        return nothing_usable(self.videos.option(split), found, self.clips)


@final
class VideoFolderDataModule(VideosDataModule):
    """Clips of the videos in any folder; see `VideosDataModule` and `FolderVideos`.

    Args:
        root: the folder, or several.
        captions: the file with the captions of all videos.
        val_root: folder(s) of validation videos; without, whole videos of ``root`` are held out.
        val_fraction: share of the videos held out when there is no ``val_root``.
        options: see `VideosDataModule`.
    """

    def __init__(
        self,
        root: str | list[str],
        *,
        captions: str | None = None,
        val_root: str | list[str] | None = None,
        val_fraction: float = 1 / 6,
        **options: Any,
    ) -> None:
        source = FolderVideos(root, captions=captions, val_root=val_root, val_fraction=val_fraction)
        super().__init__(source, **options)


@final
class LandscapeClipsDataModule(VideosDataModule):
    """Clips of the default videos; see `VideosDataModule`.

    Args:
        source: the videos.
        options: see `VideosDataModule`.
    """

    def __init__(self, source: LandscapeClips | None = None, *, cache: str | None = None, **options: Any) -> None:
        super().__init__(source or LandscapeClips(cache=cache), cache=cache, **options)


def _random_clip(
    videos: PreparedVideos, clips: ClipSettings, size: int, flip: float, random: np.random.Generator, index: int
) -> dict[str, Any]:
    starts = videos.entries[index].starts(clips.reach)
    start = starts[int(random.integers(len(starts)))]
    y, x = (int(random.integers(side - size + 1)) for side in videos.entries[index].array().shape[1:3])
    return _clip(videos, clips, size, index, (start, y, x), flipped=random.random() < flip)


def _center_clip(videos: PreparedVideos, clips: ClipSettings, size: int, place: tuple[int, int]) -> dict[str, Any]:
    index, start = place
    y, x = ((side - size) // 2 for side in videos.entries[index].array().shape[1:3])
    return _clip(videos, clips, size, index, (start, y, x))


def _clip(
    videos: PreparedVideos,
    clips: ClipSettings,
    size: int,
    index: int,
    corner: tuple[int, int, int],
    *,
    flipped: bool = False,
) -> dict[str, Any]:
    """Return the clip of a video whose first pixel lies at (t, y, x)."""
    entry, (t, y, x) = videos.entries[index], corner
    pixels_TYX3 = entry.array()[t : t + clips.reach : clips.stride, y : y + size, x : x + size]
    if flipped:
        pixels_TYX3 = pixels_TYX3[:, :, ::-1]
    return {"video": torch.from_numpy(as_pixels(pixels_TYX3)), "index": index, "caption": entry.sample.caption}
