"""Decoders of the frames of a video: each by itself, or guided by the one before (paper, section 2b).

Shape legend: B batch, Y/X rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.canvas.streaming_decoder import StreamingDecoder, to_uint8
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder, decode_next_tiled
from nuwa_lightning.tokenizers.base import Tokenizer

Pixels = NDArray[np.uint8]


@final
@dataclass(frozen=True)
class SingleFrames:
    """Each frame by itself, as the tokenizer decodes images.

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
        factor = self.tokenizer.downsample_factor
        pixels_YX3 = np.empty((height * factor, width * factor, 3), np.uint8)
        decoder = StreamingDecoder(self.tokenizer, (height, width), tile=self.tile, wrap=self.wrap)
        for piece, tile_YX3 in decoder.put(tokens_YX, top=0, left=0):
            rows, columns = (slice(factor * a, factor * b) for a, b in (piece[0::2], piece[1::2]))
            pixels_YX3[rows, columns] = tile_YX3
        return pixels_YX3


@final
@dataclass(frozen=True)
class GuidedFrames:
    """The first frame by itself, each later one guided by the pixels of the frame before.

    These are the pixels that were given away, 8 bits each: whoever goes on with a video finds them the same.

    Args:
        first: what decodes the first frame.
        decoder: what decodes the others.
        tile: side, in tokens, of what is decoded at once.
    """

    first: SingleFrames
    decoder: PixelGuidedDecoder
    tile: int = 64

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before: yes."""
        return True

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame."""
        if previous_YX3 is None:
            return self.first.decode(tokens_YX, None)
        previous_3YX = torch.from_numpy(np.ascontiguousarray(previous_YX3.transpose(2, 0, 1))) / 127.5 - 1
        image_13YX = decode_next_tiled(self.decoder, tokens_YX[None], previous_3YX[None], tile=self.tile)
        return to_uint8(image_13YX[0])
