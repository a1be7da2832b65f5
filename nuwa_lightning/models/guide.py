"""The encoder of the previous frame, whose features guide the decoder (paper section 2b).

Shapes: B batch, C channels, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.models.layers import Pointwise, ResidualBlock, local_conv


class Guide(nn.Module):
    """Turns an image into features for every level of a decoder, with a finite receptive field.

    What it gives starts at zero (ours), so that the decoder it is added to decodes as before until it is trained.

    Args:
        channels: channels of each level of the decoder, coarsest first.
        blocks: residual blocks of each level here, coarsest first.
        cell: side in pixels of a cell of the finest level.
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], *, cell: int) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels {tuple(channels)} and blocks {tuple(blocks)}: one number per level is needed")
        finest_first = list(zip(channels, blocks, strict=True))[::-1]
        self.cell = cell
        self.stem = local_conv(3 * cell**2, channels[-1], 3)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count))) for width, count in finest_first
        )
        self.downs = nn.ModuleList(Pointwise(4 * fine, coarse) for (fine, _), (coarse, _) in pairwise(finest_first))
        self.outs = nn.ModuleList(Pointwise(width, width, zero=True) for width, _ in finest_first)

        reach, reaches = cell, []  # the kernel of the stem; then on to coarser and coarser cells
        for level, (_, count) in enumerate(finest_first):
            reach += count * cell * 2**level
            reaches.append(reach)
        self.reaches: tuple[int, ...] = tuple(reversed(reaches))
        """How many pixels beyond a cell of each level what is given there depends on, coarsest first."""

    def forward(self, image_B3YX: Tensor) -> list[Tensor]:
        """Return the features of each level, coarsest first, of an image whose sides are whole cells of the coarsest.

        Each is as large as the level of the decoder that it is added to.
        """
        x = self.stem(functional.pixel_unshuffle(image_B3YX, self.cell))
        found: list[Tensor] = []
        for number, (level, out) in enumerate(zip(self.levels, self.outs, strict=True)):
            if number:
                x = self.downs[number - 1](functional.pixel_unshuffle(x, 2))
            x = level(x)
            found.insert(0, out(x))
        return found
