"""Context states of random numbers, some places of which are empty."""

from __future__ import annotations

import torch
from torch import Tensor


class SomeContext:
    def __init__(self, rows: int, num_kv_heads: int, tokens: int, width: int, dtype: torch.dtype) -> None:
        self._shape, self._dtype = (rows, 2, num_kv_heads, tokens, width), dtype
        self.valid_RC = torch.tensor([[True, True], [True, False], [False, False]])[:rows]
        self._picked = slice(None)

    def rows(self, picked: slice) -> SomeContext:
        """Return the context of some of the rows."""
        found = SomeContext(self._shape[0], *self._shape[2:], self._dtype)
        found.valid_RC, found._picked = self.valid_RC[picked], picked
        return found

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(layer)
        keys, values = (torch.randn(self._shape, generator=generator).to(self._dtype) for _ in range(2))
        return keys[self._picked], values[self._picked]
