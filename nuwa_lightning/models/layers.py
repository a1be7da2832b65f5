"""The few building blocks of the tokenizer; each is local: a normalisation never looks beyond its own position.

Shapes: B batch, C channels, Y/X rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHART = 40.0
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


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position (ours; GroupNorm would tie a pixel to the whole canvas).

    Args:
        channels: how many channels.
    """

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

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        zero: start at zero, so that a residual branch adds nothing at first.
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

    Args:
        channels: channels of the input and of the output.
        kernel: side of the depthwise kernel, odd.
        expansion: hidden channels over channels.
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

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        factor: how many times finer.
        kernel: side of the kernel, odd.
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


def local_conv(channels_in: int, channels_out: int, kernel: int, *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size and continues the border instead of seeing black beyond it."""
    if kernel == 1:
        return nn.Conv2d(channels_in, channels_out, 1, groups=groups)
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, padding_mode="replicate", groups=groups)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
