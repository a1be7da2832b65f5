"""The patch transformer of NUWA-Infinity, from top to bottom (paper, sections on NCP, ADC and the vision decoder).

A canvas ``x`` of any size is cut into P patches of N tokens. The model is autoregressive on two levels: over patches,
in the order of the direction controller, and over the tokens of each patch,

    p(x | y) = prod_{i=1..P} p(x_i | c_i, y)                             c_i = Select(i)
    p(x_i | c_i, y) = prod_{n=1..N} p(x_i^n | x_i^{<n}, c_i, y)          y: a text, if there is one

``Select(i)`` are the finished patches that the context pool lets patch i see: in the paper those within a box of
offsets ``|dy| <= e_y``, ``|dx| <= e_x``, ``0 <= -dt <= e_t``. What layer l sees of them, ``c_i``, is the normalised
input of layer l at their tokens. Patches further away act through the states of those between. In each layer,

    Q = LN(x_i) W_q        K = [LN(x_i) ; c_i] W_k + Emb(i)        V = [LN(x_i) ; c_i] W_v
    x_i <- x_i + s_1 * softmax(Q K^T / sqrt(D) + causal mask) V W_o
    x_i <- x_i + s_2 * cross-attention(LN(x_i), y)                       in models with text
    x_i <- x_i + s_3 * GEGLU(LN(x_i))                                    s: LayerScale

``Emb(i)`` holds one vector for each offset between a context patch and patch i. No absolute position of a patch enters,
so a canvas may have any size. Ours are: the neighbor embedding, the symmetry embedding, how high a patch lies as a
share of the canvas (``heights``; off by default), the copy head, and the second level in any order
(``bidirectional``), also group by group (``grouped``).

Three callers, one maths: :meth:`PatchTransformer.forward` scores all patches of a canvas at once (training);
:meth:`PatchTransformer.forward_step` scores one patch, given cached states (training as in the paper); decoding
(``generation/``) runs the layers token by token over cached keys and values. All of them attend through :func:`attend`,
and tests hold all of them equal to a dense reference that shares no code with this file. Which step sees which is laid
out in ``layout.py`` from ``planning/schedule.py``; ``rows.py`` puts patches side by side.

Shape legend: B samples, P patches (steps of a plan), C context patches, N tokens per patch, L = 1 + N positions (BOS
first), R rows (patches of any sample side by side), W model width, H query heads, G key/value heads, D head width,
S key positions (in the text branch: text tokens), E width of a code vector (there: of a text token), K codes (in names
of neighbors: their number), U entries of the patch embedding: every height under every symmetry.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.rows import ContextGroup, Reader, Rows
from nuwa_lightning.models.whitening import whitened
from nuwa_lightning.planning.geometry import SYMMETRIES, Extent

Score = Callable[[Tensor, Tensor], Tensor]
_OwnMasks = tuple[Tensor | None, Tensor | None]

# -- hyperparameters ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransformerConfig:
    """The size of the patch transformer.

    Args:
        dim: model width W.
        num_layers: number of layers.
        num_heads: query heads; ``dim`` is a multiple of it.
        num_kv_heads: key/value heads; all of num_heads is multi-head, 1 multi-query, between grouped-query attention.
        mlp_ratio: inner width of GEGLU in units of the width; the paper's lineage uses 4.
        position_feed: feed the relative patch embedding to the "key" (paper), as one number per "head" to all channels
            of its keys (what the paper's 202M and 809M add up to), or to the "logit" (its ablation).
        layer_scale: start value of LayerScale.
        dropout: dropout in attention output and feed-forward.
        neighbor_embedding: feed the nearest written tokens to the input (ours); the paper does not.
        ahead: those too that the order reaches later, where they are known (or beyond the seam of a closed canvas);
            it takes training with known parts (``conditions.known_prob``) to learn from them.
        copy_head: let each of these tokens raise its own logit (ours): for skies, and for videos, much of which does
            not move.
        code_head: let the head point among the code vectors, too (ours).
        symmetry_embedding: tell the model under which symmetry a patch is read (ours); raster order has only one.
        heights: tell the model how high on the canvas a patch lies, in so many steps from top to bottom, whatever the
            canvas' height (ours; skies are above, ground is below); nothing on a canvas that is endless or closed
            along the height. 0 is the paper.

    Raises:
        UsageError: if a number makes no sense.
    """

    dim: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 4
    mlp_ratio: float = 4.0
    position_feed: Literal["key", "head", "logit"] = "key"
    layer_scale: float = 0.1
    dropout: float = 0.0
    neighbor_embedding: bool = True
    ahead: bool = False
    copy_head: bool = False
    code_head: bool = True
    symmetry_embedding: bool = True
    heights: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"transformer.{name}", getattr(self, name), "give a whole number from 1 up")
        if self.num_layers > 10_000:
            raise UsageError("transformer.num_layers", self.num_layers, "give 10000 or fewer")
        if not 0 <= self.heights <= 64:
            raise UsageError("transformer.heights", self.heights, "give a whole number from 0 to 64, such as 8")
        if not 0 < self.mlp_ratio < float("inf"):
            raise UsageError("transformer.mlp_ratio", self.mlp_ratio, "give a number above 0")
        if not abs(self.layer_scale) < float("inf"):
            raise UsageError("transformer.layer_scale", self.layer_scale, "give a finite number, such as 0.1")
        if not 0 <= self.dropout < 1:
            raise UsageError("transformer.dropout", self.dropout, "give a share in [0, 1)")


# -- what the model is told of a plan ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenMask:
    """What a bidirectional model has to predict: it reads each patch twice, once whole and once with tokens masked.

    Attributes:
        tokens: which tokens are masked, boolean; of the shape of the tokens.
        neighbors: the neighbors, ``ABSENT`` where they are masked.
        groups: with which group each token is written, from 0, for a grouped model; of the shape of the tokens.
    """

    tokens: Tensor
    neighbors: Tensor
    groups: Tensor | None = None

    def of(self, part: Callable[[Tensor], Tensor]) -> TokenMask:
        """Return the same of a part of the tokens."""
        return TokenMask(part(self.tokens), part(self.neighbors), None if self.groups is None else part(self.groups))


# -- neighbors ---------------------------------------------------------------------------------------------------------


class Neighbor(NamedTuple):
    """Where a token lies, seen from the token to be predicted.

    Attributes:
        t: frames later.
        y: rows further down.
        x: columns further on.
        turned: rows and columns are those of the canonical frame of the step's symmetry; else of the canvas as it lies.
        coarse: it is a token of the coarse plan, which lies on the same grid and is there as a whole.
        later: in the patch itself, it may be one that follows in the frame: groups are written in other orders.
    """

    t: int
    y: int
    x: int
    turned: bool = True
    coarse: bool = False
    later: bool = False


NEIGHBORS: Final = tuple(
    Neighbor(0, y, x) for y, x in ((-1, 0), (0, -1), (-1, -1), (1, -1), (-2, 0), (0, -2), (2, -1), (-2, -1))
)
"""In the frame itself, where columns are written from left to right and each from the top down: all of them are written
before the cell."""

_AROUND: Final = tuple(itertools.product((-1, 0, 1), repeat=2))
_WIDER: Final = tuple(itertools.product((-2, -1, 0, 1, 2), repeat=2))

PAST: Final = (*(Neighbor(-1, y, x, turned=False) for y, x in _AROUND), Neighbor(-2, 0, 0, turned=False))
"""In the frames before: what was here, and what may have moved here; for models whose pool reaches backwards. As the
canvas lies: the orders of a frame turn nothing that moves from frame to frame, and a text tells its direction."""

AHEAD: Final = tuple(Neighbor(0, y, x) for y, x in ((0, 1), (1, 0), (-1, 1), (1, 1)))
"""On the other side: there only where a patch is finished that the order reaches later, since it is given, was written
under another symmetry, or lies beyond the seam of a closed canvas; and above on the right, at the top of a patch."""

MATCHED: Final = tuple(Neighbor(t, y, x) for t in (-1, -2) for y, x in _WIDER)
"""In the last two frames, further around: where what is written next to the cell came from tells how things move; see
`motion`."""

COARSE: Final = tuple(Neighbor(0, y, x, coarse=True) for y, x in _AROUND)
"""In the coarse plan: what is to be seen at the cell and around it, before anything of it is written."""

ABSENT: Final = -1
"""Stands for a neighbor that is not written yet, not selected by the pool, or outside the canvas."""


def neighbors(
    *, past: bool = False, ahead: bool = False, coarse: bool = False, matched: bool = False, grouped: bool = False
) -> tuple[Neighbor, ...]:
    """Return the neighbors that a model reads, K of them.

    Args:
        past: whether its pool reaches into earlier frames.
        ahead: whether it reads :data:`AHEAD`.
        coarse: whether it reads a coarse plan, :data:`COARSE`.
        matched: whether its copy head looks at how things move, :data:`MATCHED`, which are the last ones.
        grouped: whether a patch is written group by group, so that those ahead may be there, too.
    """
    parts = ((AHEAD, ahead or grouped), (PAST, past), (COARSE, coarse), (MATCHED, matched))
    found = NEIGHBORS + tuple(itertools.chain.from_iterable(part for part, wanted in parts if wanted))
    return tuple(each._replace(later=grouped) for each in found)


class NeighborEmbedding(nn.Module):
    """A linear map of the code vectors of K neighbors, added to the input where a token is predicted (ours).

    Attention has to learn from positions alone that the token on the left matters most, which takes a large share of a
    short training. This gives that away, and nothing else: only tokens of the patch itself and of patches that the pool
    selects are fed, and those of a coarse plan; the others are zero.

    Args:
        codebook_dim: width E of a code vector.
        dim: model width W.
        count: K, see :func:`neighbors`; of more than that the first ones.
    """

    def __init__(self, codebook_dim: int, dim: int, *, count: int = len(NEIGHBORS)) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(count * codebook_dim, dim, bias=False)

    def forward(self, neighbors_K: Tensor, codebook_KE: Tensor) -> Tensor:
        """Map tokens ``[..., K]``, :data:`ABSENT` where there is none, to ``[..., W]``."""
        neighbors_K = neighbors_K[..., : self.count]
        vectors = codebook_KE[neighbors_K.clamp_min(0)] * (neighbors_K != ABSENT).unsqueeze(-1)
        out: Tensor = self.linear(vectors.flatten(-2))
        return out


# -- position ----------------------------------------------------------------------------------------------------------


class AxialPosition(nn.Module):
    """Learned position inside a patch: one vector for the row plus one for the column, in the canonical frame."""

    def __init__(self, rows: int, columns: int, *, dim: int, std: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(rows, dim) * std)
        self.columns = nn.Parameter(torch.randn(columns, dim) * std)

    def forward(self) -> Tensor:
        """Return ``[N, W]``: canonical order, down the columns, columns from left to right."""
        return (self.rows[None, :] + self.columns[:, None]).flatten(0, 1)


class RelativePatchEmbedding(nn.Module):
    """One vector per offset between a context patch and the current patch, plus one per relative symmetry (ours).

        Emb(i)_c = offsets[clamp(index(c) - index(i), -e, e)] + symmetries[symmetry(i)^-1 symmetry(c)]

    Fed to the keys it is the paper's Emb: a vector per key/value head, the same for all tokens of a patch. Fed to the
    logits it is the paper's post-fed variant: a number per query head. The current patch itself, BOS included, has the
    offset (0, 0, 0) and no symmetry.

    Args:
        extent: largest offsets ``(t, y, x)`` that have a vector of their own.
        shape: shape of one entry, ``(G, D)`` or ``(G, 1)`` for keys, or ``(H,)`` for logits.
        std: standard deviation of the initial entries.
        symmetries: whether there are entries for them.
    """

    def __init__(self, extent: Extent, shape: tuple[int, ...], *, std: float, symmetries: bool = True) -> None:
        super().__init__()
        self.extent = extent
        # Time runs one way, so only past frames have entries.
        self.sizes = (extent[0] + 1, 2 * extent[1] + 1, 2 * extent[2] + 1)
        count = self.sizes[0] * self.sizes[1] * self.sizes[2]
        self.offsets = nn.Parameter(torch.randn(count, *shape) * std)
        # The same symmetry needs no entry to differ from, but keeping it lets one table serve every case.
        self.symmetries = nn.Parameter(torch.zeros(len(SYMMETRIES), *shape)) if symmetries else None

    def index(self, offset: tuple[int, int, int]) -> int:
        """Return the entry of ``offset`` = context patch minus current patch, clamped to the extent."""
        t, y, x = (max(-e, min(e, v)) for v, e in zip(offset, self.extent, strict=True))
        return ((t + self.extent[0]) * self.sizes[1] + y + self.extent[1]) * self.sizes[2] + x + self.extent[2]

    def forward(self, offset_index: Tensor, symmetry_index: Tensor) -> Tensor:
        """Look up ``[..., *shape]`` for entries of any equal shape."""
        entry = self.offsets[offset_index]
        return entry if self.symmetries is None else entry + self.symmetries[symmetry_index]

    def own(self) -> Tensor:
        """Return the entry ``[*shape]`` of the current patch."""
        return self.offsets[self.index((0, 0, 0))]


# -- attention ---------------------------------------------------------------------------------------------------------


def attend(q_RLHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, *, bias: Tensor | None) -> Tensor:
    """Return ``softmax(q k^T / sqrt(D) + bias) v``: the only attention there is, in training and in decoding.

    Query head h reads key/value head ``h // (H / G)``. The queries of one key/value head are folded into query rows, so
    that keys and values are never repeated in memory.

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


def group_mask(group_RN: Tensor) -> Tensor:
    """Return who sees whom in a patch written group by group, ``[R, 1, L, L]`` for BOS, N tokens, and N queries.

    A token sees BOS and the tokens of its own group and those before; a query BOS, the tokens of the groups before, and
    the queries of its own (LPD, Zhang et al., 2025).
    """
    group_RL = F.pad(torch.cat([group_RN, group_RN], dim=1), (1, 0), value=-1)
    asks_L = torch.arange(group_RL.shape[1], device=group_RL.device) > group_RN.shape[1]
    by_RL1, of_R1L, asks_L1 = group_RL[:, :, None], group_RL[:, None, :], asks_L[:, None]
    return torch.where(asks_L, asks_L1 & (by_RL1 == of_R1L), of_R1L < by_RL1 + ~asks_L1)[:, None]


class PatchAttention(nn.Module):
    """The projections of multi-head, grouped-query or multi-query attention over own tokens and context.

    Keys and values have no bias, the output projection has one (paper lineage: HORIZON code).

    Args:
        size: of the model; query heads H are a multiple of key/value heads G, the width is one of H.

    Raises:
        ValueError: if the sizes do not divide.
    """

    def __init__(self, size: TransformerConfig) -> None:
        super().__init__()
        dim, num_heads, num_kv_heads = size.dim, size.num_heads, size.num_kv_heads
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
        self.dropout = nn.Dropout(size.dropout)

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


# -- layer -------------------------------------------------------------------------------------------------------------


class GatedFeedForward(nn.Module):
    """GEGLU (Shazeer, 2020): ``(v * gelu(g)) W_out`` with ``[v ; g] = h W_in``, both ``multiple * W`` wide."""

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
    """Pre-LN attention over context and own tokens, then GEGLU, each branch scaled (LayerScale); formulas at the top.

    Args:
        size: of the model.
        embedding_extent: of the relative patch embedding.
        causal: a token sees earlier tokens of its patch only, or all of them.
    """

    def __init__(self, size: TransformerConfig, embedding_extent: Extent, *, causal: bool = True) -> None:
        super().__init__()
        dim, self.causal = size.dim, causal
        self.feed = "logit" if size.position_feed == "logit" else "key"
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = PatchAttention(size)
        self.scale_attention = nn.Parameter(torch.full((dim,), size.layer_scale))
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = GatedFeedForward(dim, multiple=size.mlp_ratio, dropout=size.dropout)
        self.scale_feed_forward = nn.Parameter(torch.full((dim,), size.layer_scale))
        of_key = (size.num_kv_heads, 1 if size.position_feed == "head" else dim // size.num_heads)
        entry = (size.num_heads,) if self.feed == "logit" else of_key
        self.embedding = RelativePatchEmbedding(embedding_extent, entry, std=0.6, symmetries=size.symmetry_embedding)

    def forward(
        self, rows: Rows, masks: _OwnMasks, read: Reader | None, detach_context: bool, last: bool, *readings: Tensor
    ) -> list[Tensor]:
        """Return what the layer makes of its inputs, rows of whole canvases; see :meth:`PatchTransformer.forward`."""
        advanced, normed = list(readings), [self.norm_attention(x_RLW) for x_RLW in readings]
        pairs = [self.attention.keys_values(h_RLW) for h_RLW in normed]
        seen = pairs[0][0][:, 1:], pairs[0][1][:, 1:]
        if detach_context:
            seen = self.attention.keys_values(normed[0][:, 1:].detach())
        for n in range(len(readings) - 1 if last else 0, len(readings)):  # logits come from the last one alone
            own = self.attention.queries(normed[n]), self.place_own(pairs[n][0]), pairs[n][1]
            advanced[n] = self.finish(readings[n], self._mix(rows, own, seen, masks[n]), read)
        return advanced

    def step(
        self, seen: Sequence[Tensor], at: tuple[Tensor, Tensor], masks: _OwnMasks, read: Reader | None, *inputs: Tensor
    ) -> list[Tensor]:
        """Return what later patches see of one patch a row, then the rest; :meth:`PatchTransformer.forward_step`."""
        attention, advanced, normed = self.attention, list(inputs), [self.norm_attention(x_RLW) for x_RLW in inputs]
        state_RNW = normed[0][:, 1:].detach()
        seen_RCNW = torch.stack(list(seen), dim=1) if seen else state_RNW[:, None][:, :0]
        ck_RCNGD, cv_RCNGD = attention.keys_values(seen_RCNW)
        context = self.place_context(ck_RCNGD, *at), cv_RCNGD
        for n, (h_RLW, own_mask) in enumerate(zip(normed, masks, strict=False)):
            k_RLGD, v_RLGD = attention.keys_values(h_RLW)
            own = attention.queries(h_RLW), self.place_own(k_RLGD), v_RLGD
            mixed = self.attend(own, context=context, offset_RC=at[0], symmetry_RC=at[1], own_mask=own_mask)
            advanced[n] = self.finish(inputs[n], mixed, read)
        return [state_RNW, *advanced]

    def _mix(self, rows: Rows, own: tuple[Tensor, ...], seen: tuple[Tensor, Tensor], masks: Tensor | None) -> Tensor:
        """Attend group by group; what concerns all groups is done once, which makes the backward pass faster."""
        if rows.canvas is not None:
            q_RLHD, k_RLGD, v_RLGD = own
            mixed_RLX = rows.canvas.attend(q_RLHD, (k_RLGD, v_RLGD), seen, self.embedding, feed=self.feed)
            return cast("Tensor", self.attention.dropout(self.attention.out(mixed_RLX)))
        N = seen[0].shape[1]
        k_MNGD = seen[0].index_select(0, rows.seen_M)
        k_MNGD = self.place_context(k_MNGD[:, None], rows.offset_M[:, None], rows.symmetry_M[:, None])[:, 0]
        v_MNGD = seen[1].index_select(0, rows.seen_M)
        shapes, sizes = rows.shapes, [r for r, _ in rows.shapes]
        parts = zip(
            shapes,
            zip(*(torch.split(x, sizes) for x in own), strict=True),
            *(torch.split(x, [r * c for r, c in shapes]) for x in (k_MNGD, v_MNGD, rows.offset_M, rows.symmetry_M)),
            [None] * len(sizes) if masks is None else torch.split(masks, sizes),
            strict=True,
        )
        mixed = [
            self.attend(
                own_part,
                context=(ck_MNGD.view(r, c, N, *ck_MNGD.shape[2:]), cv_MNGD.view(r, c, N, *cv_MNGD.shape[2:])),
                offset_RC=offset_M.view(r, c),
                symmetry_RC=symmetry_M.view(r, c),
                own_mask=mask,
            )
            for (r, c), own_part, ck_MNGD, cv_MNGD, offset_M, symmetry_M, mask in parts
        ]
        return torch.cat(mixed)

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
        own: tuple[Tensor, Tensor, Tensor],
        *,
        context: tuple[Tensor, Tensor],
        offset_RC: Tensor,
        symmetry_RC: Tensor,
        own_mask: Tensor | None = None,
    ) -> Tensor:
        """Let whole patches attend to all of their context and, causally if the layer is, to themselves: ``[R, L, W]``.

        Keys are ``[context patch 1, ..., context patch C, own BOS, own tokens]``, so the causal mask is "every context
        key, and own keys up to the query".

        Args:
            own: queries ``[R, L, H, D]``, keys, placed (:meth:`place_own`), and values ``[R, L, G, D]`` of the patches.
            context: keys, placed (:meth:`place_context`), and values of the context ``[R, C, N, G, D]``.
            offset_RC: entries of the relative patch embedding.
            symmetry_RC: relative symmetries.
            own_mask: who sees whom in the patch ``[R, 1, L, L]``, unless causally or everybody everybody.
        """
        (q_RLHD, k_RLGD, v_RLGD), (ck_RCNGD, cv_RCNGD) = own, context
        L, N = q_RLHD.shape[1], ck_RCNGD.shape[2]
        k_RSGD = torch.cat([ck_RCNGD.flatten(1, 2), k_RLGD], dim=1)
        v_RSGD = torch.cat([cv_RCNGD.flatten(1, 2), v_RLGD], dim=1)
        S = k_RSGD.shape[1]
        bias = None if own_mask is None else F.pad(own_mask, (S - L, 0), value=True)
        if self.causal:
            bias = causal_mask(L, S - L, device=q_RLHD.device)
        if self.feed == "logit":
            every = q_RLHD.new_ones(1, 1, L, S, dtype=torch.bool) if bias is None else bias
            bias = self.logit_bias(every, offset_RC, symmetry_RC, N)
        return self.attention.mix(q_RLHD, k_RSGD.transpose(1, 2), v_RSGD.transpose(1, 2), bias=bias)

    def finish(self, x: Tensor, mixed: Tensor, read: Reader | None = None) -> Tensor:
        """Add the attention branch, let ``read`` add that of the text if there is one, add the feed-forward branch."""
        x = x + self.scale_attention * mixed
        return self.widen(x if read is None else read(x))

    def widen(self, x: Tensor) -> Tensor:
        """Add the feed-forward branch."""
        return cast("Tensor", x + self.scale_feed_forward * self.feed_forward(self.norm_feed_forward(x)))


# -- text --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextStates:
    """Keys and values that rows read of their texts.

    Attributes:
        keys: per layer ``[B, H, 1 + S, D]``; the first token stands for "no text" and is always there.
        values: per layer, likewise.
        text_mask_B11S: which tokens are there (the others fill up shorter texts).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    text_mask_B11S: Tensor

    def rows(self, index: Tensor) -> TextStates:
        """Return the states of some texts, in the order of ``index``; one may come up several times."""
        index = index.to(self.text_mask_B11S.device)
        return TextStates(
            tuple(k[index] for k in self.keys), tuple(v[index] for v in self.values), self.text_mask_B11S[index]
        )


class TextAttention(nn.Module):
    """The text branch of one layer: pre-LN multi-head cross-attention to the text, scaled (LayerScale)."""

    def __init__(self, size: TransformerConfig) -> None:
        super().__init__()
        dim, self.num_heads = size.dim, size.num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(size.dropout)
        self.scale = nn.Parameter(torch.full((dim,), size.layer_scale))

    def keys_values(self, text_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """Project text tokens to keys and values ``[B, H, S, D]``."""
        return self._heads(self.key(text_BSW)).transpose(1, 2), self._heads(self.value(text_BSW)).transpose(1, 2)

    def read(self, x_RLW: Tensor, states: TextStates, *, layer: int) -> Tensor:
        """Return ``x_RLW`` with the text branch added.

        Args:
            x_RLW: rows; those that read one text lie side by side, equally many for each text.
            states: the texts.
            layer: number of this layer.
        """
        k_BHSD, v_BHSD = states.keys[layer], states.values[layer]
        x_BMW = x_RLW.reshape(len(k_BHSD), -1, x_RLW.shape[-1])
        q_BMHD = self._heads(self.query(self.norm(x_BMW)))
        branch_BMW = self.dropout(self.out(attend(q_BMHD, k_BHSD, v_BHSD, bias=states.text_mask_B11S)))
        out: Tensor = x_RLW + (self.scale * branch_BMW).reshape(x_RLW.shape)
        return out

    def _heads(self, h_BSW: Tensor) -> Tensor:
        return torch.unflatten(h_BSW, -1, (self.num_heads, -1))


class TextConditioning(nn.Module):
    """All that a patch transformer has of text: a linear map into the model, and a branch for each layer.

    A model without text has none of this, and draws the same random numbers for everything else.

    Args:
        text_dim: width E of a text token.
        size: of the model.
    """

    def __init__(self, text_dim: int, size: TransformerConfig) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.project = nn.Linear(text_dim, size.dim)
        self.norm = nn.LayerNorm(size.dim)
        # One token more than the text has: what is read where there is no text, and where none of it matters.
        self.no_text = nn.Parameter(torch.randn(size.dim))
        self.layers = nn.ModuleList(TextAttention(size) for _ in range(size.num_layers))

    def layer(self, number: int) -> TextAttention:
        """Return one layer, typed."""
        layer = self.layers[number]
        assert isinstance(layer, TextAttention)
        return layer

    def states(self, text_BSE: Tensor, text_mask_BS: Tensor) -> TextStates:
        """Return what rows read of texts; no gradient flows into the text encoder, which is frozen.

        Args:
            text_BSE: token states from a text encoder.
            text_mask_BS: which tokens are there; none at all is the condition "no text".
        """
        text_BSW = self.project(text_BSE.to(self.no_text.dtype))
        text_BSW = self.norm(torch.cat([self.no_text.expand(len(text_BSW), 1, -1), text_BSW], dim=1))
        pairs = [self.layer(number).keys_values(text_BSW) for number in range(len(self.layers))]
        text_mask_BS = F.pad(text_mask_BS, (1, 0), value=True)
        return TextStates(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), text_mask_BS[:, None, None])


# -- copy head ---------------------------------------------------------------------------------------------------------


_BESIDE: Final = 4
_STEPS: Final = 2 * len(_AROUND)
_LOUD: Final = 4.0
"""So that weights of usual size make a likeness matter among logits."""


class CopyHead(nn.Module):
    """Adds to the logits of the neighbors' own codes: how likely it is that one of them is simply repeated.

        logits[code of neighbor k] += (W [h ; motion] + b)_k        for each neighbor k that is there

    Useful in videos most of all: where nothing moves, the code of the frame before is the likeliest by far, and a model
    that has to find it among thousands by its looks takes long to learn so (a pointer, See et al., 2017; its use here
    is ours). Nothing is added at the start.

    Args:
        dim: model width W.
        count: K, see :func:`neighbors`.
        moving: whether it is told how things move, see `motion`.
    """

    def __init__(self, dim: int, *, count: int = len(NEIGHBORS), moving: bool = False) -> None:
        super().__init__()
        self.moving = moving
        self.linear = nn.Linear(dim + (_STEPS if moving else 0), count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, logits_MV: Tensor, x_MW: Tensor, neighbors_MK: Tensor, codebook_KE: Tensor, linear: Reader | None = None
    ) -> Tensor:
        """Add to ``logits_MV`` in place and return them.

        Args:
            logits_MV: of the codes, ``[..., V]``.
            x_MW: normalised last-layer states ``[..., W]`` that they come from.
            neighbors_MK: tokens ``[..., K]``, :data:`ABSENT` where there is none.
            codebook_KE: code vectors.
            linear: in place of its own, as the decoder has it.
        """
        there_MK = neighbors_MK != ABSENT
        if self.moving:
            x_MW = torch.cat([x_MW, motion(neighbors_MK, codebook_KE).to(x_MW.dtype)], dim=-1)
        more_MK = torch.where(there_MK, (linear or self.linear)(x_MW).to(logits_MV.dtype), 0)
        return logits_MV.scatter_add_(-1, torch.where(there_MK, neighbors_MK, 0), more_MK)


@torch.no_grad()
def motion(neighbors_MK: Tensor, codebook_KE: Tensor) -> Tensor:
    """Return how things move, by matching tokens (ours; block matching, as video codecs do it, on written tokens).

    For each of the nine steps by at most one token, up, down or sideways: how alike are the tokens written next to the
    cell and those which they would have come from in the frame before; and, so that a motion goes on, how alike are the
    tokens there and those of the frame before that one. Both compared with the mean of the nine.

    Args:
        neighbors_MK: neighbors ``[..., K]`` that end with `MATCHED`.
        codebook_KE: code vectors.

    Returns:
        ``[..., 18]``.
    """
    beside_MJ, wider_MQ = neighbors_MK[..., :_BESIDE], neighbors_MK[..., -len(MATCHED) :]
    last_MQ, earlier_MQ = wider_MQ.chunk(2, dim=-1)
    before_DJ, here_P, earlier_DP = _places(neighbors_MK.device)
    ways = (
        (beside_MJ.unsqueeze(-2), last_MQ[..., before_DJ]),
        (last_MQ[..., here_P].unsqueeze(-2), earlier_MQ[..., earlier_DP]),
    )
    found = []
    for to, come_from in ways:
        there = (to != ABSENT) & (come_from != ABSENT)
        apart = (codebook_KE[to.clamp_min(0)] - codebook_KE[come_from.clamp_min(0)]).square().mean(-1)
        alike_MD = ((-apart).exp() * there).sum(-1) / there.sum(-1).clamp_min(1)
        any_MD = there.any(-1)
        mean_M1 = alike_MD.sum(-1, keepdim=True) / any_MD.sum(-1, keepdim=True).clamp_min(1)
        found.append((alike_MD - mean_M1) * any_MD)
    return torch.cat(found, dim=-1) * _LOUD


@functools.cache
def _places(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return where `MATCHED` holds what each step compares; no buffers, which a file of weights would have to hold."""
    place = {cell: n for n, cell in enumerate(_WIDER)}
    before_DJ = torch.tensor([[place[n.y + y, n.x + x] for n in NEIGHBORS[:_BESIDE]] for y, x in _AROUND])
    earlier_DP = torch.tensor([[place[b + y, a + x] for b, a in _AROUND] for y, x in _AROUND])
    here_P = torch.tensor([place[cell] for cell in _AROUND])
    return before_DJ.to(device), here_P.to(device), earlier_DP.to(device)


def patch_entry(symmetry: Tensor, height: Tensor, heights: int) -> Tensor:
    """Return the entry of :meth:`PatchTransformer.patch_embedding` of each patch; tensors of any equal shape.

    Args:
        symmetry: index of its symmetry.
        height: how high its center lies, from 0 at the top to 1 at the bottom; NaN where nothing is told.
        heights: see `TransformerConfig`.
    """
    step = (height * heights).nan_to_num(-1).floor().long().clamp(-1, heights - 1)
    return (step + 1) * len(SYMMETRIES) * (heights > 0) + symmetry


# -- model -------------------------------------------------------------------------------------------------------------


class PatchTransformer(nn.Module):
    """Predicts the tokens of a patch, given others of it and the per-layer states of its context patches.

    The index of a patch on the canvas never enters: only offsets between patches do, and with ``heights`` how high it
    lies as a share of the canvas, so any canvas size works.

    Args:
        codebook_size: size K of the tokenizer's codebook.
        codebook_dim: width E of a code vector. The frozen code vectors are the input, through a linear layer.
        patch_size: tokens of a patch, rows and columns.
        embedding_extent: offsets ``(t, y, x)`` that get an embedding of their own: the pool's ``embedding_extent``.
        size: everything else.
        text_dim: width of a text token; 0 is a model without text.
        bidirectional: a token sees all tokens of its patch and each of them may be masked, instead of earlier ones
            only. What later patches see of a patch is then what it is when nothing is masked.
        coarse_plan: read the tokens of a coarse plan, which may be absent.
        grouped: predict the tokens of a group at queries (:func:`group_mask`); for a bidirectional model.

    Raises:
        ValueError: if sizes do not divide.
    """

    codebook_KE: Tensor

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        *,
        patch_size: tuple[int, int] = (8, 8),
        embedding_extent: Extent = (0, 2, 2),
        size: TransformerConfig = TransformerConfig(),
        text_dim: int = 0,
        bidirectional: bool = False,
        coarse_plan: bool = False,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        dim = size.dim
        self.bidirectional, self.coarse_plan, self.grouped = bidirectional, coarse_plan, grouped
        self.patch_size, self.embedding_extent, self.size = patch_size, embedding_extent, size
        self.codebook_size, self.codebook_dim = codebook_size, codebook_dim
        self.register_buffer("codebook_KE", torch.zeros(codebook_size, codebook_dim))
        self.embed = nn.Linear(codebook_dim, dim)
        past = embedding_extent[0] > 0
        read = len(neighbors(past=past, ahead=size.ahead, coarse=coarse_plan, grouped=grouped))
        self.neighbor_embedding = NeighborEmbedding(codebook_dim, dim, count=read) if size.neighbor_embedding else None
        # Large positions and offsets from the start: with small ones attention finds the left neighbor only.
        self.position = AxialPosition(*patch_size, dim=dim, std=0.5)
        self.bos = nn.Parameter(torch.randn(dim) * 0.5)
        self.symmetries = nn.Parameter(torch.randn(len(SYMMETRIES), dim) * 0.5) if size.symmetry_embedding else None
        self.layers = nn.ModuleList(
            PatchLayer(size, embedding_extent, causal=not bidirectional) for _ in range(size.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, codebook_size)
        # A point among the code vectors: codes that look alike get likely together; the head alone learns them singly.
        self.code_head = nn.Linear(dim, codebook_dim, bias=False) if size.code_head else None
        if self.code_head is not None:
            nn.init.zeros_(self.head.weight)
            self.code_head.weight.data.mul_(0.2)  # the first loss is that of guessing, and yet depends on the input
        # Last, so that everything before it draws the same random numbers with and without it.
        self.text = TextConditioning(text_dim, size) if text_dim else None
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.5) if bidirectional else None
        self.copy_head = CopyHead(dim, count=len(self.neighbors), moving=past) if size.copy_head else None
        self.heights = nn.Parameter(torch.randn(size.heights, dim) * 0.5) if size.heights else None

    @property
    def patch_tokens(self) -> int:
        """Tokens of one patch, N."""
        return self.patch_size[0] * self.patch_size[1]

    @property
    def neighbors(self) -> tuple[Neighbor, ...]:
        """Which neighbors of a token it reads; those in earlier frames if its pool reaches there."""
        past = self.embedding_extent[0] > 0
        also = {"matched": past and self.size.copy_head, "grouped": self.grouped}
        return neighbors(past=past, ahead=self.size.ahead, coarse=self.coarse_plan, **also)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def stacks(self) -> list[nn.Module]:
        """The stacks of layers, whose matrices are hidden ones."""
        return [self.layers] if self.text is None else [self.layers, self.text.layers]

    def layer(self, number: int) -> PatchLayer:
        """Return one layer, typed."""
        layer = self.layers[number]
        assert isinstance(layer, PatchLayer)
        return layer

    @property
    def text_dim(self) -> int:
        """Width of a text token, 0 without text."""
        return 0 if self.text is None else self.text.text_dim

    def reader(self, number: int, text: TextStates | None) -> Reader | None:
        """Return what adds the text branch of layer ``number``, or None in a model without text.

        Raises:
            ValueError: if only one of model and input has text.
        """
        if (self.text is None) != (text is None):
            raise ValueError("a model with text needs text states (of no text, if need be), one without takes none")
        if self.text is None or text is None:
            return None
        return functools.partial(self.text.layer(number).read, states=text, layer=number)

    def text_states(self, text_BSE: Tensor, text_mask_BS: Tensor) -> TextStates:
        """Return :meth:`TextConditioning.states`, of a model with text."""
        assert self.text is not None
        return self.text.states(text_BSE, text_mask_BS)

    def set_codes(self, codebook_KE: Tensor) -> None:
        """Take the frozen code vectors of the tokenizer, whitened: their differences count, not what they share.

        Raises:
            ValueError: if their number or width is not what the model was built for.
        """
        if codebook_KE.shape != self.codebook_KE.shape:
            raise ValueError(
                f"the tokenizer's codebook is {tuple(codebook_KE.shape)}, the model's {tuple(self.codebook_KE.shape)}"
            )
        self.codebook_KE.copy_(whitened(codebook_KE))

    def embed_rows(
        self, tokens_RN: Tensor, entry_R: Tensor, *, neighbors_RNK: Tensor, masked_RN: Tensor | None = None
    ) -> Tensor:
        """Return the input of the first layer ``[R, L, W]``: BOS, then every token with its position in the patch.

        Args:
            tokens_RN: codes in writing order.
            entry_R: entry of the patch embedding of each row.
            neighbors_RNK: neighbors of each token (see ``neighbors``). They come in where token n is predicted: at
                position n, or in a bidirectional model at its own, n + 1.
            masked_RN: which tokens are masked, in a bidirectional model.
        """
        x_RNW = self.embed(self.codebook_KE[tokens_RN])
        if masked_RN is not None and self.mask_token is not None:
            x_RNW = torch.where(masked_RN[:, :, None], self.mask_token, x_RNW)
        x_RLW = torch.cat([self.bos.expand(len(tokens_RN), 1, -1), x_RNW + self.position()], dim=1)
        patch_UW = self.patch_embedding()
        if patch_UW is not None:
            x_RLW = x_RLW + patch_UW[entry_R][:, None]
        if self.neighbor_embedding is None:
            return x_RLW
        return x_RLW + F.pad(
            self.neighbor_embedding(neighbors_RNK, self.codebook_KE),
            (0, 0, 1, 0) if self.bidirectional else (0, 0, 0, 1),
        )

    def patch_embedding(self) -> Tensor | None:
        """Return what is added at all positions of a patch ``[U, W]``, see :func:`patch_entry`; None for nothing."""
        if self.heights is None:
            return self.symmetries
        heights_UW = F.pad(self.heights, (0, 0, 1, 0))[:, None].expand(-1, len(SYMMETRIES), -1)
        return (heights_UW if self.symmetries is None else heights_UW + self.symmetries).flatten(0, 1)

    def logits(self, x: Tensor, neighbors: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return logits ``[..., K]`` of last-layer states ``[..., W]`` and neighbors; ``weight``: :meth:`head_weight`.

        logits = LN(x) (W_head + codebook W_code)^T + b,        then the copy head
        """
        h = self.norm(x)
        logits = F.linear(h, self.head_weight() if weight is None else weight, self.head.bias)
        if self.copy_head is None:
            return logits
        more: Tensor = self.copy_head(logits, h, neighbors, self.codebook_KE)
        return more

    def head_weight(self) -> Tensor:
        """Return both heads as one matrix ``[K, W]``: logits ``[..., K]`` are large, and are made once only."""
        head, code = self.head.weight, self.code_head
        return head if code is None else torch.addmm(head, self.codebook_KE, code.weight)

    def forward(
        self,
        tokens_BPN: Tensor,
        entry_BP: Tensor,
        *,
        neighbors_BPNK: Tensor,
        groups: Sequence[ContextGroup],
        text: TextStates | None = None,
        token_mask: TokenMask | None = None,
        detach_context: bool = False,
        score: Score | None = None,
        recompute: bool = False,
        flex: bool = False,
    ) -> Tensor:
        """Score every token of every patch at once (``optimize: joint``; teacher forcing).

        Args:
            tokens_BPN: codes, in the order of the plan and of the tokens inside a patch.
            entry_BP: entry of the patch embedding of each step.
            neighbors_BPNK: neighbors of each token.
            groups: which steps see which, from ``ContextTable``.
            text: the text of each sample.
            token_mask: what is masked, for a bidirectional model.
            detach_context: stop gradients at the states of context patches, as the paper's cache does.
            score: what is returned of last-layer states ``[B, P, N, W]`` and neighbors, instead of logits.
            recompute: keep the input of each layer only, and make the rest again in the backward pass.
            flex: attend by PyTorch's FlexAttention, which gathers no context; not where ``token_mask`` has groups.

        Returns:
            Logits ``[B, P, N, K]`` of token n, or what ``score`` makes.
        """
        self._check_mask(token_mask)
        B, P, _ = tokens_BPN.shape
        rows = Rows.of(groups, samples=B, device=tokens_BPN.device)
        rows = rows.as_canvas(groups, self.patch_tokens, causal=not self.bidirectional) if flex else rows
        row_mask = token_mask and token_mask.of(rows.arrange)
        own_masks = self._own_masks(row_mask)
        readings = self._readings(
            rows.arrange(tokens_BPN), rows.arrange(entry_BP), rows.arrange(neighbors_BPNK), row_mask
        )
        for number in range(self.num_layers):
            layer, last = self.layer(number), number == self.num_layers - 1
            read = rows.reader(self.reader(number, text), B)
            inputs: tuple[Any, ...] = (rows, own_masks, read, detach_context, last, *readings)
            again = recompute and torch.is_grad_enabled()
            readings = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
        x_BPLW = torch.unflatten(readings[-1], 0, (P, B))[torch.argsort(rows.order_P)].transpose(0, 1)
        return self._scores(x_BPLW, neighbors_BPNK, token_mask, score)

    def forward_step(
        self,
        tokens_RN: Tensor,
        entry_R: Tensor,
        *,
        neighbors_RNK: Tensor,
        context: Sequence[Sequence[Tensor]],
        offset_RC: Tensor,
        symmetry_RC: Tensor,
        text: TextStates | None = None,
        token_mask: TokenMask | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Score one patch a row, given the cached layer inputs of its context (paper, Algorithm 1).

        Args:
            tokens_RN: codes in writing order.
            entry_R: entry of the patch embedding of each row.
            neighbors_RNK: neighbors of each token.
            context: for each of C context patches, per layer, its cached normalised layer input ``[R, N, W]``.
            offset_RC: entries of the relative patch embedding.
            symmetry_RC: relative symmetries.
            text: the text of each row.
            token_mask: what is masked, for a bidirectional model.

        Returns:
            Logits ``[R, N, K]``, and what later patches may see of this one, per layer ``[R, N, W]``, detached.
        """
        self._check_mask(token_mask)
        readings = self._readings(tokens_RN, entry_R, neighbors_RNK, token_mask)
        own_masks = self._own_masks(token_mask)
        states = []
        for number in range(self.num_layers):
            seen, read = [patch[number] for patch in context], self.reader(number, text)
            state, *readings = self.layer(number).step(seen, (offset_RC, symmetry_RC), own_masks, read, *readings)
            states.append(state)
        return self._scores(readings[-1], neighbors_RNK, token_mask), states

    def _check_mask(self, token_mask: TokenMask | None) -> None:
        if self.bidirectional != (token_mask is not None):
            raise ValueError("a bidirectional model needs to know what is masked, a causal one masks nothing")
        if token_mask is not None and self.grouped != (token_mask.groups is not None):
            raise ValueError("a grouped model needs groups, no other takes them")

    def _own_masks(self, token_mask: TokenMask | None) -> _OwnMasks:
        """Return who sees whom inside a patch for each of the readings, where layers do not know."""
        return None, group_mask(token_mask.groups) if token_mask is not None and token_mask.groups is not None else None

    def _readings(
        self, tokens_RN: Tensor, entry_R: Tensor, neighbors_RNK: Tensor, token_mask: TokenMask | None
    ) -> list[Tensor]:
        """Return layer inputs ``[R, L, W]``: the first is what other patches see, logits come from the last.

        Of a causal model they are one and the same.
        """
        readings = [self.embed_rows(tokens_RN, entry_R, neighbors_RNK=neighbors_RNK)]
        if token_mask is not None:
            read = functools.partial(self.embed_rows, tokens_RN, entry_R, neighbors_RNK=token_mask.neighbors)
            asked_RLW = read(masked_RN=token_mask.tokens)
            readings.append(torch.cat([read(), asked_RLW[:, 1:]], dim=1) if self.grouped else asked_RLW)
        return readings

    def _scores(self, x: Tensor, neighbors: Tensor, token_mask: TokenMask | None, score: Score | None = None) -> Tensor:
        """Return logits ``[..., N, K]`` of last-layer states ``[..., L, W]``; the last N predict, or the first N."""
        neighbors = neighbors if token_mask is None else token_mask.neighbors
        predicting = slice(-neighbors.shape[-2], None) if self.bidirectional else slice(-1)
        return (score or self.logits)(x[..., predicting, :], neighbors)
