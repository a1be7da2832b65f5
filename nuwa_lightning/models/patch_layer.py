"""A layer of the patch transformer.

Shape legend: R rows (patches of any sample side by side), C context patches, N tokens per patch, L = 1 + N positions
(BOS first), W width, H query heads, G key/value heads, D head width, S key positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.attention import PatchAttention, causal_mask
from nuwa_lightning.models.position import RelativePatchEmbedding
from nuwa_lightning.planning.geometry import Extent


@dataclass(frozen=True)
class TransformerConfig:
    """The size of the patch transformer.

    Args:
        dim: model width W.
        num_layers: number of layers.
        num_heads: query heads; ``dim`` is a multiple of it.
        num_kv_heads: key/value heads; equal to heads = multi-head, 1 = multi-query, between = grouped-query attention.
        mlp_ratio: inner width of GEGLU in units of the width; the paper's lineage uses 4.
        position_feed: feed the relative patch embedding to the "key" (paper) or to the "logit" (its ablation).
        layer_scale: start value of LayerScale.
        dropout: dropout in attention output and feed-forward.
        neighbor_embedding: hand the nearest written tokens to the input (ours); the paper does not.
        ahead: those too that the order reaches later, where they are there (given, or beyond the seam of a closed
            canvas); it takes training with given parts (``conditions.known_prob``) to learn from them.
        copy_head: let each of these tokens raise the score of its own code (ours): skies, and videos, of which much
            stands still.

    Raises:
        UsageError: if a number makes no sense.
    """

    dim: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 4
    mlp_ratio: float = 4.0
    position_feed: Literal["key", "logit"] = "key"
    layer_scale: float = 0.1
    dropout: float = 0.0
    neighbor_embedding: bool = True
    ahead: bool = False
    copy_head: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"transformer.{name}", getattr(self, name), "give a whole number from 1 up")
        if not 0 < self.mlp_ratio < float("inf"):
            raise UsageError("transformer.mlp_ratio", self.mlp_ratio, "give a number above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError("transformer.dropout", self.dropout, "give a share in [0, 1)")


class GatedFeedForward(nn.Module):
    """GEGLU: ``Linear(W, 2I) -> gelu gate -> Linear(I, W)`` with ``I = multiple * W``."""

    def __init__(self, dim: int, *, multiple: float, dropout: float) -> None:
        super().__init__()
        inner = int(multiple * dim)
        self.inner = nn.Linear(dim, 2 * inner)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(inner, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``[..., W]`` to ``[..., W]``."""
        value, gate = self.inner(h).chunk(2, dim=-1)
        out: Tensor = self.out(self.dropout(value * F.gelu(gate)))
        return out


class PatchLayer(nn.Module):
    """Pre-LN attention over context and own tokens, then GEGLU, each branch scaled (LayerScale).

    Args:
        size: of the model.
        embedding_extent: of the relative patch embedding.
        causal: a token sees earlier tokens of its patch only, or all of them.
    """

    def __init__(self, size: TransformerConfig, embedding_extent: Extent, *, causal: bool = True) -> None:
        super().__init__()
        dim, self.feed, self.causal = size.dim, size.position_feed, causal
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = PatchAttention(dim, size.num_heads, num_kv_heads=size.num_kv_heads, dropout=size.dropout)
        self.scale_attention = nn.Parameter(torch.full((dim,), size.layer_scale))
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = GatedFeedForward(dim, multiple=size.mlp_ratio, dropout=size.dropout)
        self.scale_feed_forward = nn.Parameter(torch.full((dim,), size.layer_scale))
        entry = (size.num_kv_heads, dim // size.num_heads) if size.position_feed == "key" else (size.num_heads,)
        self.embedding = RelativePatchEmbedding(embedding_extent, entry, std=0.6)

    def place_context(self, k_RCNGD: Tensor, offset_RC: Tensor, symmetry_RC: Tensor) -> Tensor:
        """Add the relative patch embedding to context keys (not to queries or values); key-fed variant only."""
        if self.feed == "logit":
            return k_RCNGD
        placed_RCNGD: Tensor = k_RCNGD + self.embedding(offset_RC, symmetry_RC).unsqueeze(-3)
        return placed_RCNGD

    def place_own(self, k_RLGD: Tensor) -> Tensor:
        """Add the centre entry to the keys of the current patch, BOS included."""
        return k_RLGD if self.feed == "logit" else k_RLGD + self.embedding.own()

    def logit_bias(self, mask_R1LS: Tensor, offset_RC: Tensor, symmetry_RC: Tensor, tokens: int) -> Tensor:
        """Return what attention adds to its logits: the mask alone, or with the post-fed embedding ``[R, H, L, S]``."""
        if self.feed == "key":
            return mask_R1LS
        R, own = offset_RC.shape[0], mask_R1LS.shape[-1] - offset_RC.shape[1] * tokens
        bias_RHS = torch.cat(
            [
                self.embedding(offset_RC, symmetry_RC).repeat_interleave(tokens, dim=1),
                self.embedding.own().expand(R, own, -1),
            ],
            dim=1,
        ).transpose(1, 2)
        return torch.where(mask_R1LS, bias_RHS[:, :, None, :], float("-inf"))

    def attend(
        self,
        q_RLHD: Tensor,
        k_RLGD: Tensor,
        v_RLGD: Tensor,
        *,
        context: tuple[Tensor, Tensor],
        offset_RC: Tensor,
        symmetry_RC: Tensor,
    ) -> Tensor:
        """Let whole patches attend to their context and (causally, if the layer is) to themselves; ``[R, L, W]``.

        Args:
            q_RLHD: queries.
            k_RLGD: own keys, placed (:meth:`place_own`).
            v_RLGD: own values.
            context: keys, placed (:meth:`place_context`), and values of the context ``[R, C, N, G, D]``.
            offset_RC: entries of the relative patch embedding.
            symmetry_RC: relative symmetries.
        """
        ck_RCNGD, cv_RCNGD = context
        L, N = q_RLHD.shape[1], ck_RCNGD.shape[2]
        k_RSGD = torch.cat([ck_RCNGD.flatten(1, 2), k_RLGD], dim=1)
        v_RSGD = torch.cat([cv_RCNGD.flatten(1, 2), v_RLGD], dim=1)
        S = k_RSGD.shape[1]
        bias = None
        if self.causal:
            bias = causal_mask(L, S - L, device=q_RLHD.device)
        if self.feed == "logit":
            every = q_RLHD.new_ones(1, 1, L, S, dtype=torch.bool) if bias is None else bias
            bias = self.logit_bias(every, offset_RC, symmetry_RC, N)
        return self.attention.mix(q_RLHD, k_RSGD.transpose(1, 2), v_RSGD.transpose(1, 2), bias=bias)

    def finish(self, x: Tensor, mixed: Tensor, read: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Add the attention branch, let ``read`` add that of the text if there is one, run the feed-forward branch."""
        x = x + self.scale_attention * mixed
        if read is not None:
            x = read(x)
        out: Tensor = x + self.scale_feed_forward * self.feed_forward(self.norm_feed_forward(x))
        return out
