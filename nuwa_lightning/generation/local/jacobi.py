"""Several tokens a step, and in the end the tokens that one after another would be.

Shape legend: R patches side by side, N tokens per patch, K neighbors of a token, n places of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT


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
        start = guessed = 0
        while start < N:
            end = min(start + self.window, N)
            while guessed < end:
                count = min(end - guessed, patches.side)
                self._guess(patches, range(guessed, guessed + count))
                guessed += count
            places = range(start, end)
            guess_Rn = patches.tokens_RN[:, start:end].clone()
            drawn_M = sampling.draw_frozen(
                patches.logits(places).flatten(0, 1), patches.keys_RN[:, start:end].flatten()
            )
            # Written back before the next reading: what was drawn, not what was guessed, are the tokens.
            patches.set_tokens(places, drawn_M.view_as(guess_Rn))
            changed = (patches.tokens_RN[:, start:end] != guess_Rn).any(dim=0).tolist()
            start = start + changed.index(True) + 1 if True in changed else end

    @staticmethod
    def _guess(patches: PatchDecoder, places: range) -> None:
        """Write guesses to places where nothing is; fewer than a side of the patch, so that what is across is there."""
        across_RnK = patches.neighbors(places)
        across_RnK = across_RnK[:, :, [1, 0, *range(2, across_RnK.shape[2])]]
        there_RnK = across_RnK != ABSENT
        first_Rn1 = there_RnK.to(torch.uint8).argmax(dim=-1, keepdim=True)
        last_R1 = patches.tokens_RN[:, places[0] - 1, None] if places[0] else torch.zeros_like(across_RnK[:, 0, :1])
        patches.set_tokens(
            places, torch.where(there_RnK.any(dim=-1), across_RnK.gather(-1, first_Rn1)[..., 0], last_R1)
        )

    def check(self, precision: Precision) -> None:
        """Refuse int8 matrices: attention to many positions rounds otherwise there than to one, so tokens differ."""
        if precision.weights == "int8":
            raise UsageError("weights", "int8", "JacobiLocalDecoder changes tokens there: float32 or bfloat16")

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide nothing."""
        return None
