"""Photos as grids of tokens, encoded once, and the data module of stage 2 that cuts random windows of them.

Each photo is encoded whole, at several sizes, mirrored, and at several sub-token shifts. The tokenizer is local, so a
window of a whole photo's tokens is what encoding the window with its surroundings gives. Shifts by parts of a token
give grids that differ as crops of pixels would.
"""

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch

from nuwa_lightning.data.crops import jitter_colours
from nuwa_lightning.data.folders import cache_folder, content_key, content_keys
from nuwa_lightning.data.iterable_photos import IterablePhotos
from nuwa_lightning.data.photos import Photo, PhotoSource, Split
from nuwa_lightning.data.preparing import (
    PreparedPhotos,
    as_pixels,
    decode_for,
    nothing_usable,
    prepare_photos,
    shrunk,
    sizes_for,
)
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, NotesLog, image_size
from nuwa_lightning.data.shard_making import ShardParts, digest, in_chunks
from nuwa_lightning.data.sources import SPLITS
from nuwa_lightning.data.token_bank import (
    BankEntry,
    CoarseLike,
    Encode,
    TokenBank,
    TokenizerLike,
    bank_folder,
    build_bank,
)
from nuwa_lightning.data.token_windows import TokenWindowsModule, Window
from nuwa_lightning.errors import UsageError, check_range, some_of

# Legend: Y, X tokens (of tokens) or pixels (of images) along the axes; leading 1 and 3: one image, three colours.

_VERSION: Final = 4
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankSettings:
    """What is encoded of each training photo; of validation photos only the sizes, upright and unshifted.

    Attributes:
        short_sides: lengths of the shorter side in pixels; a photo is never enlarged.
        flips: also encode the left-right mirror image.
        phases: number of sub-token shifts, along both axes at once, evenly spaced from 0.
        colour_jitter: strength of random changes of colour of all but the unshifted ones, as `CropSettings` has it;
            drawn once, as the bank is.
    """

    short_sides: tuple[int, ...] = (272, 304, 352)
    flips: bool = True
    phases: int = 2
    colour_jitter: float = 0.0

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: naming the option.
        """
        if not self.short_sides or min(self.short_sides) < 1:
            raise UsageError("data.bank.short_sides", list(self.short_sides), "give lengths in pixels, such as 272")
        check_range("data.bank.phases", self.phases, 1, 64)
        if not 0.0 <= self.colour_jitter < 1.0:
            raise UsageError("data.bank.colour_jitter", self.colour_jitter, "give a strength in [0, 1), such as 0.1")

    def decides(self) -> dict[str, Any]:
        """Return what decides what a bank holds; what is off is left out, so that banks of before are found."""
        return {name: value for name, value in asdict(self).items() if value or name != "colour_jitter"}


def build_token_bank(
    photos: Mapping[Split, Sequence[Photo]],
    tokenizer: TokenizerLike,
    *,
    cache: Path,
    settings: BankSettings,
    encode: Encode | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
    source: tuple[str, str] = ("photos", "these"),
    coarse: CoarseLike | None = None,
) -> TokenBank:
    """Return the bank of ``photos``, encoding what is not on disk yet; see `build_bank`.

    Its name depends on the tokenizer's fingerprint, the photos' contents and the settings, so another tokenizer never
    reads it. With ``coarse`` it holds the tokens of coarse plans of the photos instead of their own; ``source`` is the
    option that says where the photos lie and its value, for messages.

    Raises:
        UsageError: if a setting makes no sense or no photo can be used.
        ValueError: see `build_bank`.
    """
    settings.check()
    factor = tokenizer.downsample_factor
    listed: list[tuple[Split, Photo]] = [(split, photo) for split, some in sorted(photos.items()) for photo in some]
    keys = content_keys([photo.path for _, photo in listed], cache=cache)
    contents = ["unreadable" if isinstance(key, OSError) else key for key in keys]
    decides = [
        _VERSION,
        tokenizer.fingerprint(),
        factor,
        tokenizer.codebook_size,
        settings.decides(),
        [(split, key) for (split, _), key in zip(listed, contents, strict=True)],
        *([coarse.name] if coarse else []),
    ]

    def items() -> tuple[list[_PhotoItem], dict[str, list[str]]]:
        prepared = prepare_photos(
            [photo for _, photo in listed],
            settings.short_sides,
            crop=factor * 2,  # two tokens, so that a shifted grid still has one
            cache=cache,
            max_pixels=max_pixels,
            progress=progress,
        )
        if not prepared.entries:
            raise nothing_usable(*source, prepared, what="images")
        splits = {id(photo): split for split, photo in listed}
        own = [prepared.photo(index) for index in range(len(prepared))]
        found = [
            _PhotoItem(photo, splits[id(photo)], factor, settings, coarse, prepared, index)
            for index, photo in enumerate(own)
        ]
        too_small = [photo.key for photo in prepared.left_out["too_small"]]
        return found, {"skipped": [str(entry.path) for entry in prepared.skipped], "too_small": too_small}

    made_before = (bank_folder(cache, decides) / "index.json").is_file()
    about = {"version": _VERSION, "settings": settings.decides()}
    bank = build_bank(cache, decides, items, tokenizer, about=about, encode=encode, progress=progress)
    if bank.skipped and made_before:  # else each was named a moment ago
        _LOG.warning("%d of %d photos cannot be read: %s", len(bank.skipped), len(listed), some_of(bank.skipped))
    return bank


@dataclass(frozen=True)
class _Item(ABC):
    """A `BankItem`: one photo at every size."""

    photo: Photo
    split: Split
    downsample_factor: int
    settings: BankSettings
    coarse: CoarseLike | None

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each size, smallest first."""

    @abstractmethod
    def pixels(self, size: int) -> npt.NDArray[np.uint8]:
        """Return one of the sizes (Y, X, 3)."""

    @property
    def key(self) -> str:
        return self.photo.key

    @property
    def caption(self) -> str:
        return self.photo.caption

    @property
    def content(self) -> str:
        return content_key(self.photo.path)

    @property
    def _variants(self) -> BankSettings:
        if self.split == "train":
            return self.settings
        return BankSettings(self.settings.short_sides, flips=False, phases=1)

    def plan(self, place: int, start: int) -> list[BankEntry]:
        entries: list[BankEntry] = []
        variants = self._variants
        for height, width in self.shapes:
            for flip in (False, True)[: 1 + variants.flips]:
                for phase in range(variants.phases):
                    shift = phase * self.downsample_factor // variants.phases
                    y, x = (height - shift) // self.downsample_factor, (width - shift) // self.downsample_factor
                    entries.append(BankEntry(place, min(height, width), flip, phase, start, y, x))
                    start += y * x
        return entries

    @torch.no_grad()
    def encoded(self, entry: BankEntry, encode: Encode) -> torch.Tensor:
        pixels_YX3 = self.pixels([min(shape) for shape in self.shapes].index(entry.short_side))
        if entry.flip:
            pixels_YX3 = pixels_YX3[:, ::-1]
        f = self.downsample_factor
        shift = entry.phase * f // self._variants.phases
        pixels_YX3 = pixels_YX3[shift : shift + entry.y * f, shift : shift + entry.x * f]
        image_3YX = as_pixels(pixels_YX3)
        if self._variants.colour_jitter and entry.phase:
            # Of the entry alone: a photo and its coarse plan, which are encoded one after the other, change alike.
            image_3YX = jitter_colours(image_3YX, self.settings.colour_jitter, np.random.default_rng(entry.start))
        image_13YX = torch.from_numpy(image_3YX)[None]
        if self.coarse is None:
            return encode(image_13YX)
        return self.coarse.encode(image_13YX, seed=entry.start if self.split == "train" else None)


@final
@dataclass(frozen=True)
class _PhotoItem(_Item):
    """One of photos that are kept at every size."""

    prepared: PreparedPhotos
    index: int

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return self.prepared.shapes(self.index)

    def pixels(self, size: int) -> npt.NDArray[np.uint8]:
        return self.prepared.array(self.index, size)


@final
@dataclass(frozen=True)
class _PassingItem(_Item):
    """One that is decoded once and not kept."""

    max_pixels: int
    tell: NotesLog

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        size = image_size(self.photo.path, max_pixels=self.max_pixels)
        return sizes_for(size, self.settings.short_sides, 2 * self.downsample_factor)

    @functools.cached_property
    def _arrays(self) -> list[npt.NDArray[np.uint8]]:
        image = self.tell(self.photo.path, decode_for(self.photo.path, max(map(min, self.shapes)), self.max_pixels))
        return [shrunk(image, shape) for shape in self.shapes]

    def pixels(self, size: int) -> npt.NDArray[np.uint8]:
        return self._arrays[size]


_BANK = BankSettings()


@final
class TokenDataModule(TokenWindowsModule):
    """Windows of the token grids of photos: at random for training, fixed for validation; ``tokens`` have T = 1.

    Args:
        photos: where the photos come from.
        grid: (y, x) of a window in tokens.
        grids: further sizes; each training batch is of one, of all with equal probability. Validation is by ``grid``.
        bank: what is encoded of each photo.
        max_pixels: limit on the pixels of one photo.
        options: see `TokenWindowsModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "photo"

    def __init__(
        self,
        photos: PhotoSource,
        *,
        grid: tuple[int, int] = (32, 32),
        grids: Sequence[tuple[int, int]] = (),
        bank: BankSettings = _BANK,
        max_pixels: int = MAX_PIXELS,
        **options: Any,
    ) -> None:
        bank.check()
        more = [Window(1, *size) for size in grids]
        super().__init__(photos, Window(1, *grid), stills=0.0, more=more, **options)  # a photo is always one
        self.photos = photos
        self.settings = bank
        self.max_pixels = max_pixels

    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenBank:
        self._set_odd_aside(tokenizer.downsample_factor)
        return self._build(tokenizer, encode=encode)

    def open_coarse_bank(self, tokenizer: TokenizerLike, coarse: CoarseLike) -> TokenBank:
        return self._build(tokenizer, coarse=coarse)

    def _build(
        self, tokenizer: TokenizerLike, *, encode: Encode | None = None, coarse: CoarseLike | None = None
    ) -> TokenBank:
        return build_token_bank(
            {"train": self.photos.photos("train"), "val": self.photos.photos("val")},
            tokenizer,
            cache=cache_folder(self.cache),
            settings=self.settings,
            encode=encode,
            max_pixels=self.max_pixels,
            source=self.photos.option("train"),
            coarse=coarse,
        )

    def shard_parts(self, tokenizer: TokenizerLike, size: int) -> ShardParts:
        source, settings, factor = self.photos, self.settings, tokenizer.downsample_factor
        tell = NotesLog()

        def item(split: Split, photo: Photo) -> _PassingItem:
            return _PassingItem(photo, split, factor, settings, None, self.max_pixels, tell)

        if isinstance(source, IterablePhotos) and (count := source.parts(size)):
            streaming = source  # for the type checker

            def streamed(number: int) -> Iterator[_PassingItem]:
                return (item(split, photo) for split, photo in streaming.photos_of_part(number, size))

            decides = {"photos": source.name, "val_fraction": source.val_fraction, "bank": settings.decides()}
            return self.parts_of(streamed, count, decides, about={"source": source.name})
        source.prepare()
        chunks = [(split, some) for split in SPLITS for some in in_chunks(source.photos(split), size)]
        scenes = [[split, photo.key, photo.scene, photo.caption] for split, some in chunks for photo in some]
        decides = {"photos": digest(scenes), "bank": settings.decides()}

        def listed(number: int) -> Iterator[_PassingItem]:
            split, some = chunks[number]
            return (item(split, photo) for photo in some)

        return self.parts_of(listed, len(chunks), decides, about=source.record())

    def check_sizes(self, factor: int) -> None:
        """Look at the headers of the photos, before there is a tokenizer of ``factor`` pixels a token."""
        self._set_odd_aside(factor)
        smaller = False
        for split in SPLITS:
            for photo in self.photos.photos(split):
                fits = self._fits(photo, factor)
                if fits and split == "train":
                    return
                smaller |= fits is False
        if smaller:
            raise self.too_small(factor)

    def _fits(self, photo: Photo, factor: int) -> bool | None:
        """Say whether a window fits into a photo; None if its header cannot be read."""
        try:
            size = image_size(photo.path, max_pixels=self.max_pixels)
        except ImageReadError:
            return None
        for height, width in sizes_for(size, self.settings.short_sides, 2 * factor):
            y, x = height // factor, width // factor
            if y >= self.window.y and x >= self.window.x and (not self.whole_height or y == self.window.y):
                return True
        return False

    def _set_odd_aside(self, factor: int) -> None:
        """Hold out other photos where none of those held out can be used, or none of the rest."""
        sides = [self.photos.photos(split) for split in SPLITS]
        if all(not side or any(self._fits(photo, factor) for photo in side) for side in sides):
            return
        total = sum(map(len, sides))
        odd = [photo.path for side in sides for photo in side if not self._fits(photo, factor)]
        if len(odd) < total and self.photos.set_aside(odd):
            named = some_of([str(path) for path in odd])
            _LOG.warning("leaving out %d of %d photos, damaged or too small: %s", len(odd), total, named)

    def shrunk_to(self) -> tuple[str, str]:
        return f"one of {list(self.settings.short_sides)}", "raise data.bank.short_sides"
