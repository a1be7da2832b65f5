"""Context states of random numbers, some places of which are empty."""

from __future__ import annotations

import torch
from torch import Tensor


class SomeContext:
    def __init__(self, rows: int, num_kv_heads: int, tokens: int, width: int, dtype: torch.dtype) -> None:
        self._shape, self._dtype = (rows, 2, num_kv_heads, tokens, width), dtype
        self.valid_RC = torch.tensor([[True, True], [True, False], [False, False]])[:rows]

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(layer)
        keys, values = (torch.randn(self._shape, generator=generator).to(self._dtype) for _ in range(2))
        return keys, values
