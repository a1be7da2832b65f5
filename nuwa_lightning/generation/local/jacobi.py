"""Several tokens a step, and in the end the tokens that one after another would be.

Shape legend: R patches side by side, N tokens per patch, K neighbors of a token, n places of the window.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT

_BESIDE: Final = 2
"""The first of :data:`NEIGHBORS` share a side with the token: one was written just before, one lies across."""

_STEPS: Final = {4: 28.8, 8: 19.3, 12: 16.1, 16: 15.0, 24: 14.2}
"""How many steps a trained model took for 64 tokens, by window (experiments/log.md)."""
_FIXED: Final = 12
_TIMED: Final = 4, 16


@final
@dataclass(frozen=True)
class JacobiLocalDecoder(LocalDecoder):
    """Jacobi iteration (Song et al., 2021; of images: SJD, Teng et al., 2024) with frozen noise (So et al., 2025).

    With noise that belongs to seed, patch, place and code, a token is a function of those before it. So a window of
    places is guessed, read in one step, and drawn anew from what was read; whatever comes before the first token that
    differs from its guess was read after right tokens only, and that token itself was, too: they are final, and the
    window moves on behind them. The others are the next guesses. The tokens are those of
    ``AutoregressiveLocalDecoder(noise="gumbel")``, of any causal model, without any training; patches side by side move
    on together, as far as the slowest.

    Guesses of places that enter the window are neighbors: the token across the order of writing, else the nearest.

    Args:
        window: n, how many places are read in one step: more take fewer but dearer steps. None: what is best by what
            steps cost on this machine, which is timed at the first patch of each canvas. Tokens must not depend on a
            clock, so this is chosen only where a place has the same bits in any window (:attr:`PatchDecoder.alone`); 12
            elsewhere.

    Raises:
        UsageError: for no window.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise UsageError("window", self.window, "give a number of tokens from 1 up, such as 16")

    def draws(self, tokens: int) -> int:
        """Return no random numbers: noise comes from keys."""
        return 0

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens, in as many steps as it takes."""
        N = patches.tokens_RN.shape[1]
        guess, window = _Guess(patches), self.window
        start = guessed = 0
        if window is None and patches.alone and _TIMED[-1] < N:
            # Rows up to a power of two cost about the same.
            key = "Jacobi", (patches.rows - 1).bit_length()
            if key not in patches.found:
                patches.found[key] = _best_window(patches, sampling, guess)
                guessed = _TIMED[-1]
            window = patches.found[key]
        window = window or _FIXED
        while start < N:
            end = min(start + window, N)
            if end > guessed:
                guess.write(guessed, end)
                guessed = end
            start += _step(patches, sampling, start, end)

    def check(self, precision: Precision) -> None:
        """Refuse int8 matrices: attention to many positions rounds otherwise there than to one, so tokens differ."""
        if precision.weights == "int8":
            raise UsageError("weights", "int8", "JacobiLocalDecoder changes tokens there: float32 or bfloat16")


def _step(patches: PatchDecoder, sampling: Sampling, start: int, end: int) -> int:
    """Read the window and draw it anew; return how many of its places are final."""
    guess_Rn = patches.tokens_RN[:, start:end].clone()
    logits_RnK = patches.logits(range(start, end))
    drawn_M = sampling.draw_frozen(logits_RnK.flatten(0, 1), patches.keys_RN[:, start:end].flatten())
    # Written back before the next reading: what was drawn, not what was guessed, are the tokens.
    patches.set_tokens(range(start, end), drawn_M.view_as(guess_Rn))
    changed_n = (patches.tokens_RN[:, start:end] != guess_Rn).any(dim=0).tolist()
    return changed_n.index(True) + 1 if True in changed_n else end - start


def _best_window(patches: PatchDecoder, sampling: Sampling, guess: _Guess) -> int:
    """Time steps of the first places, which are only guessed after it, too; return the window that should be fastest.

    Seconds are those of this thread, so other work does not count.
    """
    guess.write(0, _TIMED[-1])
    took = dict.fromkeys(_TIMED, float("inf"))
    for _ in range(3):
        for count in _TIMED:
            began = time.thread_time()
            guess.write(count - 3, count)
            _step(patches, sampling, 0, count)
            took[count] = min(took[count], time.thread_time() - began)
    few, many = _TIMED
    a_place = (took[many] - took[few]) / (many - few)
    return min(_STEPS, key=lambda count: _STEPS[count] * (took[few] + (count - few) * a_place))


class _Guess:
    """Guesses of places that the window reaches.

    The token across the order of writing, in this patch or the context; where nothing is written there, the nearest
    neighbor in the context, or the token before.
    """

    def __init__(self, patches: PatchDecoder) -> None:
        self._patches = patches
        # Before anything is written, neighbors are those in the context (and what is given).
        N = patches.tokens_RN.shape[1]
        back_NK = (torch.arange(N)[:, None] - patches.own_NK[:, :_BESIDE].cpu()) * (
            patches.own_NK[:, :_BESIDE].cpu() >= 0
        )
        across = int(back_NK.amax(dim=0).argmax())
        others = [k for k in range(patches.own_NK.shape[1]) if k != across]
        context_RNK = patches.neighbors(range(N))[:, :, [across, *others]]
        there_RNK = context_RNK != ABSENT
        first_RN1 = there_RNK.to(torch.uint8).argmax(dim=-1, keepdim=True)
        self._context_RN = context_RNK.gather(-1, first_RN1)[:, :, 0]
        self._across_N = patches.own_NK[:, across]
        self._reach = max(1, int(back_NK[:, across].max()))

    def write(self, start: int, end: int) -> None:
        """Guess the places from ``start`` up to ``end``; so many at once that what lies across is there."""
        tokens_RN = self._patches.tokens_RN
        for first in range(start, end, self._reach):
            last = min(first + self._reach, end)
            across_n, guess_Rn = self._across_N[first:last], self._context_RN[:, first:last]
            before_R1 = tokens_RN[:, first - 1, None] if first else torch.zeros_like(tokens_RN[:, :1])
            guess_Rn = torch.where(guess_Rn == ABSENT, before_R1, guess_Rn)
            guess_Rn = torch.where(across_n == ABSENT, guess_Rn, tokens_RN[:, across_n.clamp_min(0)])
            self._patches.set_tokens(range(first, last), guess_Rn)
