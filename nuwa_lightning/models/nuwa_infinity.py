"""The patch transformer: the local, token-level model (paper, section on the vision decoder).

Shape legend: B samples, P patches (steps of a plan), C context patches, N tokens per patch, L = 1 + N positions (BOS
first), R rows (patches of any sample side by side), W width, H query heads, G key/value heads, D head width, K codes,
S key positions, E code width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuwa_lightning.models.neighbors import CopyHead, Neighbor, NeighborEmbedding, neighbors
from nuwa_lightning.models.patch_layer import PatchLayer, TransformerConfig
from nuwa_lightning.models.position import AxialPosition
from nuwa_lightning.models.text_attention import TextConditioning, TextStates
from nuwa_lightning.planning.geometry import SYMMETRIES, Extent


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
class TokenMask:
    """What a bidirectional model has to find out: it reads each patch twice, once whole and once with tokens hidden.

    Attributes:
        tokens: which tokens are hidden, boolean; of the shape of the tokens.
        neighbors: the neighbors, ``ABSENT`` where they are hidden.
    """

    tokens: Tensor
    neighbors: Tensor


class PatchTransformer(nn.Module):
    """Predict tokens of a patch, given others of it and the per-layer states of its context patches.

    The place of a patch on the canvas never enters: only offsets between patches do, so any canvas size works.

    Args:
        codebook_size: size K of the tokenizer's code book.
        codebook_dim: width E of a code vector. The frozen code vectors are the input, through a linear layer.
        patch_size: tokens of a patch, rows and columns.
        embedding_extent: offsets ``(t, y, x)`` that get an embedding of their own: the pool's ``embedding_extent``.
        size: everything else.
        text_dim: width of a text token; 0 is a model without text.
        bidirectional: a token sees all tokens of its patch and each of them may be hidden, instead of earlier ones
            only. What later patches see of a patch is then what it is when nothing is hidden.

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
        size: TransformerConfig = TransformerConfig(),  # noqa: B008 - frozen
        text_dim: int = 0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        dim = size.dim
        self.bidirectional = bidirectional
        self.patch_size, self.embedding_extent, self.size = patch_size, embedding_extent, size
        self.codebook_size, self.codebook_dim = codebook_size, codebook_dim
        self.register_buffer("codebook_KE", torch.zeros(codebook_size, codebook_dim))
        self.embed = nn.Linear(codebook_dim, dim)
        read = neighbors(past=embedding_extent[0] > 0, ahead=size.ahead)
        self.neighbor_embedding = (
            NeighborEmbedding(codebook_dim, dim, count=len(read)) if size.neighbor_embedding else None
        )
        # Large positions and offsets from the start: with small ones attention finds the left neighbor only.
        self.position = AxialPosition(*patch_size, dim=dim, std=0.5)
        self.bos = nn.Parameter(torch.randn(dim) * 0.5)
        self.symmetries = nn.Parameter(torch.randn(len(SYMMETRIES), dim) * 0.5)
        self.layers = nn.ModuleList(
            PatchLayer(size, embedding_extent, causal=not bidirectional) for _ in range(size.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, codebook_size)
        # A point among the code vectors: codes that look alike get likely together; the head alone learns them singly.
        self.code_head = nn.Linear(dim, codebook_dim, bias=False)
        nn.init.zeros_(self.head.weight)
        # Small, so that the first loss is that of guessing; not zero, so that an untrained model depends on its input.
        self.code_head.weight.data.mul_(0.2)
        # Last, so that everything before it draws the same random numbers with and without it.
        self.text = (
            TextConditioning(
                text_dim,
                dim,
                num_layers=size.num_layers,
                num_heads=size.num_heads,
                layer_scale=size.layer_scale,
                dropout=size.dropout,
            )
            if text_dim
            else None
        )
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.5) if bidirectional else None
        moving = embedding_extent[0] > 0
        self.copy_head = CopyHead(dim, count=len(self.neighbors), moving=moving) if size.copy_head else None

    @property
    def patch_tokens(self) -> int:
        """Tokens of one patch, N."""
        return self.patch_size[0] * self.patch_size[1]

    @property
    def neighbors(self) -> tuple[Neighbor, ...]:
        """Which neighbors of a token it is handed; those in earlier frames where its pool reaches there."""
        past = self.embedding_extent[0] > 0
        return neighbors(past=past, ahead=self.size.ahead, matched=past and self.size.copy_head)

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

    def reader(self, number: int, text: TextStates | None) -> Callable[[Tensor], Tensor] | None:
        """Return what adds the text branch of layer ``number``, or None in a model without text.

        Raises:
            ValueError: if only one of model and input has text.
        """
        if (self.text is None) != (text is None):
            raise ValueError("a model with text needs text states (of no text, if need be), one without takes none")
        if self.text is None or text is None:
            return None
        return functools.partial(self.text.layer(number).read, states=text, layer=number)

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
        self, tokens_RN: Tensor, symmetry_R: Tensor, *, neighbors_RNK: Tensor, masked_RN: Tensor | None = None
    ) -> Tensor:
        """Return the input of the first layer ``[R, L, W]``: BOS, then every token with its place in the patch.

        Args:
            tokens_RN: codes in writing order.
            symmetry_R: index of each row's symmetry.
            neighbors_RNK: neighbors of each token (see ``neighbors``). They come in where token n is predicted: at
                position n, or in a bidirectional model at its own, n + 1.
            masked_RN: which tokens are hidden, in a bidirectional model.
        """
        x_RNW = self.embed(self.codebook_KE[tokens_RN])
        if masked_RN is not None and self.mask_token is not None:
            x_RNW = torch.where(masked_RN[:, :, None], self.mask_token, x_RNW)
        x_RLW = torch.cat([self.bos.expand(len(tokens_RN), 1, -1), x_RNW + self.position()], dim=1)
        x_RLW = x_RLW + self.symmetries[symmetry_R][:, None]
        if self.neighbor_embedding is None:
            return x_RLW
        return x_RLW + F.pad(
            self.neighbor_embedding(neighbors_RNK, self.codebook_KE),
            (0, 0, 1, 0) if self.bidirectional else (0, 0, 0, 1),
        )

    def logits(self, x: Tensor, neighbors: Tensor) -> Tensor:
        """Return scores over codes ``[..., K]`` of last-layer states ``[..., W]`` and the tokens' neighbors."""
        h = self.norm(x)
        logits = F.linear(h, self.head_weight(), self.head.bias)
        if self.copy_head is None:
            return logits
        more: Tensor = self.copy_head(logits, h, neighbors, self.codebook_KE)
        return more

    def head_weight(self) -> Tensor:
        """Return both heads as one matrix ``[K, W]``: scores ``[..., K]`` are large, and are made once only."""
        return torch.addmm(self.head.weight, self.codebook_KE, self.code_head.weight)

    def forward(
        self,
        tokens_BPN: Tensor,
        symmetry_BP: Tensor,
        *,
        neighbors_BPNK: Tensor,
        groups: Sequence[ContextGroup],
        text: TextStates | None = None,
        token_mask: TokenMask | None = None,
        detach_context: bool = False,
    ) -> Tensor:
        """Score every token of every patch at once (``optimize: joint``; teacher forcing).

        Args:
            tokens_BPN: codes, in the order of the plan and of the tokens inside a patch.
            symmetry_BP: index of each step's symmetry.
            neighbors_BPNK: neighbors of each token.
            groups: which steps see which, from ``ContextTable``.
            text: the text of each sample.
            token_mask: what is hidden, for a bidirectional model.
            detach_context: stop gradients at the states of context patches, as the paper's cache does.

        Returns:
            Logits ``[B, P, N, K]`` of token n.
        """
        self._check_mask(token_mask)
        B, P, N = tokens_BPN.shape
        rows = _Rows.of(groups, samples=B)
        tokens_RN, symmetry_R = rows.arrange(tokens_BPN), rows.arrange(symmetry_BP)
        # The last reading is what scores come from, the first what other patches see; of a causal model they are one.
        readings = [self.embed_rows(tokens_RN, symmetry_R, neighbors_RNK=rows.arrange(neighbors_BPNK))]
        if token_mask is not None:
            neighbors_RNK, masked_RN = rows.arrange(token_mask.neighbors), rows.arrange(token_mask.tokens)
            readings.append(self.embed_rows(tokens_RN, symmetry_R, neighbors_RNK=neighbors_RNK, masked_RN=masked_RN))
        for number in range(self.num_layers):
            layer = self.layer(number)
            attention = layer.attention
            normed = [layer.norm_attention(x_RLW) for x_RLW in readings]
            pairs = [attention.keys_values(h_RLW) for h_RLW in normed]
            seen = pairs[0][0][:, 1:], pairs[0][1][:, 1:]
            if detach_context:
                seen = attention.keys_values(normed[0][:, 1:].detach())
            read = rows.reader(self.reader(number, text), B)
            for n in range(len(readings)):
                if number == self.num_layers - 1 and n < len(readings) - 1:
                    continue  # nobody looks at what comes of it
                own = attention.queries(normed[n]), layer.place_own(pairs[n][0]), pairs[n][1]
                readings[n] = layer.finish(readings[n], self._mix(layer, rows, own, seen), read)
        x_BPLW = torch.unflatten(readings[-1], 0, (P, B))[torch.argsort(rows.order_P)].transpose(0, 1)
        neighbors_BPNK = neighbors_BPNK if token_mask is None else token_mask.neighbors
        return self.logits(x_BPLW[:, :, 1:] if self.bidirectional else x_BPLW[:, :, :-1], neighbors_BPNK)

    def forward_step(
        self,
        tokens_RN: Tensor,
        symmetry_R: Tensor,
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
            symmetry_R: index of each row's symmetry.
            neighbors_RNK: neighbors of each token.
            context: for each of C context patches, per layer, its cached normalised layer input ``[R, N, W]``.
            offset_RC: entries of the relative patch embedding.
            symmetry_RC: relative symmetries.
            text: the text of each row.
            token_mask: what is hidden, for a bidirectional model.

        Returns:
            Logits ``[R, N, K]``, and what later patches may see of this one, per layer ``[R, N, W]``, detached.
        """
        self._check_mask(token_mask)
        R, N = tokens_RN.shape
        readings = [self.embed_rows(tokens_RN, symmetry_R, neighbors_RNK=neighbors_RNK)]
        if token_mask is not None:
            readings.append(
                self.embed_rows(tokens_RN, symmetry_R, neighbors_RNK=token_mask.neighbors, masked_RN=token_mask.tokens)
            )
        states = []
        for number in range(self.num_layers):
            layer = self.layer(number)
            attention = layer.attention
            normed = [layer.norm_attention(x_RLW) for x_RLW in readings]
            states.append(normed[0][:, 1:].detach())
            if context:
                seen_RCNW = torch.stack([patch[number] for patch in context], dim=1)
            else:
                seen_RCNW = normed[0].new_zeros(R, 0, N, normed[0].shape[-1])
            ck_RCNGD, cv_RCNGD = attention.keys_values(seen_RCNW)
            seen = layer.place_context(ck_RCNGD, offset_RC, symmetry_RC), cv_RCNGD
            for n, h_RLW in enumerate(normed):
                k_RLGD, v_RLGD = attention.keys_values(h_RLW)
                mixed = layer.attend(
                    attention.queries(h_RLW),
                    layer.place_own(k_RLGD),
                    v_RLGD,
                    context=seen,
                    offset_RC=offset_RC,
                    symmetry_RC=symmetry_RC,
                )
                readings[n] = layer.finish(readings[n], mixed, self.reader(number, text))
        neighbors_RNK = neighbors_RNK if token_mask is None else token_mask.neighbors
        return self.logits(readings[-1][:, 1:] if self.bidirectional else readings[-1][:, :-1], neighbors_RNK), states

    def _check_mask(self, token_mask: TokenMask | None) -> None:
        if self.bidirectional != (token_mask is not None):
            raise ValueError("a bidirectional model needs to know what is hidden, a causal one hides nothing")

    @staticmethod
    def _mix(layer: PatchLayer, rows: _Rows, own: tuple[Tensor, Tensor, Tensor], seen: tuple[Tensor, Tensor]) -> Tensor:
        """Attend group by group; everything that concerns all groups is done once, for the sake of the backward."""
        N = seen[0].shape[1]
        k_MNGD = seen[0].index_select(0, rows.seen_M)
        k_MNGD = layer.place_context(k_MNGD[:, None], rows.offset_M[:, None], rows.symmetry_M[:, None])[:, 0]
        v_MNGD = seen[1].index_select(0, rows.seen_M)
        shapes = rows.shapes
        parts = zip(
            shapes,
            *(torch.split(x, [r for r, _ in shapes]) for x in own),
            *(torch.split(x, [r * c for r, c in shapes]) for x in (k_MNGD, v_MNGD, rows.offset_M, rows.symmetry_M)),
            strict=True,
        )
        mixed = [
            layer.attend(
                q_RLHD,
                k_RLGD,
                v_RLGD,
                context=(ck_MNGD.view(r, c, N, *ck_MNGD.shape[2:]), cv_MNGD.view(r, c, N, *cv_MNGD.shape[2:])),
                offset_RC=offset_M.view(r, c),
                symmetry_RC=symmetry_M.view(r, c),
            )
            for (r, c), q_RLHD, k_RLGD, v_RLGD, ck_MNGD, cv_MNGD, offset_M, symmetry_M in parts
        ]
        return torch.cat(mixed)


@dataclass(frozen=True)
class _Rows:
    """Every step of every sample, groups one after another, samples of one step side by side: each group is one slice.

    M counts context places: every context patch of every row.
    """

    order_P: Tensor
    shapes: list[tuple[int, int]]
    seen_M: Tensor
    offset_M: Tensor
    symmetry_M: Tensor

    @staticmethod
    def of(groups: Sequence[ContextGroup], *, samples: int) -> _Rows:
        order_P = torch.cat([g.steps_P for g in groups])
        row_P = torch.argsort(order_P) * samples
        each_B = torch.arange(samples, device=order_P.device)[:, None]
        return _Rows(
            order_P,
            [(g.context_PC.shape[0] * samples, g.context_PC.shape[1]) for g in groups],
            torch.cat([(row_P[g.context_PC][:, None] + each_B).flatten() for g in groups]),
            torch.cat([g.offset_PC[:, None].expand(-1, samples, -1).flatten() for g in groups]),
            torch.cat([g.symmetry_PC[:, None].expand(-1, samples, -1).flatten() for g in groups]),
        )

    @staticmethod
    def reader(read: Callable[[Tensor], Tensor] | None, samples: int) -> Callable[[Tensor], Tensor] | None:
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


def whitened(codebook_KE: Tensor) -> Tensor:
    """Return code vectors with mean 0 and identity covariance, as far as they span E dimensions."""
    centred_KE = codebook_KE.double() - codebook_KE.double().mean(dim=0)
    values_E, vectors_EE = torch.linalg.eigh(centred_KE.T @ centred_KE / len(codebook_KE))
    # Directions in which codes hardly differ carry rounding noise: they are not blown up.
    scale_E = values_E.clamp_min(1e-4 * float(values_E.max()) + 1e-12).rsqrt()
    white_KE: Tensor = centred_KE @ (vectors_EE * scale_E) @ vectors_EE.T
    return white_KE.to(codebook_KE.dtype)
