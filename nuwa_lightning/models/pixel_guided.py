"""Decoding videos: each frame guided by the pixels of the one before it (PG-VQGAN, paper section 2b).

Shapes: B batch, K codes, D code dimension, C channels, Y/X rows and columns.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.vqgan import VQGAN, Decoder, Pointwise, ResidualBlock, VQGANConfig, local_conv
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import cut_out, tiles


@dataclass(frozen=True)
class PixelGuidedSize:
    """The size of a :class:`PixelGuidedDecoder`, as plain numbers.

    Attributes:
        vqgan: of the tokenizer that it began as; the decoder's numbers are used, and those of the codes.
        guide_blocks: residual blocks of each level of the guide, coarsest first; it has the decoder's channels.
    """

    vqgan: VQGANConfig
    guide_blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        levels = len(self.vqgan.decoder_channels)
        if len(self.guide_blocks) != levels or not all(isinstance(n, int) and 0 <= n <= 256 for n in self.guide_blocks):
            raise ValueError(f"guide_blocks {self.guide_blocks}: {levels} numbers from 0 to 256, one for each level")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"vqgan": self.vqgan.as_dict(), "guide_blocks": list(self.guide_blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PixelGuidedSize:
        """Return the size that :meth:`as_dict` described."""
        return cls(VQGANConfig.from_dict(values["vqgan"]), tuple(values["guide_blocks"]))


class Guide(nn.Module):
    """Turns an image into features for every level of a decoder, with a finite receptive field.

    What it gives starts at zero (ours), so that the decoder it is added to decodes as before until it is trained.
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


class PixelGuidedDecoder(nn.Module):
    """Decodes frame n from its tokens and the pixels of frame n-1 (paper section 2b).

    The tokens are those of a :class:`VQGAN`, whose encoder and codes stay what they are. Decoder and guide are its own:
    it begins as the VQGAN's decoder (ours) and is trained on frames that follow each other. Only the codes tie it to a
    tokenizer, hence a VQGAN whose decoder was refined since then fits, too. The first frame of a video is the VQGAN's
    to decode, or is given.

    Args:
        decoder: vectors to pixels.
        guide: the previous frame's pixels to what is added to the decoder's levels.
        codebook_KD: the code vectors.
        tokenizer: fingerprint of the tokenizer that it belongs to.
        size: what decoder and guide were built from.
    """

    codebook_KD: Tensor

    def __init__(
        self, decoder: Decoder, guide: Guide, *, codebook_KD: Tensor, tokenizer: str, size: PixelGuidedSize
    ) -> None:
        super().__init__()
        if len(decoder.reaches) != len(guide.reaches) or decoder.cell != guide.cell:
            raise ValueError(
                f"the decoder has {len(decoder.reaches)} levels down to cells of {decoder.cell} pixels, "
                f"the guide {len(guide.reaches)} down to {guide.cell}"
            )
        self.decoder = decoder
        self.guide = guide
        self.register_buffer("codebook_KD", codebook_KD)
        self.size = size
        self._tokenizer = tokenizer
        self.to(memory_format=torch.channels_last)

    @classmethod
    def build(cls, size: PixelGuidedSize, *, tokenizer: str) -> PixelGuidedDecoder:
        """Return one without weights of any meaning, to be loaded."""
        vqgan = size.vqgan
        decoder = Decoder(
            vqgan.codebook_dim, channels=vqgan.decoder_channels, blocks=vqgan.decoder_blocks, cell=vqgan.decoder_cell
        )
        guide = Guide(vqgan.decoder_channels, size.guide_blocks, cell=vqgan.decoder_cell)
        codebook_KD = torch.zeros(vqgan.codebook_size, vqgan.codebook_dim)
        return cls(decoder, guide, codebook_KD=codebook_KD, tokenizer=tokenizer, size=size)

    @classmethod
    def start(cls, vqgan: VQGAN, guide_blocks: Sequence[int]) -> PixelGuidedDecoder:
        """Return one that decodes as ``vqgan`` does, whatever the previous frame, until it is trained.

        Raises:
            ValueError: if there is not one number for each level of the decoder.
        """
        size = PixelGuidedSize(vqgan.size, tuple(guide_blocks))
        guide = Guide(vqgan.size.decoder_channels, size.guide_blocks, cell=vqgan.size.decoder_cell)
        decoder = copy.deepcopy(vqgan.decoder).requires_grad_(True)
        codebook_KD = vqgan.codebook_KD.detach().clone()
        return cls(decoder, guide, codebook_KD=codebook_KD, tokenizer=vqgan.fingerprint(), size=size)

    @property
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""
        return self.decoder.downsample_factor

    @property
    def decode_halo(self) -> int:
        """How many tokens away a token, or a pixel of the previous frame, still changes pixels."""
        pairs = zip(self.decoder.reaches, self.guide.reaches, strict=True)
        return max(self.decoder.halo, *(-(-(near + far) // self.downsample_factor) for near, far in pairs))

    @property
    def step(self) -> int:
        """A piece of a canvas may begin anywhere: all places are alike to a convolution."""
        return 1

    def forward(self, tokens_BYX: Tensor, previous_B3YX: Tensor) -> Tensor:
        """Return images as :meth:`decode_next` does, but with gradients and not clamped.

        Raises:
            ValueError: if the previous frame is not ``factor`` times as large as the grid of tokens.
        """
        wanted = (len(tokens_BYX), 3, *(side * self.downsample_factor for side in tokens_BYX.shape[1:]))
        if tuple(previous_B3YX.shape) != wanted:
            raise ValueError(f"the previous frame is {tuple(previous_B3YX.shape)}, the tokens are those of {wanted}")
        z_BDYX = self.codebook_KD[tokens_BYX].permute(0, 3, 1, 2)
        added = self.guide(previous_B3YX.contiguous(memory_format=torch.channels_last))
        image_B3YX: Tensor = self.decoder(z_BDYX.contiguous(memory_format=torch.channels_last), added)
        return image_B3YX

    @torch.no_grad()
    def decode_next(self, tokens_BYX: Tensor, previous_B3YX: Tensor) -> Tensor:
        """Return the frames of tokens that follow on given frames.

        Args:
            tokens_BYX: tokens of the frames (long).
            previous_B3YX: the frames before them as they were decoded (or given), float32 in [-1, 1].

        Returns:
            ``image_B3YX``, float32 in [-1, 1], as large as the previous frames.

        Raises:
            ValueError: if the previous frame is not ``factor`` times as large as the grid of tokens.
        """
        image_B3YX: Tensor = self(tokens_BYX, previous_B3YX)
        return image_B3YX.clamp(-1, 1)

    def fingerprint(self) -> str:
        """Return the fingerprint of the tokenizer that it belongs to: its encoder and codes, not its decoder."""
        return self._tokenizer

    def check_tokenizer(self, tokenizer: Tokenizer, *, option: str, value: object) -> None:
        """Refuse another tokenizer than the one that it was trained with.

        Args:
            tokenizer: the one whose tokens are to be decoded.
            option: what the user called this decoder.
            value: and its value, for error messages.

        Raises:
            UsageError: if encoder or codes differ.
        """
        if tokenizer.fingerprint() != self.fingerprint():
            raise UsageError(
                option, value, "was trained with another tokenizer: train it again with this one, or name that one"
            )


def decode_next_tiled(
    guided: PixelGuidedDecoder, tokens_BYX: Tensor, previous_B3YX: Tensor, *, tile: int = 64
) -> Tensor:
    """Return ``guided.decode_next(tokens_BYX, previous_B3YX)``, computed in pieces of ``tile`` x ``tile`` tokens."""
    height, width = tokens_BYX.shape[1:]
    factor = guided.downsample_factor
    image_B3YX = torch.empty_like(previous_B3YX)
    for piece in tiles(height, width, tile):
        outer = piece.grown(guided.decode_halo, height, width)
        top, left, bottom, right = (factor * v for v in outer)
        neighbors_B3YX = previous_B3YX[:, :, top:bottom, left:right]
        pixels = guided.decode_next(tokens_BYX[:, outer.top : outer.bottom, outer.left : outer.right], neighbors_B3YX)
        top, left, bottom, right = (factor * v for v in piece)
        image_B3YX[:, :, top:bottom, left:right] = cut_out(pixels, piece, outer=outer, factor=factor)
    return image_B3YX
