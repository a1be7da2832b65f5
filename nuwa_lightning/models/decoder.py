"""The decoder of the tokenizer: one vector per token to pixels.

Shapes: B batch, D code dimension, C channels, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from nuwa_lightning.models.layers import PixelShuffleUp, ResidualBlock, local_conv, to_chart


class Decoder(nn.Module):
    """Turns one vector per token into pixels, with a finite receptive field (ours).

    Args:
        codebook_dim: length D of the vector of a token.
        channels: channels of each level, coarsest first.
        blocks: residual blocks of each level.
        cell: side in pixels of a cell of the finest level.
    """

    def __init__(
        self,
        codebook_dim: int = 16,
        *,
        channels: Sequence[int] = (192, 64),
        blocks: Sequence[int] = (6, 3),
        cell: int = 4,
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels {tuple(channels)} and blocks {tuple(blocks)}: one number per level is needed")
        self.codebook_dim = codebook_dim
        self.cell = cell
        self.downsample_factor: int = cell * 2 ** (len(channels) - 1)
        self.stem = local_conv(codebook_dim, channels[0], 3)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(channels, blocks, strict=True)
        )
        self.ups = nn.ModuleList(PixelShuffleUp(coarse, fine) for coarse, fine in pairwise(channels))
        # Kernels that overlap their neighbors' cells, so that no lattice has to remain.
        self.head = PixelShuffleUp(channels[-1], 3, factor=cell, kernel=3)

        reach, reaches = cell, []  # the kernel of the head; then back to coarser and coarser cells
        for level in reversed(range(len(channels))):
            side = self.downsample_factor // 2**level
            reach = -(-reach // side) * side + blocks[level] * side
            reaches.append(reach)
        self.reaches: tuple[int, ...] = tuple(reversed(reaches))
        """How many pixels beyond a token's square its pixels depend on what enters each level, coarsest first."""
        self.halo: int = reach // self.downsample_factor + 1  # the kernel of the stem
        """How many tokens away a vector can still change the pixels of a token's square."""

    def forward(self, z_BDYX: Tensor, added: Sequence[Tensor] = ()) -> Tensor:
        """Return the image ``image_B3YX`` of the vectors; unbounded, about [-1, 1].

        Args:
            z_BDYX: the vectors.
            added: what is added to the input of each level, coarsest first (paper section 2b); nothing by default.
        """
        x = self.stem(to_chart(z_BDYX))
        for number, level in enumerate(self.levels):
            if number:
                x = self.ups[number - 1](x)
            x = level(x + added[number] if added else x)
        image_B3YX: Tensor = self.head(x)
        return image_B3YX

    @property
    def last_weight(self) -> Tensor:
        """The weight of the last layer: gradients with respect to it balance the adversarial loss."""
        return self.head.conv.weight
