"""Training samples in writing order.

Shape legend: B samples, P steps of a plan, N tokens per patch, K neighbors, S tokens of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.patch_decoder import own_neighbors
from nuwa_lightning.models.layout import PlanLayout
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TokenMask
from nuwa_lightning.planning.schedule import TokenOrder
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


def hide(
    neighbors_BPNK: Tensor,
    decoder: LocalDecoder,
    model: PatchTransformer,
    token_order: TokenOrder,
    generator: torch.Generator,
) -> TokenMask | None:
    """Return what a local decoder hides of patches in training; None where each token sees earlier ones only."""
    B, P, N, _ = neighbors_BPNK.shape
    masked_BPN = decoder.training_mask((B, P, N), generator)
    if masked_BPN is None:
        return None
    own_NK = own_neighbors(model.patch_size, token_order, model.neighbors)
    context_BPNK = neighbors_BPNK.cpu().masked_fill(own_NK != ABSENT, ABSENT)
    groups_BPN = decoder.training_groups(context_BPNK, own_NK, model.neighbors, generator)
    place_NK = own_NK.clamp_min(0)
    if groups_BPN is None:
        gone_BPNK = masked_BPN[:, :, place_NK]
    else:
        gone_BPNK = groups_BPN[:, :, place_NK] >= groups_BPN[:, :, :, None]
    device = neighbors_BPNK.device
    left_BPNK = neighbors_BPNK.masked_fill((gone_BPNK & (own_NK != ABSENT)).to(device), ABSENT)
    return TokenMask(masked_BPN.to(device), left_BPNK, None if groups_BPN is None else groups_BPN.to(device))


def look_up(tokens_S: Tensor, place: Tensor) -> Tensor:
    """Return the tokens at ``place``, ABSENT where that is ABSENT."""
    place = place.to(tokens_S.device)
    return torch.where(place == ABSENT, ABSENT, tokens_S[place.clamp_min(0)])
