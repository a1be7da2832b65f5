"""Random windows of token grids, for stage 2: what data modules of photos and of videos have in common.

Batches are dicts: ``tokens`` int64 (B, T, Y, X), ``index`` int64 (B), the place of the photo or video in the bank, and
``height`` float32 (B, 2), how high the window's top and bottom lie in it, from 0 at its top to 1 at its bottom.
With a text encoder attached also ``text`` float32 (B, S, E), the token states of the captions, and ``text_seen`` bool
(B, S), which of these are there. With a coarse plan attached also ``coarse``, of the shape of ``tokens``.
"""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

import numpy as np
import torch
from torch.utils.data import default_collate

from nuwa_lightning.data.data_module import StreamingDataModule
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.shard_making import ShardItem, ShardParts
from nuwa_lightning.data.sources import SPLITS, Source, Split
from nuwa_lightning.data.streams import Batch, BatchMaker, FixedSamples, RandomBatches, generator
from nuwa_lightning.data.token_bank import BankEntry, CoarseLike, Encode, TokenBank, TokenGrids, TokenizerLike, Tokens
from nuwa_lightning.errors import UsageError, some_of

# Legend: B windows of a batch, T frames, Y, X tokens along the axes.

_LOG = logging.getLogger(__name__)
_NAMES = ("tokens", "coarse")


class TextsLike(Protocol):
    """Encoded captions."""

    def batch(self, captions: Sequence[str], /) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token states (B, S, E) of captions side by side, and which tokens are there (B, S)."""


class TextEncoderLike(Protocol):
    """What is needed of a text encoder."""

    def states(self, captions: Sequence[str], /) -> list[torch.Tensor]:
        """Return the token states (S, E) of captions, in half precision."""

    def bank(self, captions: Sequence[str], cache: Path, /) -> TextsLike:
        """Return captions encoded, each once, kept in the folder ``cache``."""


@dataclass(frozen=True)
class Window:
    """The shape of a window.

    Attributes:
        frames: how many; 1 of photos.
        y: rows of tokens.
        x: columns of tokens.
        stride: take one of so many frames.
    """

    frames: int
    y: int
    x: int
    stride: int = 1

    @property
    def reach(self) -> int:
        """How many frames it spans."""
        return (self.frames - 1) * self.stride + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Along ``(t, y, x)``, in tokens."""
        return self.frames, self.y, self.x

    def fits(self, entry: BankEntry) -> bool:
        """Say whether a grid is as large as this."""
        return entry.frames >= self.reach and entry.y >= self.y and entry.x >= self.x

    def cut(self, tokens_TYX: Tokens, t: int, y: int, x: int) -> Tokens:
        """Return the window whose first token lies at ``(t, y, x)``."""
        return tokens_TYX[t : t + self.reach : self.stride, y : y + self.y, x : x + self.x]


class TokenWindowsModule(StreamingDataModule):
    """Windows of token grids: at random for training, fixed for validation.

    It can be made before the tokenizer exists; `attach_tokenizer` must have been called when the first loader is asked
    for, by the module's ``setup`` at the latest.

    Args:
        source: where the photos or videos come from.
        window: what is cut.
        batch_size: windows in a batch, per process.
        stills: share of the batches that hold single frames, as many as a batch of windows has in all.
        more: windows of other sizes; each training batch is of one size, of all with equal probability.
        whole_height: take windows only of grids with as many rows, so that the top and the bottom of a window are those
            of an image.
        options: see `StreamingDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun: ClassVar[str]
    """What the grids are of, for messages: photo or video."""

    def __init__(
        self,
        source: Source,
        window: Window,
        *,
        batch_size: int = 2,
        stills: float = 0.0,
        more: Sequence[Window] = (),
        whole_height: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        for option, size in [("data.grid", window), *(("data.grids", size) for size in more)]:
            if min(size.y, size.x) < 1:
                raise UsageError(option, [size.y, size.x], "give 1 token or more along each axis")
        if not 0 <= stills < 1:
            raise UsageError("data.stills", stills, "give a share of the batches, from 0 to below 1")
        self.source = source
        self.window = window
        self.stills = stills
        self.more = tuple(more)
        self.whole_height = whole_height
        self._tokenizer: TokenizerLike | None = None
        self._encode: Encode | None = None
        self._bank: TokenGrids | None = None
        self._coarse: CoarseLike | None = None
        self._coarse_bank: TokenGrids | None = None
        self._text_encoder: TextEncoderLike | None = None
        self._texts: CaptionsLike | None = None

    @abstractmethod
    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenGrids:
        """Return the token bank, built if it is not there.

        Raises:
            UsageError: if nothing can be used.
        """

    def open_coarse_bank(self, tokenizer: TokenizerLike, coarse: CoarseLike) -> TokenGrids:
        """Return the bank of coarse plans, which has the entries of the token bank, built if it is not there.

        Raises:
            UsageError: if there are none of this data.
        """
        raise UsageError("model.plan", coarse.name, f"there are no coarse plans of {self.noun}s: give null")

    def shard_parts(self, tokenizer: TokenizerLike, size: int) -> ShardParts:
        """Return what shards are made of, in parts of ``size`` photos or videos.

        Raises:
            UsageError: if this data is not kept in shards.
        """
        raise UsageError("data", type(self).__name__, "no shards are made of it: give TokenDataModule")

    @final
    def parts_of(
        self,
        read: Callable[[int], Iterator[ShardItem]],
        count: int,
        decides: Mapping[str, Any],
        *,
        about: Mapping[str, Any],
    ) -> ShardParts:
        """Return parts whose grids fit every window of this module."""
        if self.whole_height:
            raise UsageError("data.whole_height", True, "no shards are made for windows of whole heights: give false")
        windows = (self.window, *self.more)
        shapes = [(window.reach, window.y, window.x) for window in windows]
        decides = {**decides, "windows": [max(axis) for axis in zip(*shapes, strict=True)]}
        return ShardParts(count, read, decides, lambda entry: all(w.fits(entry) for w in windows), about)

    @abstractmethod
    def shrunk_to(self) -> tuple[str, str]:
        """Return to what lengths of the shorter side files are shrunk, and what to do for larger ones, in words."""

    @final
    def too_small(self, factor: int, window: Window | None = None) -> UsageError:
        """Return what to raise if no grid is as large as a window."""
        option = "data.grids" if window in self.more else "data.grid"
        window = window or self.window
        y, x = window.y, window.x
        sides, larger = self.shrunk_to()
        hint = (
            f"no {self.noun} is that large: a window needs {y * factor}x{x * factor} px (height x width"
            f"{', whole height' if self.whole_height else ''}) after"
            f" shrinking to {sides}; {larger}, give larger {self.noun}s or a smaller grid"
        )
        return UsageError(option, [y, x], hint)

    @final
    def attach_tokenizer(self, tokenizer: TokenizerLike, *, encode: Encode | None = None) -> None:
        """Say which tokenizer writes the tokens.

        Args:
            tokenizer: the tokenizer, with its final weights.
            encode: how to encode an image_B3YX of any size, if not by ``tokenizer.encode``.
        """
        self._tokenizer = tokenizer
        self._encode = encode
        self._bank = self._coarse_bank = None

    @final
    def attach_coarse(self, coarse: CoarseLike) -> None:
        """Let batches carry the coarse plans of windows."""
        self._coarse = coarse
        self._coarse_bank = None

    @final
    def attach_text_encoder(self, encoder: TextEncoderLike) -> None:
        """Let batches carry the encoded captions; what has none is left out."""
        self._text_encoder = encoder
        self._texts = None

    @property
    @final
    def captions(self) -> CaptionsLike | None:
        """The captions of what is in the bank, encoded; None without a text encoder.

        Raises:
            UsageError: if nothing has a caption.
        """
        if self._texts is None and self._text_encoder is not None:
            self._texts = self.encoded_captions(self._text_encoder)
        return self._texts

    def encoded_captions(self, encoder: TextEncoderLike) -> CaptionsLike:
        """Return `captions`, by a text encoder."""
        bank = self.bank
        assert isinstance(bank, TokenBank)
        by_key = {sample.key: sample.caption for split in SPLITS for sample in self.source.listed(split)}
        captions = [by_key.get(key, "") for key in bank.keys]
        without = [key for key, caption in zip(bank.keys, captions, strict=True) if not caption]
        if len(without) == len(captions):
            option, value = self.source.option("train")
            hint = f"no {self.noun} has a caption: put NAME.txt beside each, or a captions file (docs/captions.md)"
            raise UsageError(option, value, hint)
        if without:
            left_out = "leaving out %d of %d %ss without a caption: %s"
            _LOG.warning(left_out, len(without), len(captions), self.noun, some_of(without))
        return _Captions(tuple(captions), encoder.bank(captions, cache_folder(self.cache)))

    @property
    def bank(self) -> TokenGrids:
        """The token bank, built when first asked for.

        Raises:
            UsageError: if no tokenizer is attached or nothing can be used.
        """
        if self._bank is None:
            if self._tokenizer is None:
                raise UsageError("model.tokenizer", None, "name a trained tokenizer, its tokens are what is learned")
            self.source.prepare()
            self._bank = self.open_bank(self._tokenizer, self._encode)
            self._compare(self.state_dict())
            if isinstance(self._bank, TokenBank):
                small, total = self.smaller, len(self._bank.keys) + len(self._bank.too_small)
                if 0 < len(small) < total:  # with none left it is an error, not a warning
                    window = f"{self.window.y}x{self.window.x} tokens"
                    said = "leaving out %d of %d %ss smaller than a window of %s: %s"
                    _LOG.warning(said, len(small), total, self.noun, window, some_of(small))
        return self._bank

    @property
    def banks(self) -> tuple[TokenGrids, ...]:
        """The token bank and, with a coarse plan attached, that of the plans, which has the same grids."""
        bank = self.bank
        if self._coarse is None or self._tokenizer is None:
            return (bank,)
        if self._coarse_bank is None:
            self._coarse_bank = self.open_coarse_bank(self._tokenizer, self._coarse)
        return bank, self._coarse_bank

    @property
    def smaller(self) -> list[str]:
        """The keys of photos or videos of which no grid is as large as a window."""
        bank = self.bank
        if not isinstance(bank, TokenBank):
            return list(bank.left_out[1])
        fitting = {entry.photo for entry in bank.entries if self.fits_in(self.window, entry)}
        return bank.too_small + [key for place, key in enumerate(bank.keys) if place not in fitting]

    def prepare_data(self) -> None:
        """Fetch the data and, if the tokenizer is there already, encode it; called on one process only."""
        self.source.prepare()
        if self._tokenizer is not None:
            _ = self.banks

    def training_batches(self, rank: int, world: int) -> BatchMaker:
        def batches(window: Window) -> RandomBatches:
            choices = self._fitting("train", window)
            if not choices:
                raise self.too_small(self._tokenizer.downsample_factor if self._tokenizer else 1, window)
            draw = functools.partial(_random_window, self.banks, choices, window)
            return RandomBatches(draw, len(choices), self.batch_size, self.seed, rank, world)

        sizes = tuple(map(batches, (self.window, *self.more)))
        stills = None
        if self.stills:
            one = Window(1, self.window.y, self.window.x)
            draw = functools.partial(_random_window, self.banks, self._fitting("train", self.window), one)
            stills = replace(sizes[0], draw=draw, batch_size=self.batch_size * self.window.frames)
        return _Batches(sizes, stills, self.stills, self.captions)

    def validation_samples(self) -> FixedSamples[tuple[BankEntry, int, int, int]]:
        """Return all windows that tile the held-out grids."""
        entries = [entry for some in self._fitting("val", self.window) for entry in some]
        places = [
            (entry, t, y, x)
            for entry in entries
            for t in tiles(entry.frames, self.window.reach)
            for y in tiles(entry.y, self.window.y)
            for x in tiles(entry.x, self.window.x)
        ]
        return FixedSamples(places, functools.partial(_cut, self.banks, self.window))

    def collate(self) -> _Collate:
        return _Collate(self.captions)

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data."""
        if self._bank is None:
            return self.source.record()
        known = {"tokens": len(self.bank), "skipped": self.bank.left_out[0], "too_small": self.smaller}
        return {**self.source.record(), **known}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to notice that the data changed."""
        grid: list[Any] = [self.window.y, self.window.x]
        if self.more or self.whole_height:
            grid = [grid, *([window.y, window.x] for window in self.more), self.whole_height]
        return {"bank": self.bank.name, "seed": self.seed, "batch_size": self.batch_size, "grid": grid}

    @final
    def fits_in(self, window: Window, entry: BankEntry) -> bool:
        """Say whether windows are taken of a grid."""
        return window.fits(entry) and (not self.whole_height or entry.y == window.y)

    def _fitting(self, split: Split, window: Window) -> Sequence[Sequence[BankEntry]]:
        """Return the grids of ``split`` that are at least one window large, by photo or video."""
        of_photo = None if self.captions is None else self.captions.of_photo
        return self.bank.fitting(split, functools.partial(self.fits_in, window), of_photo)


class CaptionsLike(Protocol):
    """The captions of what is in a bank."""

    @property
    def of_photo(self) -> Sequence[str] | None:
        """By the place there; None if nothing lacks one."""

    def batch(self, indices: Sequence[int], /) -> Batch:
        """Return what a batch of these carries of text."""


@final
@dataclass(frozen=True)
class _Captions:
    """The captions of what is in a bank, by its place there, and their token states."""

    of_photo: tuple[str, ...]
    texts: TextsLike

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return what a batch of these carries of text."""
        text_BSE, text_mask_BS = self.texts.batch([self.of_photo[index] for index in indices])
        return {"text": text_BSE, "text_mask": text_mask_BS}


@final
@dataclass(frozen=True)
class _Collate:
    """Puts fixed windows side by side, with their texts."""

    captions: CaptionsLike | None

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        batch: Batch = default_collate(samples)
        return batch if self.captions is None else {**batch, **self.captions.batch(batch["index"].tolist())}


@final
@dataclass(frozen=True)
class _Batches:
    """A `BatchMaker` of windows, some batches of single frames, with their texts."""

    sizes: tuple[RandomBatches, ...]
    stills: RandomBatches | None
    share: float
    captions: CaptionsLike | None

    def batch(self, step: int) -> Batch:
        """See `BatchMaker.batch`."""
        maker = self.sizes[0]
        # Nothing is drawn for what never happens. All processes draw the same: their steps take equally long.
        if len(self.sizes) > 1:
            maker = self.sizes[int(generator(maker.seed, 4, step).integers(len(self.sizes)))]
        if self.stills is not None and generator(maker.seed, 3, step).random() < self.share:
            maker = self.stills
        batch = maker.batch(step)
        return batch if self.captions is None else {**batch, **self.captions.batch(batch["index"].tolist())}


def _random_window(
    banks: tuple[TokenGrids, ...],
    choices: Sequence[Sequence[BankEntry]],
    window: Window,
    random: np.random.Generator,
    index: int,
) -> dict[str, Any]:
    entry = choices[index][int(random.integers(len(choices[index])))]
    y = int(random.integers(entry.y - window.y + 1))
    x = int(random.integers(entry.x - window.x + 1))
    t = int(random.integers(entry.frames - window.reach + 1))
    return _cut(banks, window, (entry, t, y, x))


def _cut(banks: tuple[TokenGrids, ...], window: Window, place: tuple[BankEntry, int, int, int]) -> dict[str, Any]:
    """Return the window of an entry whose first token lies at (t, y, x)."""
    entry, *corner = place
    height = torch.tensor([corner[1], corner[1] + window.y]) / entry.y
    cuts = [torch.from_numpy(window.cut(bank.tokens(entry), *corner).astype(np.int64)) for bank in banks]
    return {**dict(zip(_NAMES, cuts, strict=False)), "index": entry.photo, "height": height}


def tiles(length: int, size: int) -> range:
    """Return where stretches of ``size`` begin that lie side by side at the centre of ``length``."""
    first = length % size // 2
    return range(first, length - size + 1, size)
