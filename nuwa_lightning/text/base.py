"""What every text encoder does: captions in, token states out; frozen, and each caption encoded once.

Shape legend: B captions, S tokens of a caption, E width of a token.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.text.bank import TextBank, build_text_bank

_BATCH = 32
_LOG = logging.getLogger(__name__)


def tidy(caption: str) -> str:
    """Return a caption with its white space put in order, as it is encoded and cached."""
    return " ".join(caption.split())


def say_cut(caption: str, kept: str, limit: int) -> None:
    """Say that an encoder reads the beginning of a caption only.

    Args:
        caption: the whole.
        kept: what is read.
        limit: the most tokens that are read.
    """
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
        """
        captions = [tidy(caption) for caption in captions]
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
