"""Several tokens a step, and in the end the tokens that one after another would be.

Shape legend: R patches side by side, N tokens per patch, K neighbors of a token, n places of the window.
"""

from __future__ import annotations

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
        window: n, how many places are read in one step: more take fewer but dearer steps. What is best depends on the
            machine, see ``experiments/measure_jacobi.py``; 8 to 24 hardly differed.

    Raises:
        UsageError: for no window.
    """

    window: int = 16

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError("window", self.window, "give a number of tokens from 1 up, such as 16")

    @property
    def bidirectional(self) -> bool:
        """Say no: a token sees earlier ones only."""
        return False

    def draws(self, tokens: int) -> int:
        """Return no random numbers: noise comes from keys."""
        return 0

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens, in as many steps as it takes."""
        N = patches.tokens_RN.shape[1]
        guess = _Guess(patches)
        start = guessed = 0
        while start < N:
            end = min(start + self.window, N)
            guess.write(guessed, end)
            guessed = end
            guess_Rn = patches.tokens_RN[:, start:end].clone()
            logits_RnK = patches.logits(range(start, end))
            drawn_M = sampling.draw_frozen(logits_RnK.flatten(0, 1), patches.keys_RN[:, start:end].flatten())
            # Written back before the next reading: what was drawn, not what was guessed, are the tokens.
            patches.set_tokens(range(start, end), drawn_M.view_as(guess_Rn))
            changed_n = (patches.tokens_RN[:, start:end] != guess_Rn).any(dim=0).tolist()
            start = start + changed_n.index(True) + 1 if True in changed_n else end

    def check(self, precision: Precision) -> None:
        """Refuse int8 matrices: attention to many positions rounds otherwise there than to one, so tokens differ."""
        if precision.weights == "int8":
            raise UsageError("weights", "int8", "JacobiLocalDecoder changes tokens there: float32 or bfloat16")

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide nothing."""
        return None


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
