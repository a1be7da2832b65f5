"""Which token comes next: filters, and random numbers that depend on the seed and the patch alone.

Shape legend: R rows, K codes, N tokens per patch, k candidates, n places (or runs of codes), M codes of all rows.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.cpu_kernels import drawing_kernel
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
        if not 0 <= self.temperature < math.inf:
            raise UsageError("temperature", self.temperature, "use 0 (best token) or a positive number")
        if self.top_k < 0:
            raise UsageError("top_k", self.top_k, "use 0 (all tokens) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UsageError("top_p", self.top_p, "use a number above 0 and at most 1")

    def draw(self, logits_RK: Tensor, uniform_R: Tensor) -> Tensor:
        """Draw one token a row by inverting the cumulative distribution, best token first.

        A row's token depends on that row alone, so rows may be batched in any way. Where all codes take part, the lower
        of two with the same score comes first.

        Args:
            logits_RK: scores.
            uniform_R: float64 numbers in [0, 1).

        Returns:
            ``[R]`` tokens.
        """
        if self.temperature == 0:
            return logits_RK.argmax(dim=-1)
        if self._takes_all(logits_RK):
            return self._code(logits_RK.float(), uniform_R)
        K = logits_RK.shape[-1]
        best_RK, token_RK = logits_RK.topk(min(self.top_k or K, K), dim=-1)
        p_RK = (best_RK.double() / self.temperature).softmax(dim=-1)
        cumulative_RK = p_RK.cumsum(dim=-1)
        if self.top_p < 1:
            # A token stays when the probability before it is still below p, so the best one always stays.
            keep_RK = cumulative_RK - p_RK < self.top_p
            cumulative_RK = (p_RK * keep_RK).cumsum(dim=-1)
        target_R1 = uniform_R[:, None] * cumulative_RK[:, -1:]
        place_R1 = torch.searchsorted(cumulative_RK, target_R1, right=True).clamp_max(token_RK.shape[-1] - 1)
        if self.top_p < 1:
            place_R1 = torch.minimum(place_R1, keep_RK.sum(dim=-1, keepdim=True) - 1)
        return token_RK.gather(-1, place_R1).squeeze(-1)

    def draw_frozen(self, logits_RK: Tensor, key_R: Tensor) -> Tensor:
        """Draw one token a row, the best after Gumbel noise of each code that takes part was added.

        The distribution is that of :meth:`draw` (Gumbel, 1954). The noise belongs to the code, so scores that differ
        little mostly give the same token.

        Args:
            logits_RK: scores.
            key_R: of each row's noise, see :func:`place_keys`.

        Returns:
            ``[R]`` tokens.
        """
        if self.temperature == 0:
            return logits_RK.argmax(dim=-1)
        if self._takes_all(logits_RK):
            return self._frozen_of_all(logits_RK.float(), key_R)
        K = logits_RK.shape[-1]
        best_Rk, token_Rk = best_codes(logits_RK, min(self.top_k or K, K))
        score_Rk = best_Rk.double() / self.temperature
        p_Rk = score_Rk.softmax(dim=-1) if self.top_p < 1 else score_Rk
        noisy_Rk = score_Rk + gumbel(key_R[:, None], token_Rk)
        if self.top_p < 1:
            noisy_Rk = noisy_Rk.masked_fill(p_Rk.cumsum(dim=-1) - p_Rk >= self.top_p, float("-inf"))
        return token_Rk.gather(-1, noisy_Rk.argmax(dim=-1, keepdim=True)).squeeze(-1)

    def _takes_all(self, logits_RK: Tensor) -> bool:
        """Say whether all codes take part, on a CPU. Elsewhere nothing is read back: all of them are sorted."""
        return self.top_p < 1 and not 0 < self.top_k < logits_RK.shape[-1] and logits_RK.device.type == "cpu"

    def _frozen_of_all(self, score_RK: Tensor, key_R: Tensor) -> Tensor:
        """Return the codes ``[R]``; noise is worked out for those M of all rows that take part."""
        last_R = self._code(score_RK, None)
        least_R1 = score_RK.gather(-1, last_R[:, None])
        row_M, code_M = (score_RK >= least_R1).nonzero(as_tuple=True)
        score_M = score_RK[row_M, code_M]
        late_M = (score_M == least_R1[row_M, 0]) & (code_M > last_R[row_M])
        below_M = (score_M.double() - score_RK.amax(dim=-1)[row_M]).masked_fill_(late_M, float("-inf"))
        noisy_M = below_M / self.temperature + gumbel(key_R[row_M], code_M)
        best_R = noisy_M.new_full(last_R.shape, float("-inf")).scatter_reduce_(0, row_M, noisy_M, "amax")
        best_M = noisy_M == best_R[row_M]
        return torch.zeros_like(last_R).index_put_((row_M[best_M],), code_M[best_M])

    def _code(self, score_RK: Tensor, uniform_R: Tensor | None) -> Tensor:
        """Return the codes ``[R]`` that are drawn from the best that reach p; without a number the last of these."""
        kernel = drawing_kernel()
        if kernel is None:
            return self._sorted_code(score_RK, uniform_R)
        code_R, known = kernel.codes(score_RK, self.temperature, self.top_p, uniform_R)
        if not known:
            row_M = (code_R < 0).nonzero()[:, 0]
            code_R[row_M] = self._sorted_code(score_RK[row_M], None if uniform_R is None else uniform_R[row_M])
        return code_R

    def _sorted_code(self, score_RK: Tensor, uniform_R: Tensor | None) -> Tensor:
        """Return the same by a sort. NumPy sorts 4096 numbers alone ten times as fast as PyTorch with their places.

        ``drawing.c`` relies on what is compared here being right to 1e-10 of the total.
        """
        best_RK = -torch.from_numpy(np.sort(-score_RK.numpy(), axis=-1))
        mass_RK = ((best_RK.double() - best_RK[:, :1]) / self.temperature).exp().cumsum(dim=-1)
        place_R1 = last_R1 = (mass_RK < self.top_p * mass_RK[:, -1:]).sum(dim=-1, keepdim=True)
        if uniform_R is not None:
            target_R1 = uniform_R[:, None] * mass_RK.gather(-1, last_R1)
            place_R1 = torch.minimum(torch.searchsorted(mass_RK, target_R1, right=True), last_R1)
        score_R1 = best_RK.gather(-1, place_R1)
        equals_R1 = place_R1 - (best_RK > score_R1).sum(dim=-1, keepdim=True)
        return ((score_RK == score_R1).cumsum(dim=-1) > equals_R1).to(torch.uint8).argmax(dim=-1)


_RUN: Final = 8


def best_codes(logits_RK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest logits of each row and their codes, as ``topk`` does, but sooner for many rows.

    Codes are cut into runs of 8, far apart: the k best are among the k runs whose best ones are best.
    """
    R, K = logits_RK.shape
    if K % _RUN or 4 * _RUN * k > K:
        best = logits_RK.topk(k, dim=-1)
        return best.values, best.indices
    runs_R8n = logits_RK.reshape(R, _RUN, -1)
    run_Rk = runs_R8n.amax(dim=1).topk(k, dim=-1, sorted=False).indices
    best_Rk, at_Rk = runs_R8n.gather(2, run_Rk[:, None].expand(-1, _RUN, -1)).flatten(1).topk(k, dim=-1)
    return best_Rk, at_Rk // k * (K // _RUN) + run_Rk.gather(1, at_Rk % k)


_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64: spread the bits of a number over 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def patch_key(seed: int, patch: PatchIndex) -> int:
    """Return the 64 bits that a patch's random numbers come from."""
    key = _mix(seed & _MASK)
    for part in patch:
        key = _mix(key ^ (part & _MASK))
    return key


def patch_uniforms(seed: int, patch: PatchIndex, count: int) -> Tensor:
    """Return ``count`` float64 numbers in [0, 1) that depend on seed and patch alone (always drawn on the CPU)."""
    generator = torch.Generator().manual_seed(patch_key(seed, patch) & ((1 << 63) - 1))
    return torch.rand(count, dtype=torch.float64, generator=generator)


def place_keys(key_R: Tensor, tokens: int) -> Tensor:
    """Return the keys ``[R, N]`` of the places of patches with keys ``key_R`` (of :func:`patch_key`, as int64)."""
    return _mix_all(key_R[:, None] ^ torch.arange(1, tokens + 1, device=key_R.device))


def gumbel(key: Tensor, code: Tensor) -> Tensor:
    """Return the Gumbel noise of codes, float64: a hash of key and code, computed where it is asked for.

    Whole numbers until the last step, so it is the same (but for the last bit of a logarithm) on every device and in
    every release.

    Args:
        key: of :func:`place_keys`.
        code: codes; of a shape that goes together with that of the keys.
    """
    # 53 of the 64 bits, and a half: neither 0 nor 1.
    uniform = ((_mix_all(key ^ code) >> 11 & (1 << 53) - 1).double() + 0.5) * 2.0**-53
    return -(-uniform.log()).log()


def signed(bits: int) -> int:
    """Return 64 bits as the int64 that has them."""
    return bits - (1 << 64) if bits >> 63 else bits


def _mix_all(value: Tensor) -> Tensor:
    """SplitMix64 of int64 numbers, whose products wrap and whose shifts bring in the sign: that is taken off."""
    value = value + signed(0x9E3779B97F4A7C15)
    value = (value ^ (value >> 30 & (1 << 34) - 1)) * signed(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> 27 & (1 << 37) - 1)) * signed(0x94D049BB133111EB)
    return value ^ (value >> 31 & (1 << 33) - 1)
