"""One token after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling


@final
@dataclass(frozen=True)
class AutoregressiveLocalDecoder(LocalDecoder):
    """The paper's AR decoder: N steps a patch, each with one new position and the keys and values of all before it."""

    @property
    def bidirectional(self) -> bool:
        """Say no: a token sees earlier ones only."""
        return False

    def draws(self, tokens: int) -> int:
        """Return one random number a token."""
        return tokens

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write the tokens in order."""
        for place in range(uniform_RU.shape[1]):
            drawn_R = sampling.draw(patches.logits([place])[:, 0], uniform_RU[:, place])
            patches.set_tokens([place], drawn_R[:, None])

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide nothing."""
        return None
