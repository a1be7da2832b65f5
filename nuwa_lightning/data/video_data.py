"""Data modules that give clips of videos: of any folder, and of the default videos.

Batches are dicts: ``video`` float32 (B, T, 3, Y, X) in [-1, 1], ``index`` int64 (B), the place of the video among the
usable ones of its split, and ``caption``, a list of B texts, "" for none.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.data.clips import ClipSettings, PreparedVideos, SkippedVideo, prepare_videos, tell_left_out
from nuwa_lightning.data.folder_samples import Split, prepared_splits
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.landscape_clips import LandscapeClips
from nuwa_lightning.data.streams import (
    Batch,
    BatchStream,
    check_loading,
    generator,
    photo_of_sample,
    rank_and_world,
    resume_note,
    trainer_position,
)
from nuwa_lightning.data.video_reading import ReaderName, make_reader
from nuwa_lightning.data.videos import FolderVideos, VideoSource
from nuwa_lightning.errors import UsageError

# Legend: B clips of a batch, T frames, Y, X pixels along the axes, 3 colours.

_LOG = logging.getLogger(__name__)
_CLIPS = ClipSettings()


class VideoDataModule(LightningDataModule, ABC):
    """Clips of videos, at random places in time and space for training, fixed ones for validation.

    A clip never spans a cut. Batch ``n`` is a pure function of (seed, n), as in `ImageDataModule`. Videos are decoded
    once (`nuwa_lightning.data.clips`); those that cannot be read are named, counted and skipped.

    Args:
        clips: speed, length and size of clips.
        size: side of the square that is cut from each clip in pixels.
        flip: probability of a left-right flip of a training clip.
        batch_size: clips in a batch, per process.
        steps_per_epoch: batches in an epoch.
        seed: of the order and the places.
        reader: what decodes, ``pyav`` or ``torchcodec``.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        *,
        clips: ClipSettings = _CLIPS,
        size: int = 128,
        flip: float = 0.5,
        batch_size: int = 4,
        steps_per_epoch: int = 200,
        seed: int = 0,
        reader: ReaderName = "pyav",
        cache: str | None = None,
    ) -> None:
        super().__init__()
        clips.check()
        check_loading(batch_size, steps_per_epoch, 0)
        if not 1 <= size <= clips.short_side:
            raise UsageError("data.size", size, f"give from 1 to data.clips.short_side={clips.short_side} pixels")
        if not 0.0 <= flip <= 1.0:
            raise UsageError("data.flip", flip, "give a probability in [0, 1]")
        self.clips = clips
        self.size = size
        self.flip = flip
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.reader: ReaderName = reader
        self.cache = cache
        self._prepared: dict[Split, PreparedVideos] = {}
        self._stored: dict[str, Any] = {}

    @abstractmethod
    def video_source(self) -> VideoSource:
        """Return where the videos come from, always the same object."""

    @property
    def skipped(self) -> list[SkippedVideo]:
        """The videos that could not be read, of both splits; known after `setup`."""
        return [entry for prepared in self._prepared.values() for entry in prepared.skipped]

    def prepared(self, split: Split) -> PreparedVideos:
        """Return the usable videos of ``split``; call `prepare_data` before.

        Raises:
            UsageError: if none is left, saying why and what would help.
        """
        if not self._prepared:
            source = self.video_source()
            self._prepared = prepared_splits(source.videos, self._found, source.set_aside)
            for each, found in self._prepared.items():
                if source.videos(each) and not found.entries:
                    self._prepared = {}
                    raise _nothing_usable(source, each, found, self.clips, self.size)
        return self._prepared[split]

    def _found(self, split: Split) -> PreparedVideos:
        videos = self.video_source().videos(split)
        found = prepare_videos(videos, self.clips, reader=make_reader(self.reader), cache=cache_folder(self.cache))
        fits = [min(entry.array().shape[1:3]) >= self.size for entry in found.entries]
        large = tuple(itertools.compress(found.entries, fits))
        small = tuple(entry.video for entry, enough in zip(found.entries, fits, strict=True) if not enough)
        if large:
            tell_left_out(len(videos), small, f"below {self.size} px")
        return PreparedVideos(large, found.skipped, found.too_short, small)

    def prepare_data(self) -> None:
        """Fetch and decode the videos, once; Lightning calls this on one process only."""
        self.video_source().prepare()
        self.prepared("train")
        self.prepared("val")

    def setup(self, stage: str) -> None:
        """Open the videos (at once after `prepare_data`) and say so if they differ from a checkpoint's."""
        self.prepared("train")
        self.prepared("val")
        note = resume_note(self._stored, self._state())
        self._stored = {}
        if note:
            _LOG.warning(note)

    def train_dataloader(self) -> BatchStream:
        """Return the stream of training batches, from the trainer's position on."""
        rank, world = rank_and_world(self)
        maker = _TrainClips(
            self.prepared("train"), self.clips, self.size, self.flip, self.batch_size, self.seed, rank, world
        )
        return BatchStream(maker, length=self.steps_per_epoch, position=lambda: trainer_position(self))

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader over clips side by side at the centre of held-out videos; none if none is held out."""
        clips = _CentreClips(self.prepared("val"), self.clips, self.size)
        return [DataLoader(clips, batch_size=self.batch_size)] if len(clips) else []

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation loader."""
        return self.val_dataloader()

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data; videos with made-up motion are told apart."""
        used = [entry.video for found in self._prepared.values() for entry in found.entries]
        return {
            **self.video_source().record(),
            "real": sorted(video.key for video in used if not video.synthetic),
            "synthetic": sorted(video.key for video in used if video.synthetic),
            "skipped": [str(entry.path) for entry in self.skipped],
            "too_short": [str(video.path) for found in self._prepared.values() for video in found.too_short],
            "too_small": [str(video.path) for found in self._prepared.values() for video in found.too_small],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to notice that the data changed."""
        return self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a checkpoint's data for comparison, now or at `setup`."""
        self._stored = state_dict
        if self._prepared:
            self.setup("fit")

    def _state(self) -> dict[str, Any]:
        keys = "\n".join(entry.video.key for entry in self.prepared("train").entries)
        digest = hashlib.sha256(keys.encode("utf-8", "surrogatepass")).hexdigest()
        return {"videos": digest, "seed": self.seed, "batch_size": self.batch_size, "clips": repr(self.clips)}


@final
class VideoFolderDataModule(VideoDataModule):
    """Clips of the videos in any folder; sub-folders are included.

    Args:
        root: the folder, or several.
        captions: the file with the captions of all videos.
        val_root: folder(s) of validation videos; without, whole videos of ``root`` are held out.
        val_fraction: share of the videos held out when there is no ``val_root``.
        options: see `VideoDataModule`.

    Raises:
        UsageError: if an option makes no sense; folders are looked at in `prepare_data`.
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
        super().__init__(**options)
        self._source = FolderVideos(root, captions=captions, val_root=val_root, val_fraction=val_fraction)

    def video_source(self) -> FolderVideos:
        """Return the folder's videos."""
        return self._source


@final
class LandscapeClipsDataModule(VideoDataModule):
    """Clips of the default videos; see `nuwa_lightning.data.landscape_clips.LandscapeClips`.

    Args:
        source: the videos.
        options: see `VideoDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(self, source: LandscapeClips | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._source = source or LandscapeClips(cache=self.cache)

    def video_source(self) -> LandscapeClips:
        """Return the default videos."""
        return self._source


def _nothing_usable(
    source: VideoSource, split: Split, found: PreparedVideos, clips: ClipSettings, size: int
) -> UsageError:
    option, value = source.option(split)
    if found.too_small:
        return UsageError("data.size", size, f"all videos of {value} are smaller: use larger videos or a smaller size")
    if found.too_short:
        hint = f"no video of {value} has {clips.reach} frames between two cuts: use longer videos or shorter clips"
        return UsageError("data.clips.frames", clips.frames, hint)
    first = found.skipped[0]
    hint = f"none of {len(found.skipped)} videos can be read, the first is {first.path} ({first.reason})"
    return UsageError(option, value, f"{hint}; give readable ones")


@final
@dataclass(frozen=True)
class _TrainClips:
    """Random clips; batch ``step`` is a pure function of the fields and ``step``."""

    videos: PreparedVideos
    clips: ClipSettings
    size: int
    flip: float
    batch_size: int
    seed: int
    rank: int
    world: int

    def batch(self, step: int) -> Batch:
        """See `BatchMaker.batch`."""
        first = (step * self.world + self.rank) * self.batch_size
        made = [self._clip(first + place) for place in range(self.batch_size)]
        return {
            "video": torch.from_numpy(np.stack([clip_T3YX for clip_T3YX, _ in made])),
            "index": torch.tensor([index for _, index in made]),
            "caption": [self.videos.entries[index].video.caption for _, index in made],
        }

    def _clip(self, sample: int) -> tuple[npt.NDArray[np.float32], int]:
        random = generator(self.seed, 2, sample)
        index = photo_of_sample(self.seed, sample, len(self.videos))
        entry = self.videos.entries[index]
        starts = entry.starts(self.clips.reach)
        start = starts[int(random.integers(len(starts)))]
        frames_TYX3 = entry.array()
        y, x = (int(random.integers(side - self.size + 1)) for side in frames_TYX3.shape[1:3])
        clip_T3YX = _cut(frames_TYX3, start, self.clips, (y, x), self.size)
        if random.random() < self.flip:
            clip_T3YX = clip_T3YX[..., ::-1]
        return np.ascontiguousarray(clip_T3YX), index


@final
class _CentreClips(Dataset[Batch]):
    """As many clips as fit one after the other into each shot, cut from the centre."""

    def __init__(self, videos: PreparedVideos, clips: ClipSettings, size: int) -> None:
        self._videos = videos
        self._clips = clips
        self._size = size
        self._places = [
            (index, start)
            for index, entry in enumerate(videos.entries)
            for shot in entry.shots
            for start in range(shot.start, shot.stop - clips.reach + 1, clips.reach)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index, start = self._places[place]
        frames_TYX3 = self._videos.entries[index].array()
        y, x = ((side - self._size) // 2 for side in frames_TYX3.shape[1:3])
        clip_T3YX = _cut(frames_TYX3, start, self._clips, (y, x), self._size)
        caption = self._videos.entries[index].video.caption
        return {"video": torch.from_numpy(clip_T3YX), "index": index, "caption": caption}


def _cut(
    frames_TYX3: npt.NDArray[np.uint8], start: int, clips: ClipSettings, corner: tuple[int, int], size: int
) -> npt.NDArray[np.float32]:
    times = slice(start, start + clips.reach, clips.stride)
    rows, columns = (slice(at, at + size) for at in corner)
    clip_T3YX = frames_TYX3[times, rows, columns].transpose(0, 3, 1, 2)
    return np.ascontiguousarray(clip_T3YX).astype(np.float32) / np.float32(127.5) - np.float32(1)
