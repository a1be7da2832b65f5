"""States of patches in flight and of finished ones, for cached decoding.

Shape legend as in ``patch_decoder.py``: R rows, l positions, J tokens that a position reads, C context patches,
N tokens per patch, L = 1 + N positions, S key positions, H query heads, G key/value heads, D head width, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nuwa_lightning.generation.fast_transformer import DecodingTransformer
from nuwa_lightning.models.nuwa_infinity import TextStates, causal_mask


@dataclass(frozen=True)
class PatchStates:
    """What a finished patch leaves for later ones: per layer, keys and values ``[R, G, N, D]``.

    Keys have the entry of their own patch in the relative patch embedding added.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def rows(self, index: Tensor | slice) -> PatchStates:
        """Return the states of some rows only."""
        return PatchStates(tuple(k[index] for k in self.keys), tuple(v[index] for v in self.values))


class ContextStates(Protocol):
    """What the rows of a wave see of finished patches."""

    @property
    def valid_RC(self) -> Tensor:
        """Which context places are filled."""

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[R, C, G, N, D]`` of one layer."""


class RowBatch:
    """Patches that are written side by side, one row each, with their keys and values so far.

    Rows may have different numbers of context patches; missing ones are masked. Positions are advanced one after
    another or many at once; :meth:`rewind` forgets the last ones.

    Args:
        model: the transformer.
        entry_R: entry of the patch embedding of each row.
        context: states of the context patches.
        offset_RC: entries of the relative patch embedding.
        relative_symmetry_RC: relative symmetry of each context patch.
        text: the text of each row.
    """

    def __init__(
        self,
        model: DecodingTransformer,
        entry_R: Tensor,
        *,
        context: ContextStates,
        offset_RC: Tensor,
        relative_symmetry_RC: Tensor,
        text: TextStates | None = None,
    ) -> None:
        self.model, self.entry_R = model, entry_R
        self._readers = [model.model.reader(n, text) for n in range(len(model.layers))]
        R, C = offset_RC.shape
        N = model.model.patch_tokens
        self.context = C * N
        size = self.context + N + 1
        self.keys: list[Tensor] = []
        """Of each layer ``[R, G, S, D]``: the context, BOS and tokens."""
        self.values: list[Tensor] = []
        """Likewise."""
        for number, layer in enumerate(model.layers):
            k_RCGND, v_RCGND = context.keys_values(number)
            shape = (R, layer.num_kv_heads, size, layer.head_dim)
            k_RGSD = torch.empty(shape, dtype=model.dtype, device=entry_R.device)
            v_RGSD = torch.empty_like(k_RGSD)
            if C:
                shift = layer.context_shift(offset_RC, relative_symmetry_RC)
                torch.add(k_RCGND, shift, out=_by_patch(k_RGSD, C, N))
                _by_patch(v_RGSD, C, N).copy_(v_RCGND)
            self.keys.append(k_RGSD)
            self.values.append(v_RGSD)
        valid_RS = torch.ones(R, size, dtype=torch.bool, device=entry_R.device)
        valid_RS[:, : self.context] = context.valid_RC.repeat_interleave(N, dim=1)
        self._valid_R11S = None if bool(valid_RS.all()) else valid_RS[:, None, None]
        self.reads_text = text is not None
        self.biases = self._biases(offset_RC, relative_symmetry_RC, N)
        """What one new position adds to its logits in each layer ``[R, H or 1, 1, S]``."""
        alike = all(bias is None or bias.shape[:2] == (R, 1) for bias in self.biases)
        self._looped = alike and all(layer.loops for layer in model.layers) and not model.model.bidirectional
        self.alone = self._looped and not self.reads_text
        """Whether each position of each row has the same bits in any company."""
        self.place = 0

    def _biases(self, offset_RC: Tensor, symmetry_RC: Tensor, tokens: int) -> list[Tensor | None]:
        """Return what one new position adds to its logits in each layer: where context is missing, -inf."""
        seen = None
        if self._valid_R11S is not None:
            seen = torch.zeros(self._valid_R11S.shape, dtype=self.model.dtype, device=self.entry_R.device)
            seen.masked_fill_(~self._valid_R11S, float("-inf"))
        every = self.entry_R.new_ones(1, 1, 1, self.context + tokens + 1, dtype=torch.bool)
        mask = every if self._valid_R11S is None else self._valid_R11S
        layers = [self.model.model.layer(n) for n in range(len(self.model.layers))]
        if layers[0].feed == "key":
            return [seen] * len(layers)
        return [layer.logit_bias(mask, offset_RC, symmetry_RC, tokens).to(self.model.dtype) for layer in layers]

    def advance(self, inputs_RlJ: Tensor, *, positions: Tensor | None = None, queries: int = 0) -> Tensor:
        """Run the next ``l`` positions through all layers and remember their keys and values.

        A bidirectional model sees all positions from both sides, so they have to come together, unless it is grouped.

        Args:
            inputs_RlJ: the tokens that they read, see :meth:`DecodingTransformer.embed`.
            positions: where they stand in the patch ``[R, l]``, unless one after another.
            queries: how many of them, the last ones, are those of a group; the others do not see them.

        Returns:
            Last-layer states ``[R, l, W]``.
        """
        R, new = inputs_RlJ.shape[:2]
        start = self.context + self.place
        end = start + new
        x_RlW = self.model.embed(inputs_RlJ, self.entry_R, self.place if positions is None else positions)
        x_MW = x_RlW.flatten(0, 1)
        mask = later = None
        if queries:
            mask = torch.ones(1, 1, new, end, dtype=torch.bool, device=x_MW.device)
            mask[:, :, : new - queries, end - queries :] = False
        elif new > 1 and not self.model.model.bidirectional and not self._looped:
            mask = causal_mask(new, self.context, start=self.place, device=x_MW.device)
        if mask is not None:
            # In numbers, once: attention would turn a boolean mask into these in every layer.
            later = torch.zeros_like(mask, dtype=self.model.dtype).masked_fill_(~mask, float("-inf"))
        for number, layer in enumerate(self.model.layers):
            bias = self.biases[number]
            if bias is not None:
                bias = bias[..., :end]
            if later is not None:
                bias = later if bias is None else bias + later
            kept = self.keys[number], self.values[number]
            x_MW = layer.attend(x_MW, *kept, start=start, end=end, bias=bias, looped=self._looped)
            read = self._readers[number]
            if read is not None:
                x_MW = read(x_MW.view(R, new, -1)).flatten(0, 1)
            x_MW = layer.feed_forward(x_MW)
        self.place += new
        return x_MW.view(R, new, -1)

    def rewind(self, place: int) -> None:
        """Forget the positions from ``place`` on."""
        if not 0 <= place <= self.place:
            raise ValueError(f"cannot go back to position {place}, {self.place} are done")
        self.place = place

    def states(self) -> PatchStates:
        """Return what the finished patches leave for later ones: no copy."""
        L = self.model.model.patch_tokens + 1
        if self.place != L:
            raise RuntimeError(f"patch not finished: {self.place} of {L} positions done")
        c = self.context + 1
        return PatchStates(tuple(k[:, :, c:] for k in self.keys), tuple(v[:, :, c:] for v in self.values))


def _by_patch(kept_RGSD: Tensor, patches: int, tokens: int) -> Tensor:
    """Return the context places as ``[R, C, G, N, D]``: a symmetry."""
    return torch.unflatten(kept_RGSD[:, :, : patches * tokens], 2, (patches, tokens)).transpose(1, 2)
