"""Which token comes next: filters, and random numbers that depend on the seed and the patch alone.

Shape legend: R rows, K codes, N tokens per patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its scores.

    Args:
        temperature: divides the scores; 0 takes the best token.
        top_k: keep only the k best tokens; 0 keeps all.
        top_p: keep the smallest set of best tokens whose probability reaches p; 1 keeps all.

    Raises:
        UsageError: if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError("temperature", self.temperature, "use 0 (best token) or a positive number")
        if self.top_k < 0:
            raise UsageError("top_k", self.top_k, "use 0 (all tokens) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UsageError("top_p", self.top_p, "use a number above 0 and at most 1")

    def draw(self, logits_RK: Tensor, uniform_R: Tensor) -> Tensor:
        """Draw one token a row by inverting the cumulative distribution, best token first.

        A row's token depends on that row alone, so rows may be batched in any way.

        Args:
            logits_RK: scores.
            uniform_R: float64 numbers in [0, 1).

        Returns:
            ``[R]`` tokens.
        """
        if self.temperature == 0:
            return logits_RK.argmax(dim=-1)
        k = min(self.top_k, logits_RK.shape[-1]) if self.top_k else logits_RK.shape[-1]
        best_RK, token_RK = logits_RK.topk(k, dim=-1)
        p_RK = (best_RK.double() / self.temperature).softmax(dim=-1)
        cumulative_RK = p_RK.cumsum(dim=-1)
        if self.top_p < 1:
            # A token stays when the probability before it is still below p, so the best one always stays.
            keep_RK = cumulative_RK - p_RK < self.top_p
            cumulative_RK = (p_RK * keep_RK).cumsum(dim=-1)
        target_R1 = uniform_R[:, None] * cumulative_RK[:, -1:]
        place_R1 = torch.searchsorted(cumulative_RK, target_R1, right=True).clamp_max(k - 1)
        if self.top_p < 1:
            place_R1 = torch.minimum(place_R1, keep_RK.sum(dim=-1, keepdim=True) - 1)
        return token_RK.gather(-1, place_R1).squeeze(-1)


_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64: spread the bits of a number over 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def patch_uniforms(seed: int, patch: PatchIndex, count: int) -> Tensor:
    """Return ``count`` float64 numbers in [0, 1) that depend on seed and patch alone (always drawn on the CPU)."""
    key = _mix(seed & _MASK)
    for part in patch:
        key = _mix(key ^ (part & _MASK))
    generator = torch.Generator().manual_seed(key & ((1 << 63) - 1))
    return torch.rand(count, dtype=torch.float64, generator=generator)
