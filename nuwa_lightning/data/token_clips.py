"""Videos as grids of tokens, encoded frame by frame, once, and the data module of stage 2 that cuts windows of them.

Windows are random in time and space; neither they nor an entry of the bank ever spans a cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from nuwa_lightning.data.clips import ClipSettings, PreparedVideo, PreparedVideos, nothing_usable, prepare_videos
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.preparing import as_pixels
from nuwa_lightning.data.shard_making import ShardParts, digest, in_chunks
from nuwa_lightning.data.sources import SPLITS, Split, prepared_splits
from nuwa_lightning.data.token_bank import BankEntry, Encode, TokenBank, TokenizerLike, build_bank
from nuwa_lightning.data.token_windows import TokenWindowsModule, Window
from nuwa_lightning.data.video_reading import ReaderName, make_reader
from nuwa_lightning.data.videos import VideoSource
from nuwa_lightning.errors import UsageError

# Legend: T frames, Y, X tokens (of tokens) or pixels (of images) along the axes, 3 colours.

_CLIPS = ClipSettings(frames=4, short_side=160)
_VERSION: Final = 2
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

    Shots too short for a clip are left out; of one that is longer than ``longest`` only the first frames are encoded.
    """
    factor, most = tokenizer.downsample_factor, max(longest, clips.reach)
    items = _items(videos, factor, clips.reach, most, flips)
    if not any(item.split == "train" for item in items):
        raise UsageError("data.videos", "no video", "give videos for training")
    skipped = [str(entry.path) for some in videos.values() for entry in some.skipped]
    said = [_VERSION, tokenizer.fingerprint(), factor, tokenizer.codebook_size, clips.reach, flips, longest]
    about = {"version": _VERSION, "settings": {**asdict(clips), "flips": flips, "longest": longest}}
    return build_bank(
        cache,
        [said, [(item.split, item.content) for item in items]],
        lambda: (items, {"skipped": skipped}),
        tokenizer,
        about=about,
        encode=encode,
        progress=progress,
    )


def _items(
    videos: Mapping[Split, PreparedVideos], factor: int, reach: int, longest: int, flips: bool
) -> list[_VideoItem]:
    return [
        _VideoItem(video, split, factor, reach, longest, flips and split == "train")
        for split, some in sorted(videos.items())
        for video in some.entries
    ]


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
        return self.video.sample.key

    @property
    def caption(self) -> str:
        return self.video.sample.caption

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
            parts.append(encode(torch.from_numpy(as_pixels(pixels_TYX3))))
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
        reader: what decodes, ``pyav`` or ``torchcodec``.
        stills: share of the batches that hold single frames instead of windows in time, as many as ``batch_size``
            windows have: images and videos learned together, as NUWA, the paper's predecessor, did. A clip shows one
            scene in many tokens; what a text says of a scene is learned faster from many scenes.
        options: see `TokenWindowsModule`.

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
        reader: ReaderName = "pyav",
        stills: float = 0.0,
        **options: Any,
    ) -> None:
        clips.check()
        super().__init__(videos, Window(clips.frames, *grid, stride=clips.stride), stills=stills, **options)
        self.videos = videos
        self.clips = clips
        self.flips = flips
        self.longest = longest
        self.reader: ReaderName = reader
        self._too_short: list[str] | None = None

    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenBank:
        found = self._prepared()
        return build_clip_bank(
            found,
            tokenizer,
            cache=cache_folder(self.cache),
            clips=self.clips,
            flips=self.flips,
            longest=self.longest,
            encode=encode,
        )

    def _prepared(self) -> dict[Split, PreparedVideos]:
        cache, reader = cache_folder(self.cache), make_reader(self.reader)

        def prepare(split: Split) -> PreparedVideos:
            return prepare_videos(self.videos.videos(split), self.clips, reader=reader, cache=cache)

        found = prepared_splits(self.videos, prepare)
        if not found["train"].entries:
            raise nothing_usable(self.videos.option("train"), found["train"], self.clips)
        self._too_short = [str(video.path) for split in SPLITS for video in found[split].left_out["too_short"]]
        return found

    def shard_parts(self, tokenizer: TokenizerLike, size: int) -> ShardParts:
        self.videos.prepare()
        most = max(self.longest, self.clips.reach)
        chunks = in_chunks(
            _items(self._prepared(), tokenizer.downsample_factor, self.clips.reach, most, self.flips), size
        )
        said = digest([[item.split, item.content, item.caption] for some in chunks for item in some])
        decides = {"videos": said, "clips": asdict(self.clips), "flips": self.flips, "longest": self.longest}
        return self.parts_of(lambda n: iter(chunks[n]), len(chunks), decides, about=self.videos.record())

    def record(self) -> dict[str, object]:
        """Return what a run's record should say; videos without a shot as long as a clip are named once known."""
        return {**super().record(), **({} if self._too_short is None else {"too_short": self._too_short})}

    def shrunk_to(self) -> tuple[str, str]:
        return f"data.clips.short_side={self.clips.short_side}", "raise that"
