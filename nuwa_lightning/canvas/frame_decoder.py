"""Decoders of the frames of a video: each by itself, or guided by the one before (paper, section 2b).

Shape legend: B batch, Y/X rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from nuwa_lightning.canvas.decoding import Crop, DecodedImage, Pixels, TileDecoder, to_uint8
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder, decode_next_tiled
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle


@final
@dataclass(frozen=True)
class SingleFrames:
    """Each frame by itself, as the tokenizer decodes images."""

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

        def read(area: Rectangle) -> Tensor:
            return tokens_YX[area.top : area.bottom, area.left : area.right]

        tiles = TileDecoder(self.tokenizer, (height, width), read, tile=self.tile, wrap=self.wrap)
        image = DecodedImage(tiles, Crop((height * factor, width * factor)))
        return image.rows(0, image.height)


@final
@dataclass(frozen=True)
class GuidedFrames:
    """The first frame by itself, each later one guided by the pixels of the frame before.

    These are the pixels that were given away, 8 bits each: whoever goes on with a video finds them the same.
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
