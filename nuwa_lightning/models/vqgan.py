"""The tokenizer of our own: a VQGAN that is local by construction (paper section 2; design: ours).

    image_B3YX -> Encoder -> z_BDYX -> VectorQuantizer -> tokens_BYX -> Decoder -> image_B3YX

A token is one of K unit vectors of D numbers and stands for a square of ``downsample_factor`` pixels a side. Nothing
here looks at a whole image: kernels are finite and every normalisation is over the channels of one position, so that
an image decoded in tiles with a halo equals the image decoded at once.

Shapes: B batch, N vectors, K codes, D code dimension, C channels, Y/X rows and columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from nuwa_lightning.legacy import first_keys, first_name
from nuwa_lightning.models.unfilled import unfilled
from nuwa_lightning.plain_data import from_plain
from nuwa_lightning.tokenizers.sharing import NetworkTokenizer, PretrainedTokenizer, fill


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
        """Return the size that :meth:`as_dict` described."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


# -- building blocks: each is local, none looks beyond its kernel ------------------------------------------------------

CHART: Final = 40.0
"""Coordinates per unit of length on the sphere of codes, see :func:`from_chart`."""


def from_chart(coordinates_BDYX: Tensor) -> Tensor:
    """Lay coordinates onto the unit sphere around its pole, the last axis (ours); :func:`to_chart` goes back.

    Codes have unit length, but how bright a square is should not be lost with a vector's length. Around the pole the
    sphere is nearly flat, so that directions hold all coordinates, strengths included. The scale makes coordinates of
    about 1 and learning rates fit both sides.
    """
    return functional.normalize(coordinates_BDYX / CHART + _pole(coordinates_BDYX), dim=1)


def to_chart(z_BDYX: Tensor) -> Tensor:
    """Return the coordinates of vectors near the pole of the unit sphere."""
    return (z_BDYX - _pole(z_BDYX)) * CHART


def _pole(like_BDYX: Tensor) -> Tensor:
    pole_1D11 = torch.zeros(1, like_BDYX.shape[1], 1, 1, dtype=like_BDYX.dtype, device=like_BDYX.device)
    pole_1D11[:, -1] = 1
    return pole_1D11


def local_conv(channels_in: int, channels_out: int, kernel: int, *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size and continues the border instead of seeing black beyond it."""
    if kernel == 1:
        return nn.Conv2d(channels_in, channels_out, 1, groups=groups)
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, padding_mode="replicate", groups=groups)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position (ours; GroupNorm would tie pixels to the whole canvas)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Return ``x_BCYX`` with zero mean and unit variance over C at every position, scaled and shifted."""
        x_BYXC = x_BCYX.permute(0, 2, 3, 1)
        return functional.layer_norm(x_BYXC, self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Pointwise(nn.Module):
    """A linear map of the channels at every position: a 1x1 convolution as one matrix product, which a CPU does faster.

    With ``zero`` it starts at zero, so that a residual branch adds nothing at first.
    """

    def __init__(self, channels_in: int, channels_out: int, *, zero: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_in, channels_out)
        if zero:
            nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Return an array with ``channels_out`` channels."""
        y_BCYX: Tensor = self.linear(x_BCYX.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y_BCYX


class ResidualBlock(nn.Module):
    """``x + narrow(silu(widen(norm(depthwise(x)))))``: cheap in space, wide in channels (ours, after ConvNeXt).

    The last layer starts at zero, so that a new network is the plain linear autoencoder it was initialised as.
    """

    def __init__(self, channels: int, kernel: int = 3, *, expansion: int = 2) -> None:
        super().__init__()
        self.spatial = local_conv(channels, channels, kernel, groups=channels)
        self.norm = ChannelNorm(channels)
        self.widen = Pointwise(channels, channels * expansion)
        self.narrow = Pointwise(channels * expansion, channels, zero=True)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Return an array of the shape of ``x_BCYX``."""
        added_BCYX: Tensor = self.narrow(functional.silu(self.widen(self.norm(self.spatial(x_BCYX)))))
        return x_BCYX + added_BCYX


class PixelShuffleUp(nn.Module):
    """Doubles (or more) the resolution: 1x1 convolution, then pixel shuffle.

    ICNR start (Aitken et al. 2017): the kernels of all sub-pixels are equal, so that no lattice is there to begin with.
    """

    def __init__(self, channels_in: int, channels_out: int, *, factor: int = 2, kernel: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.conv = local_conv(channels_in, channels_out * factor**2, kernel)
        with torch.no_grad():
            shared = self.conv.weight[:: factor**2].clone()
            self.conv.weight.copy_(shared.repeat_interleave(factor**2, dim=0))
            nn.init.zeros_(_bias(self.conv))

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Return an array that is ``factor`` times finer along Y and X."""
        return functional.pixel_shuffle(self.conv(x_BCYX), self.factor)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


# -- pixels to vectors and back ----------------------------------------------------------------------------------------


class _Levels(nn.Module):
    """What encoder and decoder share: a stem, and levels of residual blocks."""

    def __init__(
        self, codebook_dim: int, stem_channels: int, channels: Sequence[int], blocks: Sequence[int], cell: int
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels {tuple(channels)} and blocks {tuple(blocks)}: one number per level is needed")
        self.codebook_dim = codebook_dim
        self.cell = cell
        self.downsample_factor: int = cell * 2 ** (len(channels) - 1)
        self.stem = local_conv(stem_channels, channels[0], 3)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(channels, blocks, strict=True)
        )


class Encoder(_Levels):
    """Turns pixels into a vector for each square of ``downsample_factor`` pixels, with a finite receptive field (ours).

    Pixels are folded into channels at once, and every further level folds 2x2 cells, so that nearly all the work is
    done on coarse grids of many channels, where a CPU is fastest. There is no normalisation outside of the residual
    blocks: it would take away how bright a smooth square is. Channels and numbers of residual blocks are those of each
    level, finest first, whose cells are ``cell`` pixels wide.
    """

    def __init__(
        self,
        codebook_dim: int = 16,
        *,
        channels: Sequence[int] = (64, 192),
        blocks: Sequence[int] = (2, 4),
        cell: int = 4,
    ) -> None:
        super().__init__(codebook_dim, 3 * cell**2, channels, blocks, cell)
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


class Decoder(_Levels):
    """Turns one vector per token into pixels, with a finite receptive field (ours).

    Channels and numbers of residual blocks are those of each level, coarsest first; the finest has cells of ``cell``
    pixels.
    """

    def __init__(
        self,
        codebook_dim: int = 16,
        *,
        channels: Sequence[int] = (192, 64),
        blocks: Sequence[int] = (6, 3),
        cell: int = 4,
    ) -> None:
        super().__init__(codebook_dim, codebook_dim, channels, blocks, cell)
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

        ``added`` goes to the input of each level, coarsest first (paper section 2b).
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


# -- vectors to codes --------------------------------------------------------------------------------------------------


class VectorQuantizer(nn.Module):
    """Nearest of K unit vectors, learned by moving averages (van den Oord et al. 2017; ViT-VQGAN's l2 codes).

    Codes cannot collapse: few dimensions, both sides of unit length, k-means start from real vectors
    (:meth:`start`), moving averages of what each code was assigned, and a code that is hardly used is put on a
    vector of the batch. All statistics are sums over every rank, so that each rank holds the same codes.
    """

    codebook_KD: Tensor
    mean_count_K: Tensor
    mean_sum_KD: Tensor
    started: Tensor

    def __init__(
        self, codebook_size: int = 1024, codebook_dim: int = 16, *, decay: float = 0.98, restart_below: float = 0.03
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.decay = decay
        self.restart_below = restart_below
        codebook_KD = functional.normalize(torch.randn(codebook_size, codebook_dim), dim=1)
        self.register_buffer("codebook_KD", codebook_KD)
        self.register_buffer("mean_count_K", torch.ones(codebook_size))
        self.register_buffer("mean_sum_KD", codebook_KD.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, z_ND: Tensor) -> Tensor:
        """Return the index (long, N) of the code nearest to each of the vectors, whatever their length."""
        return (z_ND @ self.codebook_KD.T).argmax(dim=1)

    def forward(self, z_BDYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes ``q_BDYX`` (gradients pass straight to the normalised vectors), ``tokens_BYX``, and commitment.

        Vectors may have any length. The commitment is the mean squared distance to the code, summed over D: from 0 to
        4.
        """
        unit_BYXD = functional.normalize(z_BDYX.permute(0, 2, 3, 1), dim=3)
        tokens_BYX = self.nearest(unit_BYXD.detach().reshape(-1, self.codebook_dim)).view(unit_BYXD.shape[:3])
        q_BYXD = self.codebook_KD[tokens_BYX]
        commitment = (unit_BYXD - q_BYXD).square().sum(dim=3).mean()
        through_BYXD = unit_BYXD + (q_BYXD - unit_BYXD).detach()
        return through_BYXD.permute(0, 3, 1, 2), tokens_BYX, commitment

    def lookup(self, tokens_BYX: Tensor) -> Tensor:
        """Return the code vectors ``q_BDYX`` of tokens."""
        return self.codebook_KD[tokens_BYX].permute(0, 3, 1, 2)

    @torch.no_grad()
    def count(self, tokens_N: Tensor) -> Tensor:
        """Return how often each code is used by all ranks (float, K)."""
        return count_codes(tokens_N, self.codebook_size)

    @torch.no_grad()
    def update(self, z_ND: Tensor, tokens_N: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Move the codes towards the vectors they were assigned, on all ranks alike; restart those hardly used.

        ``generator`` draws vectors for restarts and must be the same on every rank. Returns how often each code was
        used in this step by all ranks (float, K).
        """
        unit_ND = functional.normalize(z_ND.to(self.codebook_KD.dtype), dim=1)
        count_K = self.count(tokens_N)
        sum_KD = torch.zeros_like(self.mean_sum_KD).index_add_(0, tokens_N, unit_ND)
        _all_reduce(sum_KD)
        self.mean_count_K.mul_(self.decay).add_(count_K, alpha=1 - self.decay)
        self.mean_sum_KD.mul_(self.decay).add_(sum_KD, alpha=1 - self.decay)
        self.codebook_KD.copy_(functional.normalize(self.mean_sum_KD, dim=1))
        self._restart(unit_ND, generator)
        return count_K

    def _restart(self, unit_ND: Tensor, generator: torch.Generator | None) -> None:
        mean = self.mean_count_K.mean()
        dead_K = self.mean_count_K < self.restart_below * mean
        candidates_ND = _gather(unit_ND)
        dead = dead_K.nonzero().flatten()[: len(candidates_ND)]
        if len(dead) == 0:
            return
        # Poorly served vectors are the better seeds: draw with the squared distance as weight, as k-means++ does.
        distance_N = (2 - 2 * (candidates_ND @ self.codebook_KD.T).amax(dim=1)).clamp(min=1e-8)
        chosen = torch.multinomial(distance_N, len(dead), generator=generator)
        self.codebook_KD[dead] = candidates_ND[chosen]
        self.mean_count_K[dead] = mean
        self.mean_sum_KD[dead] = candidates_ND[chosen] * mean

    @torch.no_grad()
    def start(
        self, z_ND: Tensor, *, batches: int = 1, iterations: int = 8, generator: torch.Generator | None = None
    ) -> None:
        """Put the codes where real vectors are: spherical k-means with a k-means++ start.

        The vectors of all ranks are used; each gives its own batch by batch, and the moving averages begin with the
        size of one. ``generator`` must be the same on every rank.
        """
        unit_ND = _gather(functional.normalize(z_ND.to(self.codebook_KD.dtype), dim=1))
        ranks = len(unit_ND) // max(1, len(z_ND))
        if ranks > 1 and len(z_ND) % batches == 0:  # by batch, then by rank, as one process would have seen them
            unit_ND = unit_ND.view(ranks, batches, -1, unit_ND.shape[1]).transpose(0, 1).flatten(0, 2)
        if len(unit_ND) < self.codebook_size:
            raise ValueError(f"{len(unit_ND)} vectors cannot start {self.codebook_size} codes")
        codebook_KD = _spread(unit_ND, self.codebook_size, generator)
        count_K = torch.ones(self.codebook_size)
        for _ in range(iterations):
            tokens_N = (unit_ND @ codebook_KD.T).argmax(dim=1)
            count_K = torch.bincount(tokens_N, minlength=self.codebook_size).to(unit_ND.dtype)
            sum_KD = torch.zeros_like(codebook_KD).index_add_(0, tokens_N, unit_ND)
            used_K = count_K > 0
            codebook_KD[used_K] = functional.normalize(sum_KD[used_K], dim=1)
        per_step_K = (count_K + 1) / batches
        self.codebook_KD.copy_(codebook_KD)
        self.mean_count_K.copy_(per_step_K)
        self.mean_sum_KD.copy_(codebook_KD * per_step_K[:, None])
        self.started.fill_(True)


def _spread(unit_ND: Tensor, codebook_size: int, generator: torch.Generator | None) -> Tensor:
    """Return K of the vectors, spread out: k-means++ in sixteen rounds of many draws instead of K rounds of one."""
    first = torch.randint(len(unit_ND), (1,), generator=generator)
    chosen_KD = unit_ND[first]
    nearest_N = (unit_ND @ chosen_KD.T).amax(dim=1)
    while len(chosen_KD) < codebook_size:
        draws = min(codebook_size - len(chosen_KD), max(1, codebook_size // 16))
        distance_N = (2 - 2 * nearest_N).clamp(min=1e-8)
        new_KD = unit_ND[torch.multinomial(distance_N, draws, generator=generator)]
        chosen_KD = torch.cat([chosen_KD, new_KD])
        nearest_N = torch.maximum(nearest_N, (unit_ND @ new_KD.T).amax(dim=1))
    return chosen_KD.clone()


def count_codes(tokens_N: Tensor, codebook_size: int) -> Tensor:
    """Return how often each code is used by all ranks (float, K)."""
    count_K = torch.bincount(tokens_N, minlength=codebook_size).float()
    _all_reduce(count_K)
    return count_K


def _all_reduce(x: Tensor) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)


def _gather(x_ND: Tensor) -> Tensor:
    """Return the rows of every rank, in the order of the ranks; all must hold as many."""
    if not (dist.is_available() and dist.is_initialized()):
        return x_ND
    parts = [torch.empty_like(x_ND) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x_ND.contiguous())
    return torch.cat(parts)


# -- the tokenizer -----------------------------------------------------------------------------------------------------


class Autoencoder(nn.Module, PretrainedTokenizer):
    """Images to tokens and back by an encoder, a quantizer and a decoder; a subclass says what these are."""

    quantizer: Any

    @property
    @abstractmethod
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""

    @abstractmethod
    def encode_features(self, image_B3YX: Tensor) -> Tensor:
        """Return the vectors ``z_BDYX`` before quantisation.

        Raises:
            ValueError: if a side is no multiple of ``downsample_factor``.
        """

    @abstractmethod
    def decode_features(self, z_BDYX: Tensor) -> Tensor:
        """Return the images ``image_B3YX`` of code vectors, not clamped (for training)."""

    @property
    def codebook_size(self) -> int:
        """How many different tokens there are (K)."""
        return int(self.quantizer.codebook_size)

    @property
    def codebook_dim(self) -> int:
        """Length of a code vector (D)."""
        return int(self.quantizer.codebook_dim)

    @property
    def codebook_KD(self) -> Tensor:
        """The code vectors."""
        codebook_KD: Tensor = self.quantizer.codebook_KD
        return codebook_KD

    @property
    def step(self) -> int:
        """A piece of a canvas may begin anywhere: all places are alike."""
        return 1

    def check_sides(self, image_B3YX: Tensor) -> None:
        """Refuse an image that is no whole number of tokens."""
        sides = tuple(image_B3YX.shape[2:])
        if any(side % self.downsample_factor or side == 0 for side in sides):
            raise ValueError(f"image of {sides}: both sides must be multiples of {self.downsample_factor}")

    @torch.no_grad()
    def encode(self, image_B3YX: Tensor) -> Tensor:
        """Return the tokens (long, BYX) of images in [-1, 1] whose sides are multiples of ``downsample_factor``."""
        z_BYXD = self.encode_features(image_B3YX).permute(0, 2, 3, 1)
        tokens_N: Tensor = self.quantizer.nearest(z_BYXD.flatten(0, 2))
        return tokens_N.view(z_BYXD.shape[:3])

    @torch.no_grad()
    def decode(self, tokens_BYX: Tensor) -> Tensor:
        """Return images in [-1, 1], ``downsample_factor`` times larger than the token grid."""
        return self.decode_features(self.quantizer.lookup(tokens_BYX)).clamp(-1, 1)


class VQGAN(Autoencoder, NetworkTokenizer):
    """Encoder, code book and decoder with finite receptive fields and no statistics over the canvas.

    Args:
        encoder: pixels to vectors.
        decoder: vectors to pixels.
        quantizer: vectors to codes.
        size: what the three were built from.

    Raises:
        ValueError: if the three do not fit together.
    """

    rounded: ClassVar[tuple[str, ...]] = ("decoder.",)

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
    def build(cls, size: VQGANConfig) -> Self:
        """Return an untrained tokenizer; :func:`~nuwa_lightning.models.dct_init.start_spectral` helps it off."""
        encoder = Encoder(size.codebook_dim, channels=size.encoder_channels, blocks=size.encoder_blocks, cell=size.cell)
        decoder = Decoder(
            size.codebook_dim, channels=size.decoder_channels, blocks=size.decoder_blocks, cell=size.decoder_cell
        )
        quantizer = VectorQuantizer(
            size.codebook_size, size.codebook_dim, decay=size.code_decay, restart_below=size.restart_below
        )
        return cls(encoder, decoder, quantizer=quantizer, size=size)

    def description(self) -> dict[str, Any]:
        return {"size": self.size.as_dict()}

    @classmethod
    def remade(cls, description: Mapping[str, Any], state: dict[str, Tensor]) -> Self:
        with unfilled():
            made = cls.build(from_plain(VQGANConfig, description["size"]))
        fill(made, state, assign=True)
        return made.to(memory_format=torch.channels_last)

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
        return self.encoder.downsample_factor

    @property
    def encode_halo(self) -> int:
        """How many tokens beyond its own square a token depends on."""
        return self.encoder.halo

    @property
    def decode_halo(self) -> int:
        """How many tokens away a token still changes pixels."""
        return self.decoder.halo

    def encode_features(self, image_B3YX: Tensor) -> Tensor:
        """Return the vectors ``z_BDYX`` before quantisation, of any length; see `Autoencoder.encode_features`."""
        self.check_sides(image_B3YX)
        z_BDYX: Tensor = self.encoder(image_B3YX.contiguous(memory_format=torch.channels_last))
        return z_BDYX

    def decode_features(self, z_BDYX: Tensor) -> Tensor:
        image_B3YX: Tensor = self.decoder(z_BDYX.contiguous(memory_format=torch.channels_last))
        return image_B3YX

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
        return hash_weights(config, tensors)

    def full_fingerprint(self) -> str:
        """Return a hash (sha256, hex) of the whole architecture and all weights, the decoder's included."""
        tensors = {first_name(name): tensor for name, tensor in self.state_dict().items()}
        return hash_weights(first_keys(self.size.as_dict()), tensors)


def hash_weights(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return a hash (sha256, hex) of plain values and of tensors by name."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
