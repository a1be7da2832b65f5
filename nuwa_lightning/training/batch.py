"""Training samples in writing order.

Shape legend: B samples, P steps of a plan, N tokens per patch, K neighbors, S tokens of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.models.layout import PlanLayout
from nuwa_lightning.models.nuwa_infinity import ABSENT, TokenMask
from nuwa_lightning.training.conditioning import SampleText


@dataclass(frozen=True)
class Written:
    """Samples that follow plans with the same masks, in writing order.

    Attributes:
        layout: of one of them.
        tokens_BPN: codes, the targets.
        read_BPN: codes as they are read: the same, or some of them wrong.
        neighbors_BPNK: their neighbors, as they are read.
        symmetry_BP: index of each step's symmetry.
        token_mask: what is hidden, unless each token sees earlier ones only.
        text: their texts, for a model that reads text.
    """

    layout: PlanLayout
    tokens_BPN: Tensor
    read_BPN: Tensor
    neighbors_BPNK: Tensor
    symmetry_BP: Tensor
    token_mask: TokenMask | None = None
    text: SampleText | None = None

    @property
    def count(self) -> int:
        """How many tokens are written; those that are given are no targets."""
        return self.tokens_BPN[:, ~self.layout.known_P].numel()

    def weighted(self, loss_BPN: Tensor) -> Tensor:
        """Return the loss of hidden tokens only, if any are, so that the mean over what is written is their mean."""
        if self.token_mask is None:
            return loss_BPN
        masked_BPN = self.token_mask.tokens
        targets = masked_BPN[:, ~self.layout.known_P].sum().clamp_min(1)
        return loss_BPN * masked_BPN * (self.count / targets)


def look_up(tokens_S: Tensor, place: Tensor) -> Tensor:
    """Return the tokens at ``place``, ABSENT where that is ABSENT."""
    place = place.to(tokens_S.device)
    return torch.where(place == ABSENT, ABSENT, tokens_S[place.clamp_min(0)])
