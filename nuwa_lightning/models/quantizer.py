"""Vector quantisation whose codes cannot collapse.

Shapes: B batch, N vectors, K codes, D code dimension, Y/X rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional


class VectorQuantizer(nn.Module):
    """Nearest of K unit vectors, learned by moving averages (van den Oord et al. 2017; ViT-VQGAN's l2 codes).

    Codes cannot collapse: few dimensions, both sides of unit length, k-means start from real vectors
    (:meth:`start`), moving averages of what each code was assigned, and a code that is hardly used is put on a
    vector of the batch. All statistics are sums over every rank, so that each rank holds the same codes.

    Args:
        codebook_size: K.
        codebook_dim: D.
        decay: how much of the averages survives a step.
        restart_below: a code used less often than this share of the mean use is put elsewhere.
    """

    codebook_KD: Tensor
    mean_count_K: Tensor
    mean_sum_KD: Tensor
    started: Tensor

    def __init__(
        self, codebook_size: int = 1024, codebook_dim: int = 16, *, decay: float = 0.98, restart_below: float = 0.03
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.decay = decay
        self.restart_below = restart_below
        codebook_KD = functional.normalize(torch.randn(codebook_size, codebook_dim), dim=1)
        self.register_buffer("codebook_KD", codebook_KD)
        self.register_buffer("mean_count_K", torch.ones(codebook_size))
        self.register_buffer("mean_sum_KD", codebook_KD.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, z_ND: Tensor) -> Tensor:
        """Return the index (long, N) of the code nearest to each of the vectors, whatever their length."""
        return (z_ND @ self.codebook_KD.T).argmax(dim=1)

    def forward(self, z_BDYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise.

        Args:
            z_BDYX: vectors of any length.

        Returns:
            The codes ``q_BDYX`` (gradients pass straight to the normalised vectors), ``tokens_BYX`` (long), and the
            commitment loss (mean squared distance to the code, summed over D; between 0 and 4).
        """
        unit_BYXD = functional.normalize(z_BDYX.permute(0, 2, 3, 1), dim=3)
        tokens_BYX = self.nearest(unit_BYXD.detach().reshape(-1, self.codebook_dim)).view(unit_BYXD.shape[:3])
        q_BYXD = self.codebook_KD[tokens_BYX]
        commitment = (unit_BYXD - q_BYXD).square().sum(dim=3).mean()
        through_BYXD = unit_BYXD + (q_BYXD - unit_BYXD).detach()
        return through_BYXD.permute(0, 3, 1, 2), tokens_BYX, commitment

    def lookup(self, tokens_BYX: Tensor) -> Tensor:
        """Return the code vectors ``q_BDYX`` of tokens."""
        return self.codebook_KD[tokens_BYX].permute(0, 3, 1, 2)

    @torch.no_grad()
    def count(self, tokens_N: Tensor) -> Tensor:
        """Return how often each code is used by all ranks (float, K)."""
        count_K = torch.bincount(tokens_N, minlength=self.codebook_size).float()
        _all_reduce(count_K)
        return count_K

    @torch.no_grad()
    def update(self, z_ND: Tensor, tokens_N: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Move the codes towards the vectors they were assigned, on all ranks alike; restart those hardly used.

        Args:
            z_ND: vectors of this rank, of any length.
            tokens_N: the codes they were assigned.
            generator: where the vectors for restarts are drawn from; must be the same on every rank.

        Returns:
            How often each code was used in this step by all ranks (float, K).
        """
        unit_ND = functional.normalize(z_ND.float(), dim=1)
        count_K = self.count(tokens_N)
        sum_KD = torch.zeros_like(self.mean_sum_KD).index_add_(0, tokens_N, unit_ND)
        _all_reduce(sum_KD)
        self.mean_count_K.mul_(self.decay).add_(count_K, alpha=1 - self.decay)
        self.mean_sum_KD.mul_(self.decay).add_(sum_KD, alpha=1 - self.decay)
        self.codebook_KD.copy_(functional.normalize(self.mean_sum_KD, dim=1))
        self._restart(unit_ND, generator)
        return count_K

    def _restart(self, unit_ND: Tensor, generator: torch.Generator | None) -> None:
        mean = self.mean_count_K.mean()
        dead_K = self.mean_count_K < self.restart_below * mean
        candidates_ND = _gather(unit_ND)
        dead = dead_K.nonzero().flatten()[: len(candidates_ND)]
        if len(dead) == 0:
            return
        # Poorly served vectors are the better seeds: draw with the squared distance as weight, as k-means++ does.
        distance_N = (2 - 2 * (candidates_ND @ self.codebook_KD.T).amax(dim=1)).clamp(min=1e-8)
        chosen = torch.multinomial(distance_N, len(dead), generator=generator)
        self.codebook_KD[dead] = candidates_ND[chosen]
        self.mean_count_K[dead] = mean
        self.mean_sum_KD[dead] = candidates_ND[chosen] * mean

    @torch.no_grad()
    def start(
        self, z_ND: Tensor, *, batches: int = 1, iterations: int = 8, generator: torch.Generator | None = None
    ) -> None:
        """Put the codes where real vectors are: spherical k-means with a k-means++ start.

        Args:
            z_ND: vectors of this rank, of any length; those of all ranks are used.
            batches: from how many batches they were gathered; the moving averages begin with the size of one.
            iterations: rounds of k-means.
            generator: random source; must be the same on every rank.

        Raises:
            ValueError: if there are fewer vectors than codes.
        """
        unit_ND = _gather(functional.normalize(z_ND.float(), dim=1))
        if len(unit_ND) < self.codebook_size:
            raise ValueError(f"{len(unit_ND)} vectors cannot start {self.codebook_size} codes")
        codebook_KD = _spread(unit_ND, self.codebook_size, generator)
        count_K = torch.ones(self.codebook_size)
        for _ in range(iterations):
            tokens_N = (unit_ND @ codebook_KD.T).argmax(dim=1)
            count_K = torch.bincount(tokens_N, minlength=self.codebook_size).to(unit_ND.dtype)
            sum_KD = torch.zeros_like(codebook_KD).index_add_(0, tokens_N, unit_ND)
            used_K = count_K > 0
            codebook_KD[used_K] = functional.normalize(sum_KD[used_K], dim=1)
        per_step_K = (count_K + 1) / batches
        self.codebook_KD.copy_(codebook_KD)
        self.mean_count_K.copy_(per_step_K)
        self.mean_sum_KD.copy_(codebook_KD * per_step_K[:, None])
        self.started.fill_(True)


def _spread(unit_ND: Tensor, codebook_size: int, generator: torch.Generator | None) -> Tensor:
    """Return K of the vectors, spread out: k-means++ in sixteen rounds of many draws instead of K rounds of one."""
    first = torch.randint(len(unit_ND), (1,), generator=generator)
    chosen_KD = unit_ND[first]
    nearest_N = (unit_ND @ chosen_KD.T).amax(dim=1)
    while len(chosen_KD) < codebook_size:
        draws = min(codebook_size - len(chosen_KD), max(1, codebook_size // 16))
        distance_N = (2 - 2 * nearest_N).clamp(min=1e-8)
        new_KD = unit_ND[torch.multinomial(distance_N, draws, generator=generator)]
        chosen_KD = torch.cat([chosen_KD, new_KD])
        nearest_N = torch.maximum(nearest_N, (unit_ND @ new_KD.T).amax(dim=1))
    return chosen_KD.clone()


def _all_reduce(x: Tensor) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)


def _gather(x_ND: Tensor) -> Tensor:
    """Return the rows of every rank, in the order of the ranks; all must hold as many."""
    if not (dist.is_available() and dist.is_initialized()):
        return x_ND
    parts = [torch.empty_like(x_ND) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x_ND.contiguous())
    return torch.cat(parts)
