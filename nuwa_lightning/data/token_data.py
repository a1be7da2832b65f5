"""The data module of stage 2: random windows of token grids.

Batches are dicts: ``tokens`` int64 (B, T, Y, X) with T = 1, and ``index`` int64 (B), the photo's place in the bank.
With a text encoder attached also ``text`` float32 (B, S, E), the token states of the photos' captions, and
``text_seen`` bool (B, S), which of these are there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, default_collate

from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.photos import PhotoSource, Split
from nuwa_lightning.data.reading import MAX_PIXELS
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
from nuwa_lightning.data.token_cache import BankEntry, BankSettings, Encode, TokenBank, TokenizerLike, build_token_bank
from nuwa_lightning.errors import UsageError

# Legend: B windows of a batch, T frames (1), Y, X tokens along the axes.

_LOG = logging.getLogger(__name__)
_BANK = BankSettings()


class TextsLike(Protocol):
    """Encoded captions."""

    def batch(self, captions: Sequence[str], /) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token states (B, S, E) of captions side by side, and which tokens are there (B, S)."""


class TextEncoderLike(Protocol):
    """What is needed of a text encoder."""

    def bank(self, captions: Sequence[str], cache: Path, /) -> TextsLike:
        """Return captions encoded, each once, kept in the folder ``cache``."""


@final
class TokenDataModule(LightningDataModule):
    """Windows of the token grids of photos: at random for training, fixed for validation.

    It can be made before the tokenizer exists; `attach_tokenizer` must have been called when the first loader is asked
    for, by the module's ``setup`` at the latest. Batch ``n`` is a pure function of (seed, n), as in `ImageDataModule`.

    Args:
        photos: where the photos come from.
        grid: (y, x) of a window in tokens.
        bank: what is encoded of each photo.
        batch_size: windows in a batch, per process.
        steps_per_epoch: batches in an epoch.
        num_workers: processes that cut windows ahead; 0, the default, is enough.
        seed: of the order and the windows.
        max_pixels: limit on the pixels of one photo.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        photos: PhotoSource,
        *,
        grid: tuple[int, int] = (32, 32),
        bank: BankSettings = _BANK,
        batch_size: int = 2,
        steps_per_epoch: int = 200,
        num_workers: int = 0,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        bank.check()
        check_loading(batch_size, steps_per_epoch, num_workers)
        if min(grid) < 1:
            raise UsageError("data.grid", list(grid), "give 1 token or more along each axis")
        self.photos = photos
        self.grid = grid
        self.settings = bank
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.max_pixels = max_pixels
        self.cache = cache
        self._tokenizer: TokenizerLike | None = None
        self._encode: Encode | None = None
        self._bank: TokenBank | None = None
        self._text_encoder: TextEncoderLike | None = None
        self._texts: _Captions | None = None
        self._stored: dict[str, Any] = {}

    def attach_tokenizer(self, tokenizer: TokenizerLike, *, encode: Encode | None = None) -> None:
        """Say which tokenizer writes the tokens.

        Args:
            tokenizer: the tokenizer, with its final weights.
            encode: how to encode an image_13YX of any size, if not by ``tokenizer.encode``.
        """
        self._tokenizer = tokenizer
        self._encode = encode
        self._bank = None

    def attach_text_encoder(self, encoder: TextEncoderLike) -> None:
        """Let batches carry the encoded captions of the photos; photos without one are left out."""
        self._text_encoder = encoder
        self._texts = None

    @property
    def captions(self) -> _Captions | None:
        """The captions of the photos in the bank, encoded; None without a text encoder.

        Raises:
            UsageError: if no training photo has a caption.
        """
        if self._texts is None and self._text_encoder is not None:
            photos = [*self.photos.photos("train"), *self.photos.photos("val")]
            by_key = {photo.key: photo.caption for photo in photos}
            captions = [by_key.get(key, "") for key in self.bank.keys]
            without = [key for key, caption in zip(self.bank.keys, captions, strict=True) if not caption]
            if len(without) == len(captions):
                option, value = self.photos.option("train")
                cure = "no photo has a caption: put NAME.txt beside each, or a captions file (docs/captions.md)"
                raise UsageError(option, value, cure)
            if without:
                named = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
                _LOG.warning("leaving out %d of %d photos without a caption: %s", len(without), len(captions), named)
            texts = self._text_encoder.bank(captions, cache_folder(self.cache))
            self._texts = _Captions(tuple(captions), texts)
        return self._texts

    @property
    def bank(self) -> TokenBank:
        """The token bank, built when first asked for.

        Raises:
            UsageError: if no tokenizer is attached or no photo can be used.
        """
        if self._bank is None:
            if self._tokenizer is None:
                raise UsageError("model.tokenizer", None, "name a trained tokenizer, its tokens are what is learned")
            self.photos.prepare()
            self._bank = build_token_bank(
                {"train": self.photos.photos("train"), "val": self.photos.photos("val")},
                self._tokenizer,
                cache=cache_folder(self.cache),
                settings=self.settings,
                encode=self._encode,
                max_pixels=self.max_pixels,
            )
            note = resume_note(self._stored, self._state(self._bank))
            if note:
                _LOG.warning(note)
        return self._bank

    def prepare_data(self) -> None:
        """Fetch the photos and, if the tokenizer is there already, encode them; called on one process only."""
        self.photos.prepare()
        if self._tokenizer is not None:
            _ = self.bank

    def train_dataloader(self) -> BatchStream:
        """Return the stream of training batches, from the trainer's position on.

        Raises:
            UsageError: if no tokenizer is attached or no photo is as large as a window.
        """
        rank, world = rank_and_world(self)
        choices = self._fitting("train")
        if not choices:
            factor = self._tokenizer.factor if self._tokenizer else 1
            y, x = self.grid
            raise UsageError(
                "data.grid",
                list(self.grid),
                f"no photo is that large: a window needs {y * factor}x{x * factor} px (height x width) after"
                f" shrinking to one of {list(self.settings.short_sides)}; raise data.bank.short_sides, give larger"
                " photos or a smaller grid",
            )
        maker = _TrainWindows(self.bank, choices, self.grid, self.batch_size, self.seed, rank, world, self.captions)
        return BatchStream(
            maker,
            length=self.steps_per_epoch,
            position=lambda: trainer_position(self),
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader over all windows that tile the held-out grids, in fixed order; none if none is held out."""
        windows = _FixedWindows(self.bank, [entry for some in self._fitting("val") for entry in some], self.grid)
        if not len(windows):
            return []
        collate = _Collate(self.captions)
        return [DataLoader(windows, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=collate)]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation loader."""
        return self.val_dataloader()

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data."""
        known: dict[str, object] = {"tokens": len(self.bank), "skipped": self.bank.skipped} if self._bank else {}
        return {**self.photos.record(), **known}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to notice that the data changed."""
        return self._state(self.bank)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a checkpoint's data for comparison when the bank is opened."""
        self._stored = state_dict

    def _state(self, bank: TokenBank) -> dict[str, Any]:
        return {"bank": bank.folder.name, "seed": self.seed, "batch_size": self.batch_size, "grid": list(self.grid)}

    def _fitting(self, split: Split) -> list[list[BankEntry]]:
        """Return the grids of ``split`` that are at least one window large, photo by photo."""
        by_photo: dict[int, list[BankEntry]] = {}
        captions = self.captions
        for entry in self.bank.entries:
            if captions is not None and not captions.of_photo[entry.photo]:
                continue
            if self.bank.splits[entry.photo] == split and entry.y >= self.grid[0] and entry.x >= self.grid[1]:
                by_photo.setdefault(entry.photo, []).append(entry)
        return list(by_photo.values())


@final
@dataclass(frozen=True)
class _Captions:
    """The captions of the photos of a bank, by the photo's place in it, and their token states."""

    of_photo: tuple[str, ...]
    texts: TextsLike

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return what a batch with these photos carries of text."""
        text_BSE, seen_BS = self.texts.batch([self.of_photo[index] for index in indices])
        return {"text": text_BSE, "text_seen": seen_BS}


@final
@dataclass(frozen=True)
class _Collate:
    """Puts fixed windows side by side, with their texts."""

    captions: _Captions | None

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        batch: Batch = default_collate(samples)
        return batch if self.captions is None else {**batch, **self.captions.batch(batch["index"].tolist())}


@final
@dataclass(frozen=True)
class _TrainWindows:
    """Random windows; batch ``step`` is a pure function of the fields and ``step``."""

    bank: TokenBank
    choices: list[list[BankEntry]]
    grid: tuple[int, int]
    batch_size: int
    seed: int
    rank: int
    world: int
    captions: _Captions | None = None

    def batch(self, step: int) -> Batch:
        """See `BatchMaker.batch`."""
        first = (step * self.world + self.rank) * self.batch_size
        made = [self._window(first + place) for place in range(self.batch_size)]
        tokens_BYX = np.stack([window_YX for window_YX, _ in made]).astype(np.int64)
        indices = [index for _, index in made]
        batch = {"tokens": torch.from_numpy(tokens_BYX)[:, None], "index": torch.tensor(indices)}
        return batch if self.captions is None else {**batch, **self.captions.batch(indices)}

    def _window(self, sample: int) -> tuple[np.ndarray[Any, Any], int]:
        random = generator(self.seed, 2, sample)
        choices = self.choices[photo_of_sample(self.seed, sample, len(self.choices))]
        entry = choices[int(random.integers(len(choices)))]
        y = int(random.integers(entry.y - self.grid[0] + 1))
        x = int(random.integers(entry.x - self.grid[1] + 1))
        return self.bank.grid(entry)[y : y + self.grid[0], x : x + self.grid[1]], entry.photo


@final
class _FixedWindows(Dataset[Batch]):
    """As many windows as fit side by side, centred on each grid."""

    def __init__(self, bank: TokenBank, entries: list[BankEntry], grid: tuple[int, int]) -> None:
        self._bank = bank
        self._grid = grid
        self._places = [
            (entry, y, x) for entry in entries for y in _tiles(entry.y, grid[0]) for x in _tiles(entry.x, grid[1])
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> dict[str, Any]:
        entry, y, x = self._places[place]
        window_YX = self._bank.grid(entry)[y : y + self._grid[0], x : x + self._grid[1]].astype(np.int64)
        return {"tokens": torch.from_numpy(window_YX)[None], "index": entry.photo}


def _tiles(length: int, size: int) -> range:
    first = length % size // 2
    return range(first, length - size + 1, size)
