"""What every text encoder does: captions in, token states out; frozen, and each caption encoded once.

Shape legend: B captions, S tokens of a caption, E width of a token.
"""

import hashlib
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nuwa_lightning.atomic import atomic_folder, make_cache, write_json
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import fits, mapped_array, read_json
from nuwa_lightning.texts import check_text

_VERSION: Final = 2
_AT_ONCE: Final = 1024
"""Captions of a shard."""
_LONGEST: Final = 1 << 30
_BATCH = 32
_LOG = logging.getLogger(__name__)


class _Span(NamedTuple):
    """Where the states of a caption lie."""

    shard: str
    start: int
    stop: int


@final
class TextBank:
    """Captions and their token states, mapped from disk.

    An encoder has a folder, in which shards are only ever added: a set with one caption more encodes one, sets share
    what they have in common, and what is finished when an encoding is broken off stays.

    Args:
        folder: the folder of an encoder, which `build_text_bank` made.
        captions: those that are wanted; the folder may hold more.

    Raises:
        UsageError: if a shard is damaged.
    """

    def __init__(self, folder: Path, captions: Sequence[str]) -> None:
        self.folder = folder
        wanted = set(captions)
        found = [(shard, _spans(shard)) for shard in _shards(folder)]
        damaged = next((shard for shard, spans in found if spans is None), None)
        if damaged is not None:
            raise UsageError("text bank", damaged, "damaged; delete the folder, it is made anew")
        self._spans = {
            caption: span for _, spans in found for caption, span in (spans or {}).items() if caption in wanted
        }
        self._shards: dict[str, npt.NDArray[np.float16]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files out, so that loading processes map them themselves."""
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        """Return the number of different captions."""
        return len(self._spans)

    def states(self, caption: str) -> Tensor:
        """Return the token states ``[S, E]`` of a caption, in half precision; of "" none."""
        caption = " ".join(caption.split())
        if caption in self._spans:
            shard, start, stop = self._spans[caption]
        elif self._spans:  # as wide as the others
            shard, start, stop = next(iter(self._spans.values())).shard, 0, 0
        else:
            return torch.zeros(0, 1, dtype=torch.float16)
        return torch.from_numpy(np.array(self._shard(shard)[start:stop]))

    def batch(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the token states of captions side by side; see `padded`."""
        return padded([self.states(caption) for caption in captions])

    def _shard(self, name: str) -> npt.NDArray[np.float16]:
        if name not in self._shards:
            self._shards[name] = np.load(self.folder / name / "states.npy", mmap_mode="r", allow_pickle=False)
        return self._shards[name]


def build_text_bank(
    captions: Sequence[str],
    encode: Callable[[Sequence[str]], list[Tensor]],
    *,
    cache: Path,
    fingerprint: str,
    width: int,
) -> TextBank:
    """Return the bank of ``captions``, encoding those that are not on disk yet, or damaged there.

    Args:
        captions: tidy captions; "" needs no encoding.
        encode: gives token states ``[S, E]``.
        cache: folder for banks.
        fingerprint: of the encoder; another one never reads this bank.
        width: E.
    """
    from tqdm.auto import tqdm

    different = sorted({caption for caption in captions if caption})
    said = json.dumps([_VERSION, fingerprint]).encode()
    folder = cache / "texts" / hashlib.sha256(said).hexdigest()[:24]
    there: dict[str, _Span] = {}
    for shard in _shards(folder):
        spans = _spans(shard, width=width)
        if spans is None:
            _LOG.warning("%s is damaged: encoding its captions anew", shard)
            shutil.rmtree(shard, ignore_errors=True)
        else:
            there |= spans
    new = [caption for caption in different if caption not in there]
    if new:
        make_cache(folder)
        with tqdm(total=len(new), desc="encoding captions", unit="caption", disable=None) as bar:
            for start in range(0, len(new), _AT_ONCE):
                some = new[start : start + _AT_ONCE]
                _add(folder, some, encode(some), fingerprint)
                bar.update(len(some))
    return TextBank(folder, different)


def _add(folder: Path, captions: Sequence[str], states: Sequence[Tensor], fingerprint: str) -> None:
    """Write a shard; it appears whole or not at all."""
    stops = np.cumsum([len(one) for one in states], dtype=np.int64).tolist()
    spans = list(zip(captions, [0, *stops[:-1]], stops, strict=True))
    # Named by what is in it: two processes that encode the same at once replace each other's.
    name = hashlib.sha256(json.dumps(captions).encode()).hexdigest()[:24]
    with atomic_folder(folder / name, overwrite=True) as partial:
        np.save(partial / "states.npy", torch.cat(list(states)).numpy(), allow_pickle=False)
        write_json(partial / "index.json", {"version": _VERSION, "fingerprint": fingerprint, "captions": spans})


def _shards(folder: Path) -> Iterator[Path]:
    """Yield the folders of the shards."""
    return (index.parent for index in sorted(folder.glob("[!.]*/index.json")))


def _spans(shard: Path, *, width: int | None = None) -> dict[str, _Span] | None:
    """Return where every caption of a shard lies; None if it is damaged.

    Args:
        shard: its folder.
        width: E, to go through all its numbers; without only its shape is looked at.
    """
    states = mapped_array(shard / "states.npy")
    try:
        found = read_json(shard / "index.json", longest=_LONGEST)["captions"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if states is None or states.ndim != 2 or states.dtype != np.float16:
        return None
    if not fits(found, list[tuple[str, int, int]]):
        return None
    if not all(0 <= start < stop <= len(states) for _, start, stop in found):
        return None
    if width is not None and (states.shape[1] != width or not np.isfinite(states).all()):
        return None
    return {caption: _Span(shard.name, start, stop) for caption, start, stop in found}


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return token states side by side, float32 ``[B, S, E]``, and which tokens are there, ``[B, S]``."""
    text_BSE = torch.nn.utils.rnn.pad_sequence([s.float() for s in states], batch_first=True)
    lengths_B1 = torch.tensor([[len(s)] for s in states])
    return text_BSE, torch.arange(text_BSE.shape[1]) < lengths_B1


def tidy(caption: str) -> str:
    """Return a caption with its white space put in order, as it is encoded and cached."""
    return " ".join(caption.split())


def say_cut(caption: str, kept: str, limit: int) -> None:
    """Say that an encoder reads the beginning of a caption only."""
    line = "a caption is longer than the %d tokens that are read, and was cut after character %d: ...%s | %s..."
    _LOG.warning(line, limit, len(kept), kept[-24:], caption[len(kept) :][:24].strip())


class TextEncoder(ABC):
    """A frozen encoder. A subclass writes :meth:`width`, :meth:`fingerprint` and :meth:`encode`.

    Its weights are read when they are first needed, not when it is made, so that a recipe can be read without them.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """Width E of a token.

        Raises:
            UsageError: if the encoder is not there.
        """

    def expected_size(self) -> tuple[int, int]:
        """Return the width E and the tokens S of a long caption, from which ``estimate`` counts; nothing is encoded.

        S is the attribute ``max_tokens`` where an encoder has one, else 77, which CLIP reads.

        Raises:
            UsageError: if the encoder is not there, as :attr:`width` does.
        """
        return self.width, int(getattr(self, "max_tokens", 77))

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever a caption would be encoded otherwise."""

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the token states ``[S, E]`` of each caption, without padding; captions are tidy and not empty."""

    @final
    @torch.inference_mode()
    def states(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the token states of captions in half precision, as they are cached: ``[S, E]``, no token for "".

        Training reads them from a cache, generation makes them anew: both get the same bits.

        Raises:
            UsageError: if one is no text.
        """
        captions = [tidy(caption) for caption in captions]
        for caption in captions:
            try:
                check_text(caption)
            except UnicodeError as error:
                raise UsageError("text", ascii(caption), f"{error}: correct it") from None
        there = [caption for caption in captions if caption]
        found: list[Tensor] = []
        for start in range(0, len(there), _BATCH):
            found += [s.to("cpu", torch.float16) for s in self.encode(there[start : start + _BATCH])]
        states = iter(found)
        return [next(states) if caption else torch.zeros(0, self.width, dtype=torch.float16) for caption in captions]

    @final
    def bank(self, captions: Sequence[str], cache: Path) -> TextBank:
        """Return the token states of captions, each encoded once and kept in the folder ``cache``."""
        tidied = [tidy(caption) for caption in captions]
        return build_text_bank(tidied, self.states, cache=cache, fingerprint=self.fingerprint(), width=self.width)
