"""Grids of tokens on disk: images, or videos between two cuts, encoded once (ours).

Training stage 2 from the bank costs no encoding. A bank appears whole or not at all; one broken off goes on where it
was: what is finished waits in a folder ending in ``.part``.
"""

import functools
import hashlib
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
import torch

from nuwa_lightning.atomic import atomic_folder, atomic_write, write_json
from nuwa_lightning.data.folders import locked
from nuwa_lightning.data.sources import SPLITS, Split
from nuwa_lightning.errors import LawError, UsageError, shown
from nuwa_lightning.plain_data import mapped_array, read_json

# Legend: T frames, Y, X tokens (of tokens) or pixels (of images) along the axes; B, 1 and 3: images, one, colours.

_LOG = logging.getLogger(__name__)
_LONGEST: Final = 1 << 34

Tokens = npt.NDArray[np.integer[Any]]

Encode = Callable[[torch.Tensor], torch.Tensor]
"""image_B3YX in [-1, 1], sides multiples of the tokenizer's factor -> tokens_BYX (integers)."""


class TokenizerLike(Protocol):
    """What the bank needs of a tokenizer."""

    @property
    def downsample_factor(self) -> int:
        """Pixels per token along a side."""

    @property
    def codebook_size(self) -> int:
        """Number of different tokens."""

    def encode(self, image_B3YX: torch.Tensor, /) -> torch.Tensor:
        """Return tokens_BYX."""

    def fingerprint(self) -> str:
        """Return a text that changes with the weights."""


class CoarseLike(Protocol):
    """What the bank needs of a coarse plan, which is encoded once as images are."""

    @property
    def name(self) -> str:
        """What decides about its tokens."""

    def encode(self, image_B3YX: torch.Tensor, /, *, seed: int | None) -> torch.Tensor:
        """Return the tokens_BYX of the plan of an image, some of them wrong if there is a seed to draw which."""


@dataclass(frozen=True)
class BankEntry:
    """One grid: of what, how it was made, where its tokens start in the file, and its shape in tokens.

    Attributes:
        photo: place of the image or video in the bank.
        short_side: length of its shorter side in pixels.
        flip: whether it is the left-right mirror image.
        phase: number of the sub-token shift.
        start: where its tokens start.
        y: rows.
        x: columns.
        first: number of its first frame in the video.
        frames: how many frames follow without a cut; 1 for an image.
    """

    photo: int
    short_side: int
    flip: bool
    phase: int
    start: int
    y: int
    x: int
    first: int = 0
    frames: int = 1

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return self.frames * self.y * self.x


class BankItem(Protocol):
    """An image or a video that is to be encoded."""

    @property
    def key(self) -> str:
        """Its name, unique in the bank."""

    @property
    def split(self) -> Split:
        """Which side it is on."""

    @property
    def content(self) -> str:
        """A hash of the file."""

    def plan(self, place: int, start: int) -> list[BankEntry]:
        """Return its entries in the order in which they are encoded, given its place and where its tokens start."""

    def encoded(self, entry: BankEntry, encode: Encode) -> torch.Tensor:
        """Return the tokens_TYX of one of them."""


Fits = Callable[[BankEntry], bool]
"""Says whether a window can be cut out of a grid."""


class TokenGrids(ABC):
    """Grids of tokens on disk, of which windows are cut for training."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What tells them from others, in a checkpoint."""

    @property
    @abstractmethod
    def left_out(self) -> tuple[Sequence[str], Sequence[str]]:
        """What could not be read, by path, and what was too small to be encoded, by key."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of tokens in all grids."""

    @abstractmethod
    def tokens(self, entry: BankEntry) -> Tokens:
        """Return the tokens of ``entry`` as (T, Y, X)."""

    @abstractmethod
    def fitting(self, split: Split, fits: Fits, captions: Sequence[str] | None = None) -> Sequence[Sequence[BankEntry]]:
        """Return the grids of ``split`` that fit, by photo or video; with ``captions`` only of those that have one."""


@final
class TokenBank(TokenGrids):
    """Token grids of images or videos, mapped from disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            data = read_json(folder / "index.json", longest=_LONGEST)
            self.codebook_size: int = data["codebook_size"]
            self.fingerprint: str = data["fingerprint"]
            self.keys: list[str] = [photo["key"] for photo in data["photos"]]
            self.splits: list[Split] = [photo["split"] for photo in data["photos"]]
            self.skipped: list[str] = data["skipped"]
            self.too_small: list[str] = data.get("too_small", [])
            self.entries = [BankEntry(**entry) for entry in data["entries"]]
            self._check()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError("token bank", folder, "damaged; delete the folder, it is built anew") from error

    def _check(self) -> None:
        """Refuse what does not fit together, once, so that no batch meets it."""
        if mapped_array(self.folder / "tokens.npy") is None:
            raise ValueError("no tokens")
        flat = self._flat
        numbers = [number for entry in self.entries for number in asdict(entry).values()]
        texts = [self.fingerprint, *self.keys, *self.splits, *self.skipped, *self.too_small]
        good = (
            isinstance(self.codebook_size, int)
            and all(isinstance(text, str) for text in texts)
            and set(self.splits) <= set(SPLITS)
            and all(isinstance(number, int) and number >= 0 for number in numbers)
            and flat.dtype == _dtype(self.codebook_size)
            and flat.ndim == 1
            and all(min(e.y, e.x, e.frames) >= 1 and e.photo < len(self.keys) for e in self.entries)
            and all(entry.start + entry.size <= len(flat) for entry in self.entries)
        )
        if not good or (len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.codebook_size):
            raise ValueError("index and tokens do not fit together")

    @functools.cached_property
    def _flat(self) -> Tokens:
        mapped: Tokens = np.load(self.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def left_out(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.skipped, self.too_small

    def fitting(self, split: Split, fits: Fits, captions: Sequence[str] | None = None) -> list[list[BankEntry]]:
        found: dict[int, list[BankEntry]] = {}
        for entry in self.entries:
            if captions is not None and not captions[entry.photo]:
                continue
            if self.splits[entry.photo] == split and fits(entry):
                found.setdefault(entry.photo, []).append(entry)
        return list(found.values())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped file out, so that loading processes map it themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}

    def __len__(self) -> int:
        return int(self._flat.shape[0])

    def tokens(self, entry: BankEntry) -> Tokens:
        """Return the tokens of ``entry`` as (T, Y, X), not copied."""
        found: Tokens = self._flat[entry.start : entry.start + entry.size].reshape(entry.frames, entry.y, entry.x)
        return found

    def grid(self, entry: BankEntry) -> Tokens:
        """Return those of its first frame as (Y, X), not copied."""
        first: Tokens = self.tokens(entry)[0]
        return first


def is_bank(folder: Path) -> bool:
    """Say whether a bank is there; one that is damaged is told, and is to be built anew."""
    if not (folder / "index.json").is_file():
        return False
    try:
        TokenBank(folder)
    except UsageError:
        _LOG.warning("%s is damaged: encoding anew", folder)
        return False
    return True


def build_bank(
    cache: Path,
    decides: Sequence[Any],
    items: Callable[[], tuple[Sequence[BankItem], Mapping[str, Sequence[str]]]],
    tokenizer: TokenizerLike,
    *,
    about: Mapping[str, Any],
    encode: Encode | None = None,
    progress: bool = True,
) -> TokenBank:
    """Return a bank, encoding what is not on disk yet.

    ``decides`` is plain JSON of everything that decides what is in it, and so about its name; ``items`` is called if
    there is something to do, and returns what is to be encoded, and what cannot be, by the reason: ``skipped``
    (unreadable files) and ``too_small`` (keys).

    Raises:
        ValueError: if the encoder returns tokens of a wrong shape or outside ``[0, codebook_size)``.
    """
    folder = bank_folder(cache, decides)
    part = folder.with_name(folder.name + ".part")
    if not is_bank(folder):
        with locked(part):
            if not is_bank(folder):
                found, left_out = items()
                entries = _encode_all(found, part, tokenizer, encode or tokenizer.encode, progress)
                _join(folder, part, found, entries, tokenizer, {"skipped": [], **about, **left_out})
        shutil.rmtree(part, ignore_errors=True)
    return TokenBank(folder)


def bank_folder(cache: Path, decides: Sequence[Any]) -> Path:
    """Return the folder of a bank; see `build_bank`."""
    return cache / "tokens" / hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def _encode_all(
    items: Sequence[BankItem], part: Path, tokenizer: TokenizerLike, encode: Encode, progress: bool
) -> list[BankEntry]:
    from tqdm.auto import tqdm

    entries: list[BankEntry] = []
    start = 0
    for place, item in enumerate(tqdm(items, desc="encoding", unit="file", disable=None if progress else True)):
        planned = item.plan(place, start)
        start += sum(entry.size for entry in planned)
        entries += planned
        shard = part / f"{place:06d}.npy"
        if not _is_shard(shard, planned, tokenizer.codebook_size):
            tokens = [checked_tokens(item.encoded(entry, encode), entry, tokenizer) for entry in planned]
            with atomic_write(shard) as partial:
                np.save(partial, np.concatenate(tokens), allow_pickle=False)
    return entries


def _join(
    folder: Path,
    part: Path,
    items: Sequence[BankItem],
    entries: Sequence[BankEntry],
    tokenizer: TokenizerLike,
    about: Mapping[str, Any],
) -> None:
    with atomic_folder(folder, overwrite=True) as partial:
        flat = np.lib.format.open_memmap(
            partial / "tokens.npy",
            mode="w+",
            dtype=_dtype(tokenizer.codebook_size),
            shape=(sum(entry.size for entry in entries),),
        )
        at = 0
        for place in range(len(items)):
            tokens = np.load(part / f"{place:06d}.npy", allow_pickle=False)
            flat[at : at + len(tokens)] = tokens
            at += len(tokens)
        flat.flush()
        del flat
        index = {
            **about,
            "fingerprint": tokenizer.fingerprint(),
            "factor": tokenizer.downsample_factor,
            "codebook_size": tokenizer.codebook_size,
            "photos": [{"key": item.key, "split": item.split, "content": item.content} for item in items],
            "entries": [asdict(entry) for entry in entries],
        }
        write_json(partial / "index.json", index)


def _dtype(codebook_size: int) -> npt.DTypeLike:
    return np.uint16 if codebook_size <= 65536 else np.int32


def _is_shard(path: Path, planned: Sequence[BankEntry], codebook_size: int) -> bool:
    """Say whether ``path`` holds the tokens of ``planned``, left by a build that was broken off."""
    found = mapped_array(path)
    if found is None:
        return False
    fits = found.dtype == _dtype(codebook_size) and found.shape == (sum(entry.size for entry in planned),)
    return bool(fits and (not found.size or 0 <= int(found.min()) <= int(found.max()) < codebook_size))


def checked_tokens(tokens_TYX: torch.Tensor, entry: BankEntry, tokenizer: TokenizerLike) -> Tokens:
    """Return what an encoder gave for ``entry`` as it is stored, flat.

    Raises:
        LawError: if its shape is another one, or a token lies outside the codebook.
    """
    found_TYX, shape = tokens_TYX.cpu().numpy(), (entry.frames, entry.y, entry.x)
    K, least, most = tokenizer.codebook_size, int(found_TYX.min(initial=0)), int(found_TYX.max(initial=0))
    law = None
    if found_TYX.shape != shape:
        law = f"encode gives one token a square: {found_TYX.shape}, not {shape}, factor {tokenizer.downsample_factor}"
    elif least < 0 or most >= K:
        law = f"tokens are from 0 up and below codebook_size={K}, and {least if least < 0 else most} is not"
    if law is not None:
        raise LawError("tokenizer", shown(tokenizer), law, "check_tokenizer")
    flat: Tokens = found_TYX.astype(_dtype(tokenizer.codebook_size)).ravel()
    return flat
