"""States of patches in flight and of finished ones, for cached decoding and for the paper's per-patch training.

Shape legend as in ``patch_transformer``: R rows, C context patches, N tokens per patch, L positions, S key positions,
G key/value heads, D head width, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.modules.attention import causal_mask
from nuwa_lightning.modules.patch_transformer import PatchTransformer
from nuwa_lightning.modules.text_attention import TextStates


@dataclass(frozen=True)
class PatchStates:
    """What a finished patch leaves for later ones: per layer, keys (without embedding) and values ``[R, N, G, D]``."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def rows(self, index: Tensor | slice) -> PatchStates:
        """Return the states of some rows only."""
        return PatchStates(tuple(k[index] for k in self.keys), tuple(v[index] for v in self.values))


class RowBatch:
    """Patches that are written side by side, one row each, with their keys and values so far.

    Rows may have different numbers of context patches; missing ones are masked.

    Args:
        model: the transformer.
        view_R: index of each row's view.
        context_keys: per layer, keys of the context ``[R, C, N, G, D]``, without embedding.
        context_values: per layer, the values.
        offset_RC: entries of the relative patch embedding.
        relative_view_RC: relative view of each context patch.
        valid_RC: which context places are filled; None = all.
        text: the text of each row.
    """

    def __init__(
        self,
        model: PatchTransformer,
        view_R: Tensor,
        *,
        context_keys: list[Tensor],
        context_values: list[Tensor],
        offset_RC: Tensor,
        relative_view_RC: Tensor,
        valid_RC: Tensor | None = None,
        text: TextStates | None = None,
    ) -> None:
        self.model, self.text = model, text
        self.view_R = view_R
        self.offset_RC, self.relative_view_RC = offset_RC, relative_view_RC
        R, C = offset_RC.shape
        self.context = C * model.patch_tokens
        self.valid_RS = None
        if valid_RC is not None and not bool(valid_RC.all()):
            self.valid_RS = valid_RC.repeat_interleave(model.patch_tokens, dim=1)
        L = model.patch_tokens + 1
        self._k_RGSD: list[Tensor] = []
        self._v_RGSD: list[Tensor] = []
        self._raw_RLGD: list[Tensor] = []
        for number in range(model.depth):
            layer = model.layer(number)
            k_RCNGD = layer.place_context(context_keys[number], offset_RC, relative_view_RC)
            G, D = k_RCNGD.shape[-2:]
            k_RGSD = k_RCNGD.new_empty(R, G, self.context + L, D)
            v_RGSD = k_RCNGD.new_empty(R, G, self.context + L, D)
            k_RGSD[:, :, : self.context] = k_RCNGD.flatten(1, 2).transpose(1, 2)
            v_RGSD[:, :, : self.context] = context_values[number].flatten(1, 2).transpose(1, 2)
            self._k_RGSD.append(k_RGSD)
            self._v_RGSD.append(v_RGSD)
            self._raw_RLGD.append(k_RCNGD.new_empty(R, L, G, D))
        self.place = 0

    def advance(self, x_RlW: Tensor) -> Tensor:
        """Run the next ``l`` positions through all layers and remember their keys and values.

        Args:
            x_RlW: their inputs, from ``embed_token`` or ``embed_rows``.

        Returns:
            Last-layer states ``[R, l, W]``.
        """
        model, start, new = self.model, self.place, x_RlW.shape[1]
        end = self.context + start + new
        mask = self._mask(new, start)
        x_RlW_ = x_RlW
        for number in range(model.depth):
            layer = model.layer(number)
            h_RlW = layer.norm_attention(x_RlW_)
            q_RlHD = layer.attention.queries(h_RlW)
            k_RlGD, v_RlGD = layer.attention.keys_values(h_RlW)
            self._raw_RLGD[number][:, start : start + new] = k_RlGD
            k_RGSD, v_RGSD = self._k_RGSD[number], self._v_RGSD[number]
            k_RGSD[:, :, end - new : end] = layer.place_own(k_RlGD).transpose(1, 2)
            v_RGSD[:, :, end - new : end] = v_RlGD.transpose(1, 2)
            bias = mask
            if layer.feed == "logit":
                full = mask if mask is not None else q_RlHD.new_ones(1, 1, new, end, dtype=torch.bool)
                bias = layer.logit_bias(full, self.offset_RC, self.relative_view_RC, model.patch_tokens)
            mixed = layer.attention.mix(q_RlHD, k_RGSD[:, :, :end], v_RGSD[:, :, :end], bias=bias)
            x_RlW_ = layer.finish(x_RlW_, mixed, model.reader(number, self.text))
        self.place += new
        return x_RlW_

    def _mask(self, new: int, start: int) -> Tensor | None:
        # One new position sees everything that is there: no mask, and the fastest kernel.
        if self.valid_RS is None and new == 1:
            return None
        mask = causal_mask(new, self.context, start=start, device=self.view_R.device)
        if self.valid_RS is None:
            return mask
        own = mask.new_ones(len(self.valid_RS), start + new)
        return mask & torch.cat([self.valid_RS, own], dim=1)[:, None, None]

    def states(self) -> PatchStates:
        """Return what the finished patches leave for later ones.

        Raises:
            RuntimeError: before all tokens have been advanced.
        """
        if self.place != self.model.patch_tokens + 1:
            raise RuntimeError(f"patch not finished: {self.place} of {self.model.patch_tokens + 1} positions done")
        c = self.context + 1
        return PatchStates(
            tuple(k[:, 1:] for k in self._raw_RLGD),
            tuple(v[:, :, c:].transpose(1, 2).contiguous() for v in self._v_RGSD),
        )
