"""The data module of stage 2 for videos: random windows in time and space of their token grids, never across a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from nuwa_lightning.data.clip_tokens import build_clip_bank
from nuwa_lightning.data.clips import ClipSettings, prepare_videos
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.photos import Split
from nuwa_lightning.data.token_bank import Encode, TokenBank, TokenizerLike
from nuwa_lightning.data.token_windows import TokenWindowsModule, Window
from nuwa_lightning.data.video_reading import ReaderName, make_reader
from nuwa_lightning.data.videos import VideoSource
from nuwa_lightning.errors import UsageError

_CLIPS = ClipSettings(frames=4, short_side=160)
_SPLITS: tuple[Split, ...] = ("train", "val")


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
        found = {
            split: prepare_videos(self.videos.videos(split), self.clips, reader=reader, cache=cache)
            for split in _SPLITS
        }
        if not found["train"].entries:
            option, value = self.videos.option("train")
            if found["train"].too_short:
                hint = f"no video of {value} has {self.clips.reach} frames between two cuts: use longer videos"
                raise UsageError("data.clips.frames", self.clips.frames, f"{hint} or shorter clips")
            first = found["train"].skipped[0]
            hint = f"no video can be read, the first is {first.path} ({first.reason}): give readable ones"
            raise UsageError(option, value, hint)
        self._too_short = [str(video.path) for split in _SPLITS for video in found[split].too_short]
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
        return {video.key: video.caption for split in _SPLITS for video in self.videos.videos(split)}

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
