"""Videos as grids of tokens, encoded frame by frame, once, and the data module of stage 2 that cuts windows of them.

Windows are random in time and space; neither they nor an entry of the bank ever spans a cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch

from nuwa_lightning.data.clips import ClipSettings, PreparedVideo, PreparedVideos, prepare_videos
from nuwa_lightning.data.folder_samples import SPLITS, Split, prepared_splits
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.token_bank import BankEntry, Encode, TokenBank, TokenizerLike, build_bank
from nuwa_lightning.data.token_windows import TokenWindowsModule, Window
from nuwa_lightning.data.video_reading import ReaderName, make_reader
from nuwa_lightning.data.videos import VideoSource
from nuwa_lightning.errors import UsageError

# Legend: T frames, Y, X tokens (of tokens) or pixels (of images) along the axes, 3 colours.

_CLIPS = ClipSettings(frames=4, short_side=160)
_VERSION: Final = 1
_AT_ONCE: Final = 4
"""Frames encoded at once: more take more memory and hardly less time."""


def build_clip_bank(
    videos: Mapping[Split, PreparedVideos],
    tokenizer: TokenizerLike,
    *,
    cache: Path,
    clips: ClipSettings,
    flips: bool = True,
    longest: int = 120,
    encode: Encode | None = None,
    progress: bool = True,
) -> TokenBank:
    """Return the bank of ``videos``, encoding what is not on disk yet; see `build_bank`.

    Args:
        videos: by split.
        tokenizer: gives factor, number of codes, fingerprint and, if ``encode`` is None, the encoder.
        cache: folder for banks.
        clips: what the videos were prepared with; shots too short for a clip are left out.
        flips: also encode the left-right mirror images of videos for training.
        longest: of a longer shot only so many frames are encoded, the first ones.
        encode: the encoder, such as one that works tile by tile.
        progress: show a bar.

    Raises:
        UsageError: if there is no video for training.
        ValueError: if the encoder returns tokens of a wrong shape or outside ``[0, codebook_size)``.
    """
    items = [
        _VideoItem(
            video,
            split,
            tokenizer.downsample_factor,
            clips.reach,
            max(longest, clips.reach),
            flips and split == "train",
        )
        for split, some in sorted(videos.items())
        for video in some.entries
    ]
    if not any(item.split == "train" for item in items):
        raise UsageError("data.videos", "no video", "give videos for training")
    skipped = [str(entry.path) for some in videos.values() for entry in some.skipped]
    said = [
        _VERSION,
        tokenizer.fingerprint(),
        tokenizer.downsample_factor,
        tokenizer.codebook_size,
        clips.reach,
        flips,
        longest,
    ]
    contents = [(item.split, item.content) for item in items]
    name = hashlib.sha256(json.dumps([said, contents]).encode()).hexdigest()[:24]
    about = {"version": _VERSION, "settings": {**asdict(clips), "flips": flips, "longest": longest}}
    return build_bank(
        cache / "tokens" / name,
        lambda: (items, {"skipped": skipped}),
        tokenizer,
        about=about,
        encode=encode,
        progress=progress,
    )


@final
@dataclass(frozen=True)
class _VideoItem:
    """A `BankItem`: the shots of one video."""

    video: PreparedVideo
    split: Split
    downsample_factor: int
    reach: int
    longest: int
    flips: bool

    @property
    def key(self) -> str:
        return self.video.video.key

    @property
    def content(self) -> str:
        # The name of the array is a hash of the video's content, speed and size.
        return self.video.file.stem

    def plan(self, place: int, start: int) -> list[BankEntry]:
        height, width = self.video.array().shape[1:3]
        y, x = height // self.downsample_factor, width // self.downsample_factor
        entries: list[BankEntry] = []
        for shot in self.video.shots:
            count = min(shot.stop - shot.start, self.longest)
            for flip in (False, True)[: 1 + self.flips]:
                if count >= self.reach:
                    entries.append(BankEntry(place, min(height, width), flip, 0, start, y, x, shot.start, count))
                    start += count * y * x
        return entries

    @torch.no_grad()
    def encoded(self, entry: BankEntry, encode: Encode) -> torch.Tensor:
        video_TYX3, f = self.video.array(), self.downsample_factor
        parts = []
        for first in range(entry.first, entry.first + entry.frames, _AT_ONCE):
            last = min(first + _AT_ONCE, entry.first + entry.frames)
            pixels_TYX3 = video_TYX3[first:last, : entry.y * f, : entry.x * f]
            if entry.flip:
                pixels_TYX3 = pixels_TYX3[:, :, ::-1]
            image_T3YX = np.ascontiguousarray(pixels_TYX3.transpose(0, 3, 1, 2)).astype(np.float32)
            parts.append(encode(torch.from_numpy(image_T3YX) / 127.5 - 1))
        return torch.cat(parts)


@final
class TokenClipsDataModule(TokenWindowsModule):
    """Windows of the token grids of videos: at random for training, fixed for validation.

    Videos are decoded once (`nuwa_lightning.data.clips`) and encoded once, frame by frame; those that cannot be read
    are named, counted and skipped.

    Args:
        videos: where the videos come from.
        grid: (y, x) of a window in tokens.
        clips: speed, length and size of clips; ``frames`` of them are in a window.
        flips: also learn from the left-right mirror images.
        longest: of a longer shot only so many frames are encoded, the first ones.
        batch_size: windows in a batch, per process.
        steps_per_epoch: batches in an epoch.
        num_workers: processes that cut windows ahead; 0, the default, is enough.
        seed: of the order and the windows.
        reader: what decodes, ``pyav`` or ``torchcodec``.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.
        stills: share of the batches that hold single frames instead of windows in time, as many as ``batch_size``
            windows have: images and videos learned together, as NUWA, the paper's predecessor, did. A clip shows one
            scene in many tokens; what a text says of a scene is learned faster from many scenes.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "video"

    def __init__(
        self,
        videos: VideoSource,
        *,
        grid: tuple[int, int] = (16, 24),
        clips: ClipSettings = _CLIPS,
        flips: bool = True,
        longest: int = 120,
        batch_size: int = 2,
        steps_per_epoch: int = 200,
        num_workers: int = 0,
        seed: int = 0,
        reader: ReaderName = "pyav",
        cache: str | None = None,
        stills: float = 0.0,
    ) -> None:
        clips.check()
        super().__init__(
            Window(clips.frames, *grid, stride=clips.stride),
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_workers=num_workers,
            seed=seed,
            cache=cache,
            stills=stills,
        )
        self.videos = videos
        self.clips = clips
        self.flips = flips
        self.longest = longest
        self.reader: ReaderName = reader
        self._too_short: list[str] | None = None

    def prepare_source(self) -> None:
        """Fetch the videos."""
        self.videos.prepare()

    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenBank:
        """See `TokenWindowsModule.open_bank`."""
        cache, reader = cache_folder(self.cache), make_reader(self.reader)

        def prepare(split: Split) -> PreparedVideos:
            return prepare_videos(self.videos.videos(split), self.clips, reader=reader, cache=cache)

        found = prepared_splits(self.videos.videos, prepare, self.videos.set_aside)
        if not found["train"].entries:
            option, value = self.videos.option("train")
            if found["train"].too_short:
                hint = f"no video of {value} has {self.clips.reach} frames between two cuts: use longer videos"
                raise UsageError("data.clips.frames", self.clips.frames, f"{hint} or shorter clips")
            first = found["train"].skipped[0]
            hint = f"no video can be read, the first is {first.path} ({first.reason}): give readable ones"
            raise UsageError(option, value, hint)
        self._too_short = [str(video.path) for split in SPLITS for video in found[split].too_short]
        return build_clip_bank(
            found,
            tokenizer,
            cache=cache,
            clips=self.clips,
            flips=self.flips,
            longest=self.longest,
            encode=encode,
        )

    def captions_by_key(self) -> Mapping[str, str]:
        """Return the captions of the videos."""
        return {video.key: video.caption for split in SPLITS for video in self.videos.videos(split)}

    def source_option(self) -> tuple[str, str]:
        """See `VideoSource.option`."""
        return self.videos.option("train")

    def source_record(self) -> dict[str, object]:
        """See `VideoSource.record`; videos without a shot as long as a clip are named once they are known."""
        return {**self.videos.record(), **({} if self._too_short is None else {"too_short": self._too_short})}

    def too_small(self, factor: int) -> UsageError:
        """Return what to raise if no video is as large as a window."""
        y, x = self.window.y, self.window.x
        return UsageError(
            "data.grid",
            [y, x],
            f"no video is that large: a window needs {y * factor}x{x * factor} px (height x width) after shrinking to"
            f" data.clips.short_side={self.clips.short_side}; raise that, give larger videos or a smaller grid",
        )
