"""Attention of the patch transformer: one path, :func:`attend`, for training and for cached decoding.

Shape legend: R rows (patches of any sample side by side), L query positions, S key positions, W model width,
H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchAttention(nn.Module):
    """Multi-head, grouped-query or multi-query attention over own tokens and gathered context.

    Keys and values have no bias, the output projection has one (paper lineage: HORIZON code).

    Args:
        dim: model width W.
        num_heads: query heads H; ``dim`` must be a multiple of it.
        num_kv_heads: key/value heads G; ``num_heads`` must be a multiple of it. G = H is multi-head, G = 1 multi-query.
        dropout: dropout on the output.

    Raises:
        ValueError: if the sizes do not divide.
    """

    def __init__(self, dim: int, num_heads: int, *, num_kv_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is no multiple of num_heads {num_heads}: change one of them")
        if num_heads % num_kv_heads:
            raise ValueError(
                f"heads {num_heads} is no multiple of num_kv_heads {num_kv_heads}: use a divisor of {num_heads}"
            )
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, dim // num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def queries(self, h: Tensor) -> Tensor:
        """Project ``[..., W]`` to queries ``[..., H, D]``."""
        return torch.unflatten(self.query(h), -1, (self.num_heads, self.head_dim))

    def keys_values(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Project ``[..., W]`` to keys and values ``[..., G, D]``."""
        shape = (self.num_kv_heads, self.head_dim)
        return torch.unflatten(self.key(h), -1, shape), torch.unflatten(self.value(h), -1, shape)

    def mix(self, q_RLHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, *, bias: Tensor | None) -> Tensor:
        """Attend and project out.

        Args:
            q_RLHD: queries.
            k_RGSD: keys, position embedding already added where it is fed to the keys.
            v_RGSD: values.
            bias: boolean mask (True = may be seen) or additive logits, broadcastable to ``[R, H, L, S]``.

        Returns:
            ``[R, L, W]``.
        """
        out: Tensor = self.dropout(self.out(attend(q_RLHD, k_RGSD, v_RGSD, bias=bias)))
        return out


def attend(q_RLHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, *, bias: Tensor | None) -> Tensor:
    """Attend, the queries of one key/value head folded into query rows: keys and values are never repeated in memory.

    Args:
        q_RLHD: queries.
        k_RGSD: keys.
        v_RGSD: values.
        bias: boolean mask (True = may be seen) or additive logits, broadcastable to ``[R, H, L, S]``.

    Returns:
        ``[R, L, H * D]``.
    """
    R, L, H, D = q_RLHD.shape
    G = k_RGSD.shape[1]
    group = H // G
    q_RGMD = q_RLHD.view(R, L, G, group, D).permute(0, 2, 3, 1, 4).reshape(R, G, group * L, D)
    if bias is not None and group > 1:
        S = k_RGSD.shape[2]
        if bias.shape[1] == 1:
            # The same for all queries: nothing to repeat.
            bias = bias if bias.shape[2] == 1 else bias.expand(-1, -1, L, S).repeat(1, 1, group, 1)
        else:
            bias = bias.expand(-1, H, L, S).reshape(-1, G, group * L, S)
    o_RGMD = F.scaled_dot_product_attention(q_RGMD, k_RGSD, v_RGSD, attn_mask=bias)
    return o_RGMD.view(R, G, group, L, D).permute(0, 3, 1, 2, 4).reshape(R, L, H * D)


def causal_mask(queries: int, context: int, *, start: int = 0, device: torch.device | None = None) -> Tensor:
    """Return the mask of a patch: all of the context, own tokens up to the query.

    Args:
        queries: number of query positions L.
        context: number of context key positions; they come first.
        start: position of the first query inside the patch.
        device: where to make it.

    Returns:
        Boolean ``[1, 1, L, context + start + L]``.
    """
    own = torch.ones(queries, start + queries, dtype=torch.bool, device=device).tril(start)
    return torch.cat([torch.ones(queries, context, dtype=torch.bool, device=device), own], dim=1)[None, None]
