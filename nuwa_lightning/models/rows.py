"""Which patch sees which, and all patches of some canvases side by side: attention by groups, or by FlexAttention.

Shape legend: as in ``nuwa_infinity``; M every context patch of every row, Q query positions of a canvas (P * L), O
entries of the relative patch embedding, J patches themselves, and once more as context (2 P).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.models.nuwa_infinity import RelativePatchEmbedding

Reader = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ContextGroup:
    """The steps of a plan that see equally many context patches: attention over them needs no padding.

    Attributes:
        steps_P: numbers of these steps.
        context_PC: numbers of the steps that each one sees.
        offset_PC: entries of the relative patch embedding.
        symmetry_PC: index of the context's symmetry relative to the step's.
    """

    steps_P: Tensor
    context_PC: Tensor
    offset_PC: Tensor
    symmetry_PC: Tensor


@dataclass(frozen=True)
class Rows:
    """Every step of every sample, groups one after another, samples of one step side by side: each group is one slice.

    M counts every context patch of every row.
    """

    order_P: Tensor
    shapes: list[tuple[int, int]]
    seen_M: Tensor
    offset_M: Tensor
    symmetry_M: Tensor
    canvas: FlexCanvas | None = None

    @staticmethod
    def of(groups: Sequence[ContextGroup], *, samples: int, device: torch.device) -> Rows:
        """Lay out the steps of ``groups`` for so many samples."""
        order_P = torch.cat([g.steps_P for g in groups])
        row_P = torch.argsort(order_P) * samples
        each_B = torch.arange(samples, device=order_P.device)[:, None]
        return Rows(
            order_P.to(device),
            [(g.context_PC.shape[0] * samples, g.context_PC.shape[1]) for g in groups],
            torch.cat([(row_P[g.context_PC][:, None] + each_B).flatten() for g in groups]).to(device),
            torch.cat([g.offset_PC[:, None].expand(-1, samples, -1).flatten() for g in groups]).to(device),
            torch.cat([g.symmetry_PC[:, None].expand(-1, samples, -1).flatten() for g in groups]).to(device),
        )

    def as_canvas(self, groups: Sequence[ContextGroup], tokens: int, *, causal: bool) -> Rows:
        """Return the same with each canvas as one sequence of patches of so many tokens."""
        return replace(self, canvas=FlexCanvas.of(groups, self.order_P, tokens, causal=causal))

    @staticmethod
    def reader(read: Reader | None, samples: int) -> Reader | None:
        """Return what reads texts of rows whose samples, not steps, lie one after another."""
        if read is None:
            return None
        return lambda x: (
            torch.unflatten(read(torch.unflatten(x, 0, (-1, samples)).transpose(0, 1).flatten(0, 1)), 0, (samples, -1))
            .transpose(0, 1)
            .flatten(0, 1)
        )

    def arrange(self, x_BP: Tensor) -> Tensor:
        """Return ``[B, P, ...]`` as rows ``[R, ...]``."""
        return x_BP[:, self.order_P].transpose(0, 1).flatten(0, 1)


@final
@dataclass(frozen=True)
class FlexCanvas:
    """Each canvas as one sequence, in the order of rows. Its keys are all positions of all patches, then all tokens.

    What a patch sees of itself are positions among the first ones, what it sees of its context are among the second.
    ``q (k + Emb)^T = q k^T + q Emb^T``: the embedding of a context patch is added to the scores, so that nothing is
    copied for those who see it.

    Attributes:
        sees_PJ: which patch sees which.
        offset_PJ: entries of the relative patch embedding.
        symmetry_PJ: relative symmetries.
        tokens: of a patch, N.
        blocks: the mask, as FlexAttention wants it.
    """

    sees_PJ: Tensor
    offset_PJ: Tensor
    symmetry_PJ: Tensor
    tokens: int
    blocks: Any

    @staticmethod
    def of(groups: Sequence[ContextGroup], order_P: Tensor, tokens: int, *, causal: bool) -> FlexCanvas:
        """Return it for the plan that the groups are of."""
        from torch.nn.attention.flex_attention import create_block_mask

        P, L, device = len(order_P), tokens + 1, order_P.device
        row_P = torch.argsort(order_P).cpu()
        sees_PJ = torch.cat([torch.eye(P, dtype=torch.bool), torch.zeros(P, P, dtype=torch.bool)], dim=1)
        offset_PJ, symmetry_PJ = torch.zeros(2, P, 2 * P, dtype=torch.long)
        for group in groups:
            place = row_P[group.steps_P.cpu()][:, None], P + row_P[group.context_PC.cpu()]
            sees_PJ[place], offset_PJ[place], symmetry_PJ[place] = True, group.offset_PC.cpu(), group.symmetry_PC.cpu()
        sees_PJ = sees_PJ.to(device)

        def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            j = _patch(k, P, tokens)
            there = sees_PJ[q // L, j]
            return there & ((j >= P) | (k % L <= q % L)) if causal else there

        blocks = create_block_mask(mask, None, None, P * L, P * (L + tokens), device=device)
        return FlexCanvas(sees_PJ, offset_PJ.to(device), symmetry_PJ.to(device), tokens, blocks)

    def attend(
        self,
        q_RLHD: Tensor,
        own: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        embedding: RelativePatchEmbedding,
        *,
        feed: str,
    ) -> Tensor:
        """Return ``[R, L, H * D]``; see :func:`~nuwa_lightning.models.nuwa_infinity.attend`.

        Args:
            q_RLHD: queries.
            own: keys, placed, and values ``[R, L, G, D]`` of the patches themselves.
            seen: keys, not placed, and values ``[R, N, G, D]`` of their tokens, for others.
            embedding: what is fed.
            feed: to the "key" or the "logit".

        Raises:
            UsageError: if gradients are asked for on a CPU.
        """
        P, L, tokens = len(self.sees_PJ), q_RLHD.shape[1], self.tokens
        q_BHQD = self._canvas(q_RLHD)
        k_BGSD, v_BGSD = (
            torch.cat([self._canvas(x), self._canvas(y)], dim=2).to(q_BHQD.dtype)
            for x, y in zip(own, seen, strict=True)
        )
        H, D = q_BHQD.shape[1], q_BHQD.shape[-1]
        entries: Tensor = embedding.offsets
        first, turned = len(entries), embedding.symmetries is not None
        if embedding.symmetries is not None:
            entries = torch.cat([entries, embedding.symmetries])
        at_PJ = self.offset_PJ
        if feed == "key":
            entries_OHD = entries.expand(-1, -1, D).repeat_interleave(H // entries.shape[1], dim=1)
            bias_BHQO = torch.einsum("bhqd,ohd->bhqo", q_BHQD, entries_OHD.to(q_BHQD.dtype)) / D**0.5
        else:
            bias_BHQO = entries.T[None, :, None].expand(len(q_BHQD), H, q_BHQD.shape[2], -1)
            at_PJ = at_PJ.clone()
            at_PJ[:, :P] = embedding.index((0, 0, 0))

        def placed(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            i, j = q // L, _patch(k, P, tokens)
            context = bias_BHQO[b, h, q, at_PJ[i, j]]
            if turned:
                context = context + torch.where(j < P, 0.0, bias_BHQO[b, h, q, first + self.symmetry_PJ[i, j]])
            return score + (torch.where(j < P, 0.0, context) if feed == "key" else context)

        try:
            o_BHQD = _flex(q_RLHD.device.type)(
                q_BHQD, k_BGSD, v_BGSD, score_mod=placed, block_mask=self.blocks, enable_gqa=k_BGSD.shape[1] != H
            )
        except NotImplementedError:
            hint = "PyTorch has no gradients of FlexAttention on a CPU: leave it out there"
            raise UsageError("model.scaling.flex_attention", True, hint) from None
        o_RLHD: Tensor = torch.unflatten(o_BHQD, 2, (P, L)).permute(2, 0, 3, 1, 4).flatten(0, 1)
        return o_RLHD.flatten(2)

    def _canvas(self, x_RLHD: Tensor) -> Tensor:
        """Return rows, samples of a step side by side, as canvases ``[B, H, P * L, D]``."""
        return torch.unflatten(x_RLHD, 0, (len(self.sees_PJ), -1)).permute(1, 3, 0, 2, 4).flatten(2, 3)


def _patch(k: Tensor, patches: int, tokens: int) -> Tensor:
    """Return which of J a key is of."""
    own = patches * (tokens + 1)
    return torch.where(k < own, k // (tokens + 1), patches + (k - own) // tokens)


@functools.cache
def _flex(device: str) -> Any:
    """Return FlexAttention, compiled where that makes kernels of it."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)
