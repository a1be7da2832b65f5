"""Decoders of the frames of a film.

Shape legend: B batch, Y/X rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.generation.streaming import StreamingDecoder
from nuwa_lightning.tokenizers.base import Tokenizer

Pixels = NDArray[np.uint8]


@final
@dataclass(frozen=True)
class SingleFrames:
    """Each frame by itself, as the tokenizer decodes pictures.

    Args:
        tokenizer: what decodes.
        tile: side, in tokens, of what is decoded at once.
        wrap: the closed axes, as in ``PatchGrid``.
    """

    tokenizer: Tokenizer
    tile: int = 64
    wrap: str = ""

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before: no."""
        return False

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame."""
        height, width = tokens_YX.shape
        factor = self.tokenizer.factor
        pixels_YX3 = np.empty((height * factor, width * factor, 3), np.uint8)
        decoder = StreamingDecoder(self.tokenizer, (height, width), tile=self.tile, wrap=self.wrap)
        for piece, tile_YX3 in decoder.put(tokens_YX, top=0, left=0):
            rows, columns = (slice(factor * a, factor * b) for a, b in (piece[0::2], piece[1::2]))
            pixels_YX3[rows, columns] = tile_YX3
        return pixels_YX3
