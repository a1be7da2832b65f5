"""All tokens of a patch at once.

Shape legend: R patches side by side, N tokens per patch, K codes.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling


@final
@dataclass(frozen=True)
class ParallelLocalDecoder(LocalDecoder):
    """The paper's NAR decoder: position embeddings in, all tokens out, then a second forward for the states.

    Tokens of a patch are independent of one another given its context, which is what it costs.
    """

    @property
    def bidirectional(self) -> bool:
        return True

    def draws(self, tokens: int) -> int:
        """Return one random number a token."""
        return tokens

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens in one step."""
        R, N = patches.tokens_RN.shape
        logits_RNK = patches.logits(range(N))
        patches.set_tokens(range(N), sampling.draw(logits_RNK.flatten(0, 1), uniform_RU.flatten()).view(R, N))

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide everything."""
        return torch.ones(shape, dtype=torch.bool)
