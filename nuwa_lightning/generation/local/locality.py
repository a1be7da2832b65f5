"""A few steps, each of which writes a group of tokens that hang on what is written rather than on each other.

Shape legend: B samples, P steps of a plan, R patches side by side, N tokens per patch, K codes (of neighbors: their
number), n places of a group.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.local.group_order import VARIANTS, group_sizes, grown_groups
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT, Neighbor


@final
@dataclass(frozen=True)
class LocalityLocalDecoder(LocalDecoder):
    """Locality-aware parallel decoding (LPD, Zhang et al., 2025) of a patch with cached context.

    A step reads the tokens of the last group and a query for each place of the next one. Queries see each other, all
    tokens before them, and the context, so that a group is coordinated although its tokens are drawn at once. Orders
    grow from the context (:func:`grown_groups`), group sizes follow a cosine. A finished patch is read once more, in
    one order, so what later patches see of it depends on neither. With as many steps as tokens it is an autoregressive
    decoder in such an order.

    Args:
        steps: S, of generation; any number, whatever the training.
        schedules: numbers of steps in training; each patch draws one.
        random_share: of the patches in training, whose order is random instead.

    Raises:
        UsageError: for no steps, or no share.
    """

    steps: int = 10
    schedules: tuple[int, ...] = (64, 32, 16, 10, 8)
    random_share: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError("steps", self.steps, "use at least 1 (8 to 16 for 64 tokens)")
        if not self.schedules or min(self.schedules) < 1:
            raise UsageError("schedules", self.schedules, "name one number of steps or more, each from 1 up")
        if not 0 <= self.random_share <= 1:
            raise UsageError("random_share", self.random_share, "give a share from 0 to 1")

    @property
    def bidirectional(self) -> bool:
        """Say yes: a finished patch is read from both sides."""
        return True

    @property
    def grouped(self) -> bool:
        return True

    def draws(self, tokens: int) -> int:
        """Return one random number a token, and one for the order."""
        return tokens + 1

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens in ``steps`` steps."""
        R, N = patches.tokens_RN.shape
        group_RN = grown_groups(
            patches.neighbors(range(N)),
            own_NK=patches.own_NK,
            kinds=patches.kinds,
            steps_R=[self.steps] * R,
            variant_R=(uniform_RU[:, N] * VARIANTS).long().tolist(),
            given_RN=patches.given_RN != ABSENT,
        )
        for places_Rn in torch.split(group_RN.argsort(dim=1, stable=True), list(group_sizes(N, self.steps)), dim=1):
            logits_MK = patches.group_logits(places_Rn).flatten(0, 1)
            drawn_M = sampling.draw(logits_MK, uniform_RU.gather(1, places_Rn).flatten())
            patches.set_group(places_Rn, drawn_M.view_as(places_Rn))

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide everything: each token is predicted once, by its query."""
        return torch.ones(shape, dtype=torch.bool)

    def training_groups(
        self, context_BPNK: Tensor, own_NK: Tensor, kinds: tuple[Neighbor, ...], generator: torch.Generator
    ) -> Tensor | None:
        """Draw a schedule for each patch, and for some a random order."""
        B, P, N, _ = context_BPNK.shape
        R = B * P
        schedule_R = torch.randint(len(self.schedules), (R,), generator=generator).tolist()
        steps_R = [self.schedules[s] for s in schedule_R]
        variant_R = torch.randint(VARIANTS, (R,), generator=generator).tolist()
        group_RN = grown_groups(
            context_BPNK.flatten(0, 1), own_NK=own_NK, kinds=kinds, steps_R=steps_R, variant_R=variant_R
        )
        # The same groups at random places.
        random_RN = group_RN.gather(1, torch.rand(R, N, generator=generator).argsort(dim=1))
        is_random_R1 = torch.rand(R, 1, generator=generator) < self.random_share
        return torch.where(is_random_R1, random_RN, group_RN).view(B, P, N)
