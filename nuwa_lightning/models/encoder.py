"""The encoder of the tokenizer: pixels to one vector per token.

Shapes: B batch, D code dimension, C channels, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.models.layers import Pointwise, ResidualBlock, from_chart, local_conv


class Encoder(nn.Module):
    """Turns pixels into one vector for each square of ``factor`` pixels, with a finite receptive field (ours).

    Pixels are folded into channels at once, and every further level folds 2x2 cells, so that nearly all the work is
    done on coarse grids of many channels, where a CPU is fastest. There is no normalisation outside of the residual
    blocks: it would take away how bright a smooth square is.

    Args:
        codebook_dim: length D of the vector of a token.
        channels: channels of each level, finest first.
        blocks: residual blocks of each level.
        cell: side in pixels of a cell of the finest level.
    """

    def __init__(
        self,
        codebook_dim: int = 16,
        *,
        channels: Sequence[int] = (64, 192),
        blocks: Sequence[int] = (2, 4),
        cell: int = 4,
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels {tuple(channels)} and blocks {tuple(blocks)}: one number per level is needed")
        self.codebook_dim = codebook_dim
        self.cell = cell
        self.downsample_factor: int = cell * 2 ** (len(channels) - 1)
        self.stem = local_conv(3 * cell**2, channels[0], 3)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(channels, blocks, strict=True)
        )
        self.downs = nn.ModuleList(Pointwise(4 * fine, coarse) for fine, coarse in pairwise(channels))
        self.head = Pointwise(channels[-1], codebook_dim)
        reach = cell + sum(count * cell * 2**level for level, count in enumerate(blocks))
        self.halo: int = -(-reach // self.downsample_factor)
        """How many tokens beyond its own square the vector of a token depends on."""

    def forward(self, image_B3YX: Tensor) -> Tensor:
        """Return the unit vectors ``z_BDYX`` of an image whose sides are multiples of ``factor``."""
        x = self.levels[0](self.stem(functional.pixel_unshuffle(image_B3YX, self.cell)))
        for down, level in zip(self.downs, list(self.levels)[1:], strict=True):
            x = level(down(functional.pixel_unshuffle(x, 2)))
        return from_chart(self.head(x))
