"""Cross-attention to the tokens of a text, in every layer (paper, section on the vision decoder).

A model without text has none of this: the same weights, drawn from the same random numbers, to the bit.

Shape legend: B texts, R rows (patches of any sample side by side), L positions, S text tokens, E width of a text token,
W model width, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TextStates:
    """What rows read of their texts.

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
    """The text branch of one layer: pre-LN multi-head attention to the text, scaled (LayerScale)."""

    def __init__(self, dim: int, num_heads: int, *, layer_scale: float, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.full((dim,), layer_scale))

    def keys_values(self, text_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """Project text tokens to keys and values ``[B, H, S, D]``."""
        return self._split(self.key(text_BSW)), self._split(self.value(text_BSW))

    def read(self, x_RLW: Tensor, states: TextStates, *, layer: int) -> Tensor:
        """Return ``x_RLW`` with the text branch added.

        Args:
            x_RLW: rows; those that read one text lie side by side, equally many for each text.
            states: the texts.
            layer: number of this layer.
        """
        k_BHSD, v_BHSD = states.keys[layer], states.values[layer]
        x_BMW = x_RLW.reshape(len(k_BHSD), -1, x_RLW.shape[-1])
        q_BHMD = self._split(self.query(self.norm(x_BMW)))
        o_BHMD = F.scaled_dot_product_attention(q_BHMD, k_BHSD, v_BHSD, attn_mask=states.text_mask_B11S)
        branch_BMW = self.dropout(self.out(o_BHMD.transpose(1, 2).flatten(2)))
        out: Tensor = x_RLW + (self.scale * branch_BMW).reshape(x_RLW.shape)
        return out

    def _split(self, h_BSW: Tensor) -> Tensor:
        return torch.unflatten(h_BSW, -1, (self.num_heads, -1)).transpose(1, 2)


class TextConditioning(nn.Module):
    """All that a patch transformer has of text: a linear map into the model, and a branch for each layer.

    Args:
        text_dim: width E of a text token.
        dim: model width W.
        num_layers: layers of the model.
        num_heads: heads of each branch.
        layer_scale: start value of LayerScale.
        dropout: dropout on the output of each branch.
    """

    def __init__(
        self, text_dim: int, dim: int, *, num_layers: int, num_heads: int, layer_scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.project = nn.Linear(text_dim, dim)
        self.norm = nn.LayerNorm(dim)
        # One token more than the text has: what is read where there is no text, and where none of it matters.
        self.no_text = nn.Parameter(torch.randn(dim))
        self.layers = nn.ModuleList(
            TextAttention(dim, num_heads, layer_scale=layer_scale, dropout=dropout) for _ in range(num_layers)
        )

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
