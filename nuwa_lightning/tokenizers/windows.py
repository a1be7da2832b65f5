"""Tokenizers that are not local, made local by overlapping windows (design section 5; ours).

GroupNorm and attention over a whole image tie each pixel to all tokens, so a canvas without an end cannot be decoded
with them as it is. Here each is shown one window at a time; windows overlap, and where they do, one is faded into the
other. The result depends on near tokens only, and on where the windows lie: they are counted from the origin of what is
decoded, which therefore has to be a multiple of :attr:`WindowedTokenizer.step` on the canvas.

Shapes: B batch, Y/X rows and columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.sharing import PretrainedTokenizer


@dataclass(frozen=True)
class WindowedTokenizer(PretrainedTokenizer):
    """A tokenizer that works in overlapping windows of another one.

    What the windows change is to be measured for each tokenizer, see :func:`window_error`.

    Attributes:
        whole: the other one; its own halos do not count.
        step: from window to window, in tokens.
        overlap: how far a window reaches beyond its step on each side, in tokens; at most half a step.

    Raises:
        ValueError: if the numbers do not fit.
    """

    whole: Tokenizer
    step: int = 16
    overlap: int = 4

    def __post_init__(self) -> None:
        if not 1 <= 2 * self.overlap <= self.step:
            raise ValueError(f"overlap {self.overlap} and step {self.step}: the overlap is from 1 to half a step")

    @property
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""
        return self.whole.downsample_factor

    @property
    def codebook_size(self) -> int:
        """How many different tokens there are (K)."""
        return self.whole.codebook_size

    @property
    def codebook_dim(self) -> int:
        """Length of a code vector (D)."""
        return self.whole.codebook_dim

    @property
    def codebook_KD(self) -> Tensor:
        """The code vectors."""
        return self.whole.codebook_KD

    @property
    def encode_halo(self) -> int:
        """How many tokens beyond its own square a token depends on."""
        return self.step + 2 * self.overlap

    @property
    def decode_halo(self) -> int:
        """How many tokens away a token still changes pixels."""
        return self.step + 2 * self.overlap

    def encode(self, image_B3YX: Tensor) -> Tensor:
        """Return the tokens (long, BYX), each from the window in whose step it lies."""
        f = self.downsample_factor
        height, width = (side // f for side in image_B3YX.shape[2:])
        tokens_BYX = torch.empty(len(image_B3YX), height, width, dtype=torch.long, device=image_B3YX.device)
        for y, x in self._windows(height, width):
            seen_BYX = self.whole.encode(image_B3YX[:, :, y.first * f : y.last * f, x.first * f : x.last * f])
            inner_BYX = seen_BYX[:, y.start - y.first : y.stop - y.first, x.start - x.first : x.stop - x.first]
            tokens_BYX[:, y.start : y.stop, x.start : x.stop] = inner_BYX
        return tokens_BYX

    def decode(self, tokens_BYX: Tensor) -> Tensor:
        """Return images in [-1, 1], ``factor`` times larger than the token grid."""
        f = self.downsample_factor
        height, width = tokens_BYX.shape[1:]
        image_B3YX = torch.zeros(len(tokens_BYX), 3, height * f, width * f, device=tokens_BYX.device)
        for y, x in self._windows(height, width):
            seen_B3YX = self.whole.decode(tokens_BYX[:, y.first : y.last, x.first : x.last])
            weight_YX = self._fade(y, height)[:, None] * self._fade(x, width)
            image_B3YX[:, :, y.first * f : y.last * f, x.first * f : x.last * f] += seen_B3YX * weight_YX
        return image_B3YX

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which tokens an image gets."""
        return f"{self.whole.fingerprint()}-windows-{self.step}-{self.overlap}"

    def full_fingerprint(self) -> str:
        """Return a hash of everything that decides pixels, too, where the other one has such a hash."""
        whole: Callable[[], str] = getattr(self.whole, "full_fingerprint", self.whole.fingerprint)
        return f"{whole()}-windows-{self.step}-{self.overlap}"

    def _windows(self, height: int, width: int) -> Iterator[tuple[_Window, _Window]]:
        return itertools.product([*self._stretches(height)], [*self._stretches(width)])

    def _stretches(self, length: int) -> Iterator[_Window]:
        for start in range(0, length, self.step):
            stop = min(start + self.step, length)
            # At the borders, too, a window sees as much as elsewhere, where there is as much.
            first = max(0, min(start - self.overlap, length - self.step - 2 * self.overlap))
            yield _Window(start, stop, first, min(length, max(stop, first + self.step + self.overlap) + self.overlap))

    def _fade(self, window: _Window, length: int) -> Tensor:
        """Return the weight of each row (column) of pixels of a window; those of all windows add up to 1."""
        f = self.downsample_factor
        at = torch.arange(window.first * f, window.last * f) + 0.5
        weight = torch.ones(len(at))
        for border, sign in ((window.start, 1), (window.stop, -1)):
            if 0 < border < length:
                way = sign * (at - border * f) / (2 * self.overlap * f) + 0.5
                weight *= 0.5 - 0.5 * torch.cos(torch.pi * way.clamp(0, 1))
        return weight


class _Window(NamedTuple):
    """One axis of a window in tokens: its step from ``start`` to ``stop``, and all that it sees."""

    start: int
    stop: int
    first: int
    last: int


def window_error(windowed: WindowedTokenizer, tokens_BYX: Tensor) -> tuple[float, float]:
    """Return how far decoding in windows is from decoding at once: mean and largest difference of pixels in [-1, 1]."""
    apart_B3YX = (windowed.decode(tokens_BYX) - windowed.whole.decode(tokens_BYX)).abs()
    return apart_B3YX.mean().item(), apart_B3YX.max().item()
