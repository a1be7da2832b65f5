"""A few steps, each of which writes the tokens that the model is surest of.

Shape legend: R patches side by side, N tokens per patch, K codes.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT


@final
@dataclass(frozen=True)
class MaskedLocalDecoder(LocalDecoder):
    """The paper's P-NAR decoder, after MaskGIT (Chang et al. 2022): bidirectional inside the patch.

    All tokens are hidden at first. Each step draws all that are hidden and keeps those that are likeliest, with noise;
    after step s of S a share of ``cos(pi / 2 * s / S)`` is still hidden. Training hides as large a share at random.

    Args:
        steps: S.
        temperature: of the Gumbel noise on the log-probability of a drawn token, in the first and in the last step.
            (4.5 is MaskGIT's, 4.5 to 1.0 the paper's draft; that it is meant for the choice is our reading.)

    Raises:
        UsageError: if there are no steps or a temperature is negative.
    """

    steps: int = 12
    temperature: tuple[float, float] = (4.5, 1.0)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError("steps", self.steps, "use at least 1 (12 in the paper's lineage)")
        if min(self.temperature) < 0:
            raise UsageError("temperature", self.temperature, "use numbers from 0 up: first step, last step")

    @property
    def bidirectional(self) -> bool:
        return True

    def draws(self, tokens: int) -> int:
        """Return two random numbers a token and step: for the token, and for whether to keep it."""
        return 2 * tokens * self.steps

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens in at most ``steps`` steps."""
        R, N = patches.tokens_RN.shape
        uniform_RS2N = uniform_RU.view(R, self.steps, 2, N)
        masked_RN = patches.tokens_RN == ABSENT
        all_R1 = masked_RN.sum(dim=1, keepdim=True)
        for step in range(self.steps):
            left_R1 = masked_RN.sum(dim=1, keepdim=True)
            if not bool(left_R1.any()):
                return
            logits_RNK = patches.logits(range(N))
            token_RN = sampling.draw(logits_RNK.flatten(0, 1), uniform_RS2N[:, step, 0].flatten()).view(R, N)
            sure_RN = logits_RNK.double().log_softmax(dim=-1).gather(-1, token_RN[:, :, None])[:, :, 0]
            if sampling.temperature > 0:
                sure_RN = sure_RN - self._noise(step) * (-uniform_RS2N[:, step, 1].clamp_min(1e-300).log()).log()
            # The least sure stay hidden; at least one token a step is written, in the last step all.
            keep_R1 = (all_R1 * math.cos(math.pi / 2 * (step + 1) / self.steps) + 1e-9).long()
            keep_R1 = torch.minimum(keep_R1, left_R1 - 1)
            rank_RN = sure_RN.masked_fill(~masked_RN, math.inf).argsort(dim=1).argsort(dim=1)
            newly_RN = masked_RN & (rank_RN >= keep_R1)
            patches.set_tokens(range(N), torch.where(newly_RN, token_RN, patches.tokens_RN))
            masked_RN = masked_RN & ~newly_RN

    def _noise(self, step: int) -> float:
        first, last = self.temperature
        return first + (last - first) * step / max(1, self.steps - 1)

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide in each patch a share of ``cos(pi / 2 * u)`` of the tokens, u uniform; at least one."""
        B, P, N = shape
        share_BP1 = torch.cos(torch.rand(B, P, 1, generator=generator) * math.pi / 2)
        count_BP1 = (share_BP1 * N).ceil().clamp_min(1)
        return torch.rand(shape, generator=generator).argsort(dim=-1).argsort(dim=-1) < count_BP1
