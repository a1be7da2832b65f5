"""Photos as grids of tokens, encoded once: whole, at several sizes, mirrored, and at several sub-token shifts.

The tokenizer is local, so a window of a whole photo's tokens is what encoding the window with its surroundings gives.
Training stage 2 from the bank costs no encoding, and shifts by parts of a token give grids that differ as crops of
pixels would.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
import torch

from nuwa_lightning.atomic import atomic_folder, atomic_write, write_json
from nuwa_lightning.data.folders import content_key, locked
from nuwa_lightning.data.photos import Photo, Split
from nuwa_lightning.data.preparing import PreparedPhotos, as_image, prepare_photos
from nuwa_lightning.data.reading import MAX_PIXELS
from nuwa_lightning.errors import UsageError

# Legend: Y, X tokens (of tokens) or pixels (of images) along the axes; leading 1 and 3: one picture, three colours.

_VERSION: Final = 1

Encode = Callable[[torch.Tensor], torch.Tensor]
"""image_13YX in [-1, 1], sides multiples of the tokenizer's factor -> tokens_1YX (integers)."""


class TokenizerLike(Protocol):
    """What the bank needs of a tokenizer."""

    @property
    def factor(self) -> int:
        """Pixels per token along a side."""

    @property
    def num_codes(self) -> int:
        """Number of different tokens."""

    def encode(self, image_B3YX: torch.Tensor, /) -> torch.Tensor:
        """Return tokens_BYX."""

    def fingerprint(self) -> str:
        """Return a text that changes with the weights."""


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


@dataclass(frozen=True)
class BankEntry:
    """One grid: which photo, how it was made, where its tokens start in the file, and its shape in tokens."""

    photo: int
    short_side: int
    flip: bool
    phase: int
    start: int
    y: int
    x: int


@final
class TokenBank:
    """Token grids of photos, mapped from disk.

    Args:
        folder: a folder that `build_token_bank` made.

    Raises:
        UsageError: if it is not one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            data = json.loads((folder / "index.json").read_text("utf-8"))
            self.num_codes: int = data["num_codes"]
            self.fingerprint: str = data["fingerprint"]
            self.keys: list[str] = [photo["key"] for photo in data["photos"]]
            self.splits: list[Split] = [photo["split"] for photo in data["photos"]]
            self.skipped: list[str] = data["skipped"]
            self.entries = [BankEntry(**entry) for entry in data["entries"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError("token bank", folder, "damaged; delete the folder, it is built anew") from error

    @functools.cached_property
    def _flat(self) -> npt.NDArray[np.integer[Any]]:
        mapped: npt.NDArray[np.integer[Any]] = np.load(self.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped file out, so that loading processes map it themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}

    def __len__(self) -> int:
        """Return the number of tokens in all grids."""
        return int(self._flat.shape[0])

    def grid(self, entry: BankEntry) -> npt.NDArray[np.integer[Any]]:
        """Return the tokens of ``entry`` as (Y, X), not copied."""
        return self._flat[entry.start : entry.start + entry.y * entry.x].reshape(entry.y, entry.x)


def build_token_bank(
    photos: Mapping[Split, Sequence[Photo]],
    tokenizer: TokenizerLike,
    *,
    cache: Path,
    settings: BankSettings,
    encode: Encode | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> TokenBank:
    """Return the bank of ``photos``, encoding what is not on disk yet.

    A bank appears whole or not at all. One broken off goes on where it was: finished photos wait in a folder ending in
    ``.part``. Its name depends on the tokenizer's fingerprint, the photos' contents and the settings, so another
    tokenizer never reads it.

    Args:
        photos: by split.
        tokenizer: gives factor, number of codes, fingerprint and, if ``encode`` is None, the encoder.
        cache: folder for banks and shrunk photos.
        settings: what is encoded of each photo.
        encode: the encoder, such as one that works tile by tile.
        max_pixels: limit on the pixels of one photo.
        progress: show a bar.

    Raises:
        UsageError: if a setting makes no sense or no photo can be used.
        ValueError: if the encoder returns tokens of a wrong shape or outside ``[0, num_codes)``.
    """
    settings.check()
    listed: list[tuple[Split, Photo]] = [(split, photo) for split, some in sorted(photos.items()) for photo in some]
    name = _bank_name([(split, _content(photo)) for split, photo in listed], tokenizer, settings)
    folder = cache / "tokens" / name
    if not (folder / "index.json").is_file():
        with locked(folder.with_name(name + ".part")):
            if not (folder / "index.json").is_file():
                prepared = prepare_photos(
                    [photo for _, photo in listed],
                    settings.short_sides,
                    view=tokenizer.factor * 2,  # two tokens, so that a shifted grid still has one
                    cache=cache,
                    max_pixels=max_pixels,
                    progress=progress,
                )
                splits = {id(photo): split for split, photo in listed}
                _build(folder, prepared, splits, tokenizer, settings, encode or tokenizer.encode, progress)
        shutil.rmtree(folder.with_name(name + ".part"), ignore_errors=True)
    return TokenBank(folder)


def _bank_name(contents: list[tuple[str, str]], tokenizer: TokenizerLike, settings: BankSettings) -> str:
    said = [_VERSION, tokenizer.fingerprint(), tokenizer.factor, tokenizer.num_codes, asdict(settings), contents]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]


def _content(photo: Photo) -> str:
    try:
        return content_key(photo.path)
    except OSError:
        return "unreadable"


def _build(
    folder: Path,
    prepared: PreparedPhotos,
    splits: dict[int, Split],
    tokenizer: TokenizerLike,
    settings: BankSettings,
    encode: Encode,
    progress: bool,
) -> None:
    from tqdm.auto import tqdm

    if not prepared.entries:
        raise UsageError("data.photos", f"{len(prepared.skipped)} unreadable", "give photos that can be read")
    part = folder.with_name(folder.name + ".part")
    entries: list[BankEntry] = []
    start = 0
    bar = tqdm(range(len(prepared)), desc="encoding photos", unit="photo", disable=None if progress else True)
    for index in bar:
        variants = settings if splits[id(prepared.photo(index))] == "train" else _upright(settings)
        planned = _plan(index, prepared.shapes(index), tokenizer.factor, variants, start)
        start = planned[-1].start + planned[-1].y * planned[-1].x
        entries += planned
        shard = part / f"{index:06d}.npy"
        if not _is_shard(shard, planned, _dtype(tokenizer.num_codes)):
            tokens = _encode_photo(prepared, planned, tokenizer, variants, encode)
            with atomic_write(shard) as partial:
                np.save(partial, tokens, allow_pickle=False)
    with atomic_folder(folder, overwrite=True) as partial_folder:
        flat = np.lib.format.open_memmap(
            partial_folder / "tokens.npy", mode="w+", dtype=_dtype(tokenizer.num_codes), shape=(start,)
        )
        at = 0
        for index in range(len(prepared)):
            tokens = np.load(part / f"{index:06d}.npy", allow_pickle=False)
            flat[at : at + len(tokens)] = tokens
            at += len(tokens)
        flat.flush()
        del flat
        used = [prepared.photo(index) for index in range(len(prepared))]
        index_data = {
            "version": _VERSION,
            "fingerprint": tokenizer.fingerprint(),
            "factor": tokenizer.factor,
            "num_codes": tokenizer.num_codes,
            "settings": asdict(settings),
            "photos": [{"key": p.key, "split": splits[id(p)], "content": content_key(p.path)} for p in used],
            "skipped": [str(entry.path) for entry in prepared.skipped],
            "entries": [asdict(entry) for entry in entries],
        }
        write_json(partial_folder / "index.json", index_data)


def _upright(settings: BankSettings) -> BankSettings:
    return BankSettings(settings.short_sides, flips=False, phases=1)


def _dtype(num_codes: int) -> npt.DTypeLike:
    return np.uint16 if num_codes <= 65536 else np.int32


def _is_shard(path: Path, planned: Sequence[BankEntry], dtype: npt.DTypeLike) -> bool:
    """Say whether ``path`` holds the tokens of ``planned``, left by a build that was broken off."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return bool(found.dtype == dtype and found.shape == (sum(entry.y * entry.x for entry in planned),))


def _plan(
    photo: int, shapes: Sequence[tuple[int, int]], factor: int, settings: BankSettings, start: int
) -> list[BankEntry]:
    """Return the entries of one photo, in the order in which they are encoded."""
    entries: list[BankEntry] = []
    for height, width in shapes:
        for flip in (False, True)[: 1 + settings.flips]:
            for phase in range(settings.phases):
                shift = phase * factor // settings.phases
                y, x = (height - shift) // factor, (width - shift) // factor
                entries.append(BankEntry(photo, min(height, width), flip, phase, start, y, x))
                start += y * x
    return entries


@torch.no_grad()
def _encode_photo(
    prepared: PreparedPhotos,
    entries: Sequence[BankEntry],
    tokenizer: TokenizerLike,
    settings: BankSettings,
    encode: Encode,
) -> npt.NDArray[np.integer[Any]]:
    sides = [min(shape) for shape in prepared.shapes(entries[0].photo)]
    parts = []
    for entry in entries:
        pixels_YX3 = prepared.array(entry.photo, sides.index(entry.short_side))
        if entry.flip:
            pixels_YX3 = pixels_YX3[:, ::-1]
        shift, f = entry.phase * tokenizer.factor // settings.phases, tokenizer.factor
        pixels_YX3 = pixels_YX3[shift : shift + entry.y * f, shift : shift + entry.x * f]
        image_13YX = torch.from_numpy(as_image(pixels_YX3))[None]
        tokens_1YX = encode(image_13YX).cpu().numpy()
        if tokens_1YX.shape != (1, entry.y, entry.x):
            raise ValueError(f"encoding {tuple(image_13YX.shape)} gave tokens {tokens_1YX.shape}, factor {f}")
        if tokens_1YX.min() < 0 or tokens_1YX.max() >= tokenizer.num_codes:
            raise ValueError(f"token {tokens_1YX.max()} is not below num_codes={tokenizer.num_codes}")
        parts.append(tokens_1YX.astype(_dtype(tokenizer.num_codes)).ravel())
    return np.concatenate(parts)
