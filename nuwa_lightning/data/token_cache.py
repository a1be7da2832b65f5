"""Photos as grids of tokens, encoded once: whole, at several sizes, mirrored, and at several sub-token shifts.

The tokenizer is local, so a window of a whole photo's tokens is what encoding the window with its surroundings gives.
Shifts by parts of a token give grids that differ as crops of pixels would.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import torch

from nuwa_lightning.data.folders import content_key
from nuwa_lightning.data.photos import Photo, Split
from nuwa_lightning.data.preparing import PreparedPhotos, as_image, nothing_usable, prepare_photos
from nuwa_lightning.data.reading import MAX_PIXELS
from nuwa_lightning.data.token_bank import BankEntry, Encode, TokenBank, TokenizerLike, build_bank
from nuwa_lightning.errors import UsageError, some_of

# Legend: Y, X tokens (of tokens) or pixels (of images) along the axes; leading 1 and 3: one image, three colours.

_VERSION: Final = 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankSettings:
    """What is encoded of each training photo; of validation photos only the sizes, upright and unshifted.

    Attributes:
        short_sides: lengths of the shorter side in pixels; a photo is never enlarged.
        flips: also encode the left-right mirror image.
        phases: number of sub-token shifts, along both axes at once, evenly spaced from 0.
    """

    short_sides: tuple[int, ...] = (272, 304, 352)
    flips: bool = True
    phases: int = 2

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: naming the option.
        """
        if not self.short_sides or min(self.short_sides) < 1:
            raise UsageError("data.bank.short_sides", list(self.short_sides), "give lengths in pixels, such as 272")
        if self.phases < 1:
            raise UsageError("data.bank.phases", self.phases, "give 1 or more")


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
) -> TokenBank:
    """Return the bank of ``photos``, encoding what is not on disk yet; see `build_bank`.

    Its name depends on the tokenizer's fingerprint, the photos' contents and the settings, so another tokenizer never
    reads it.

    Args:
        photos: by split.
        tokenizer: gives factor, number of codes, fingerprint and, if ``encode`` is None, the encoder.
        cache: folder for banks and shrunk photos.
        settings: what is encoded of each photo.
        encode: the encoder, such as one that works tile by tile.
        max_pixels: limit on the pixels of one photo.
        progress: show a bar.
        source: the option that says where the photos lie and its value, for messages.

    Raises:
        UsageError: if a setting makes no sense or no photo can be used.
        ValueError: if the encoder returns tokens of a wrong shape or outside ``[0, codebook_size)``.
    """
    settings.check()
    listed: list[tuple[Split, Photo]] = [(split, photo) for split, some in sorted(photos.items()) for photo in some]
    name = _bank_name([(split, _content(photo)) for split, photo in listed], tokenizer, settings)

    def items() -> tuple[list[_PhotoItem], dict[str, list[str]]]:
        prepared = prepare_photos(
            [photo for _, photo in listed],
            settings.short_sides,
            crop=tokenizer.downsample_factor * 2,  # two tokens, so that a shifted grid still has one
            cache=cache,
            max_pixels=max_pixels,
            progress=progress,
        )
        if not prepared.entries:
            raise nothing_usable(*source, prepared, what="images")
        splits = {id(photo): split for split, photo in listed}
        found = [
            _PhotoItem(prepared, index, splits[id(prepared.photo(index))], tokenizer.downsample_factor, settings)
            for index in range(len(prepared))
        ]
        skipped = [str(entry.path) for entry in prepared.skipped]
        return found, {"skipped": skipped, "too_small": [photo.key for photo in prepared.too_small]}

    folder = cache / "tokens" / name
    made_before = (folder / "index.json").is_file()
    about = {"version": _VERSION, "settings": asdict(settings)}
    bank = build_bank(folder, items, tokenizer, about=about, encode=encode, progress=progress)
    if bank.skipped and made_before:  # else each was named a moment ago
        _LOG.warning("%d of %d photos cannot be read: %s", len(bank.skipped), len(listed), some_of(bank.skipped))
    return bank


def _bank_name(contents: list[tuple[str, str]], tokenizer: TokenizerLike, settings: BankSettings) -> str:
    said = [
        _VERSION,
        tokenizer.fingerprint(),
        tokenizer.downsample_factor,
        tokenizer.codebook_size,
        asdict(settings),
        contents,
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]


def _content(photo: Photo) -> str:
    try:
        return content_key(photo.path)
    except OSError:
        return "unreadable"


@final
@dataclass(frozen=True)
class _PhotoItem:
    """A `BankItem`: one photo at every size."""

    prepared: PreparedPhotos
    index: int
    split: Split
    downsample_factor: int
    settings: BankSettings

    @property
    def key(self) -> str:
        return self.prepared.photo(self.index).key

    @property
    def content(self) -> str:
        return content_key(self.prepared.photo(self.index).path)

    @property
    def _variants(self) -> BankSettings:
        if self.split == "train":
            return self.settings
        return BankSettings(self.settings.short_sides, flips=False, phases=1)

    def plan(self, place: int, start: int) -> list[BankEntry]:
        entries: list[BankEntry] = []
        variants = self._variants
        for height, width in self.prepared.shapes(self.index):
            for flip in (False, True)[: 1 + variants.flips]:
                for phase in range(variants.phases):
                    shift = phase * self.downsample_factor // variants.phases
                    y, x = (height - shift) // self.downsample_factor, (width - shift) // self.downsample_factor
                    entries.append(BankEntry(place, min(height, width), flip, phase, start, y, x))
                    start += y * x
        return entries

    @torch.no_grad()
    def encoded(self, entry: BankEntry, encode: Encode) -> torch.Tensor:
        sides = [min(shape) for shape in self.prepared.shapes(self.index)]
        pixels_YX3 = self.prepared.array(self.index, sides.index(entry.short_side))
        if entry.flip:
            pixels_YX3 = pixels_YX3[:, ::-1]
        f = self.downsample_factor
        shift = entry.phase * f // self._variants.phases
        pixels_YX3 = pixels_YX3[shift : shift + entry.y * f, shift : shift + entry.x * f]
        return encode(torch.from_numpy(as_image(pixels_YX3))[None])
