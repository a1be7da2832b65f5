"""The tokenizer of our own: a VQGAN that is local by construction (paper section 2; design: ours).

Shapes: B batch, N vectors, K codes, D code dimension, Y/X rows and columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.legacy import first_keys, first_name
from nuwa_lightning.models.decoder import Decoder
from nuwa_lightning.models.encoder import Encoder
from nuwa_lightning.models.quantizer import VectorQuantizer


@dataclass(frozen=True)
class VQGANConfig:
    """The size of a :class:`VQGAN`, as plain numbers.

    Attributes:
        codebook_size: codes in the code book (K).
        codebook_dim: length of a code vector (D).
        cell: pixels per side of the cells of the encoder's finest level; each further level has twice as large cells,
            and a token is one cell of the coarsest.
        encoder_channels: channels of the encoder's levels, finest first.
        encoder_blocks: residual blocks of each.
        decoder_channels: channels of the decoder's levels, coarsest first; it may have more or fewer than the encoder.
        decoder_blocks: residual blocks of each.
        code_decay: how much of the codes' moving averages survives a step.
        restart_below: a code used less often than this share of the mean use is put elsewhere.
    """

    codebook_size: int = 1024
    codebook_dim: int = 16
    cell: int = 4
    encoder_channels: tuple[int, ...] = (64, 192)
    encoder_blocks: tuple[int, ...] = (2, 4)
    decoder_channels: tuple[int, ...] = (192, 64)
    decoder_blocks: tuple[int, ...] = (6, 3)
    code_decay: float = 0.98
    restart_below: float = 0.03

    def __post_init__(self) -> None:
        for channels, blocks in (
            (self.encoder_channels, self.encoder_blocks),
            (self.decoder_channels, self.decoder_blocks),
        ):
            if not 1 <= len(channels) == len(blocks) <= 6:
                raise ValueError(f"channels {channels} and blocks {blocks}: one number per level, 1 to 6 levels")
        numbers = (self.cell, self.codebook_dim, *self.encoder_channels, *self.decoder_channels)
        if not all(isinstance(n, int) and 1 <= n <= 1 << 14 for n in numbers):
            raise ValueError(f"cell, codebook_dim and channels {numbers}: whole numbers from 1 to {1 << 14} are needed")
        if not all(isinstance(n, int) and 0 <= n <= 256 for n in (*self.encoder_blocks, *self.decoder_blocks)):
            raise ValueError(f"blocks {self.encoder_blocks}, {self.decoder_blocks}: from 0 to 256 a level")
        if self.decoder_cell * 2 ** (len(self.decoder_channels) - 1) != self.downsample_factor:
            raise ValueError(
                f"decoder_channels {self.decoder_channels}: too many levels for {self.downsample_factor} pixels"
            )
        if not (isinstance(self.codebook_size, int) and 2 <= self.codebook_size <= 1 << 20):
            raise ValueError(f"codebook_size {self.codebook_size}: from 2 to {1 << 20}")
        if not (0 <= self.code_decay < 1 and 0 <= self.restart_below < 1):
            raise ValueError(f"code_decay {self.code_decay}, restart_below {self.restart_below}: in [0, 1)")

    @property
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""
        factor: int = self.cell * 2 ** (len(self.encoder_channels) - 1)
        return factor

    @property
    def decoder_cell(self) -> int:
        """Pixels per side of the cells of the decoder's finest level."""
        cell: int = self.downsample_factor // 2 ** (len(self.decoder_channels) - 1)
        return cell

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VQGANConfig:
        """Return the size that :meth:`as_dict` described.

        Raises:
            TypeError: if a name is unknown.
            ValueError: if a number makes no sense.
        """
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


class VQGAN(nn.Module):
    """Encoder, code book and decoder with finite receptive fields and no statistics over the canvas.

    Args:
        encoder: pixels to vectors.
        decoder: vectors to pixels.
        quantizer: vectors to codes.
        size: what the three were built from.

    Raises:
        ValueError: if the three do not fit together.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, quantizer: VectorQuantizer, size: VQGANConfig) -> None:
        super().__init__()
        if encoder.downsample_factor != decoder.downsample_factor:
            raise ValueError(
                f"encoder: {encoder.downsample_factor} pixels a token, decoder: {decoder.downsample_factor}"
            )
        dims = (encoder.codebook_dim, quantizer.codebook_dim, decoder.codebook_dim)
        if len(set(dims)) != 1:
            raise ValueError(f"codebook_dim of encoder, quantizer and decoder differ: {dims}")
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer
        self.size = size
        # Channels lie innermost: every layer here is a matrix product over them.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def build(cls, size: VQGANConfig) -> VQGAN:
        """Return an untrained tokenizer; :func:`~nuwa_lightning.models.dct_init.start_spectral` helps it off."""
        encoder = Encoder(size.codebook_dim, channels=size.encoder_channels, blocks=size.encoder_blocks, cell=size.cell)
        decoder = Decoder(
            size.codebook_dim, channels=size.decoder_channels, blocks=size.decoder_blocks, cell=size.decoder_cell
        )
        quantizer = VectorQuantizer(
            size.codebook_size, size.codebook_dim, decay=size.code_decay, restart_below=size.restart_below
        )
        return cls(encoder, decoder, quantizer=quantizer, size=size)

    def deepened(self, added: Sequence[int]) -> VQGAN:
        """Return a copy whose decoder has more residual blocks; it decodes the same until it is trained.

        Args:
            added: new blocks for each level of the decoder, coarsest first; they come last and add nothing at first.

        Raises:
            ValueError: if there is not one number for each level.
        """
        before = self.size.decoder_blocks
        if len(added) != len(before) or min(added) < 0:
            raise ValueError(f"added blocks {tuple(added)}: one number, 0 or more, for each of {len(before)} levels")
        blocks = tuple(old + new for old, new in zip(before, added, strict=True))
        deeper = VQGAN.build(dataclasses.replace(self.size, decoder_blocks=blocks))
        deeper.load_state_dict(deeper.state_dict() | self.state_dict())
        return deeper

    @property
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""
        return self.encoder.downsample_factor

    @property
    def codebook_size(self) -> int:
        """How many different tokens there are (K)."""
        return self.quantizer.codebook_size

    @property
    def codebook_dim(self) -> int:
        """Length of a code vector (D)."""
        return self.quantizer.codebook_dim

    @property
    def codebook_KD(self) -> Tensor:
        """The code vectors, of unit length."""
        return self.quantizer.codebook_KD

    @property
    def encode_halo(self) -> int:
        """How many tokens beyond its own square a token depends on."""
        return self.encoder.halo

    @property
    def decode_halo(self) -> int:
        """How many tokens away a token still changes pixels."""
        return self.decoder.halo

    @property
    def step(self) -> int:
        """A piece of a canvas may begin anywhere: all places are alike to a convolution."""
        return 1

    def encode_features(self, image_B3YX: Tensor) -> Tensor:
        """Return the vectors ``z_BDYX`` before quantisation, of any length.

        Raises:
            ValueError: if a side is no multiple of ``factor`` (see ``tiling.pad_to_multiple``).
        """
        if any(side % self.downsample_factor or side == 0 for side in image_B3YX.shape[2:]):
            raise ValueError(
                f"image of {tuple(image_B3YX.shape[2:])}: both sides must be multiples of {self.downsample_factor}"
            )
        z_BDYX: Tensor = self.encoder(image_B3YX.contiguous(memory_format=torch.channels_last))
        return z_BDYX

    @torch.no_grad()
    def encode(self, image_B3YX: Tensor) -> Tensor:
        """Return the tokens (long, BYX) of images in [-1, 1] whose sides are multiples of ``factor``."""
        z_BYXD = self.encode_features(image_B3YX).permute(0, 2, 3, 1)
        return self.quantizer.nearest(z_BYXD.reshape(-1, self.codebook_dim)).view(z_BYXD.shape[:3])

    def decode_features(self, z_BDYX: Tensor) -> Tensor:
        """Return the images ``image_B3YX`` of code vectors, not clamped (for training)."""
        image_B3YX: Tensor = self.decoder(z_BDYX.contiguous(memory_format=torch.channels_last))
        return image_B3YX

    @torch.no_grad()
    def decode(self, tokens_BYX: Tensor) -> Tensor:
        """Return images in [-1, 1], ``factor`` times larger than the token grid."""
        return self.decode_features(self.quantizer.lookup(tokens_BYX)).clamp(-1, 1)

    def forward(self, image_B3YX: Tensor, *, quantize: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Reconstruct with gradients.

        Args:
            image_B3YX: in [-1, 1].
            quantize: ``False`` skips the code book and only normalises the vectors (warm-up).

        Returns:
            The images (not clamped), the encoder's vectors ``z_BDYX``, the tokens (``None`` without quantising) and
            the commitment loss.
        """
        z_BDYX = self.encode_features(image_B3YX)
        if quantize:
            q_BDYX, tokens_BYX, commitment = self.quantizer(z_BDYX)
            return self.decode_features(q_BDYX), z_BDYX, tokens_BYX, commitment
        unit_BDYX = functional.normalize(z_BDYX, dim=1)
        return self.decode_features(unit_BDYX), z_BDYX, None, z_BDYX.new_zeros(())

    def fingerprint(self) -> str:
        """Return a hash (sha256, hex) of what decides the tokens: the encoder, its weights and the codes.

        The decoder has no say in it: refining the decoder keeps tokens, and whatever was trained on them, valid.
        """
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()} | {"codes_KD": self.codebook_KD}
        size = self.size
        config = {"channels": size.encoder_channels, "blocks": size.encoder_blocks, "cell": size.cell}
        return _hash(config, tensors)

    def full_fingerprint(self) -> str:
        """Return a hash (sha256, hex) of the whole architecture and all weights, the decoder's included."""
        tensors = {first_name(name): tensor for name, tensor in self.state_dict().items()}
        return _hash(first_keys(self.size.as_dict()), tensors)


def _hash(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
