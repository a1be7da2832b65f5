"""A text encoder that needs no weights: a token a letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa_lightning.text.base import TextEncoder


@dataclass(frozen=True)
class Letters(TextEncoder):
    most: int = 20

    @property
    def width(self) -> int:
        return 8

    def fingerprint(self) -> str:
        return f"letters {self.most}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        table = torch.randn(128, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        return [table[torch.tensor([ord(c) % 128 for c in caption[: self.most]])] for caption in captions]
