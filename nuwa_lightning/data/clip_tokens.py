"""Videos as grids of tokens, encoded frame by frame, once; an entry of the bank never spans a cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch

from nuwa_lightning.data.clips import ClipSettings, PreparedVideo, PreparedVideos
from nuwa_lightning.data.photos import Split
from nuwa_lightning.data.token_bank import BankEntry, Encode, TokenBank, TokenizerLike, build_bank
from nuwa_lightning.errors import UsageError

# Legend: T frames, Y, X tokens (of tokens) or pixels (of images) along the axes, 3 colours.

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
