"""Starts a tokenizer as a good linear one, from what is known of all photographs (ours).

The residual blocks of a new encoder and decoder add nothing, so both are linear maps. Here these become a block cosine
transform, as in JPEG, ordered and scaled by the spectrum that photographs share. Training then begins with the colours
and edges in place, instead of finding them from noise.

Symbols: P numbers in a square of pixels (3 colours x side x side), N components kept of them, C channels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from nuwa_lightning.models.vqgan import Decoder, Encoder, PixelShuffleUp, Pointwise

_LAWS = ((0.90, 0.94, 1.17), (0.34, 0.41, 1.79), (0.16, 0.17, 1.54))
"""For luminance and two colour differences: spread of the mean; then a, b of the spread a / f**b at frequency f.

Fitted to photographs; f counts half-waves over 8 pixels, the transform is orthonormal, pixels are in [-1, 1]."""


@torch.no_grad()
def start_spectral(encoder: Encoder, decoder: Decoder, *, rounding: float = 0.4) -> None:
    """Set the linear parts of both so that they keep the ``codebook_dim - 1`` strongest components of each square.

    The last axis stays free: it is the pole around which the vectors lie (see ``layers.from_chart``).

    Args:
        encoder: an untrained encoder.
        decoder: the decoder that belongs to it.
        rounding: spread of the error that rounding to codes will put on each component, for which the decoder makes up
            by looking at neighboring squares. Measured with 1024 codes; pixels are in [-1, 1].
    """
    side = encoder.cell
    channels = encoder.stem.out_channels
    spectrum = _spectrum(side)[:channels]
    encoder.stem.weight[: len(spectrum)] = 0
    encoder.stem.weight[: len(spectrum), :, 1, 1] = spectrum
    assert encoder.stem.bias is not None
    encoder.stem.bias.zero_()
    for down in encoder.downs:
        assert isinstance(down, Pointwise)
        linear = down.linear
        fold = _fold(spectrum, side)
        side *= 2
        spectrum = _spectrum(side)[: linear.out_features]
        columns = _columns(len(fold) // 4, linear.in_features)
        linear.weight[: len(spectrum)] = 0
        linear.weight[: len(spectrum), columns] = spectrum @ torch.linalg.pinv(fold)
    spread_N = _spread(side)[: len(spectrum)]
    kept = min(encoder.codebook_dim - 1, len(spectrum))
    encoder.head.linear.weight.zero_()
    for component in range(kept):
        encoder.head.linear.weight[component, component] = spread_N[component]
    encoder.head.linear.bias.zero_()

    spectrum = _spectrum(side)[: decoder.stem.out_channels]
    estimate = _estimate_from_neighbours(side, kept, rounding)[: len(spectrum)]
    decoder.stem.weight[: len(spectrum)] = 0
    decoder.stem.weight[: len(spectrum), :kept] = estimate
    assert decoder.stem.bias is not None
    decoder.stem.bias.zero_()
    for up in decoder.ups:
        assert isinstance(up, PixelShuffleUp)
        pixels = torch.linalg.pinv(spectrum)
        finer = _spectrum(side // 2)[: up.conv.out_channels // 4]
        unfold = _fold(finer, side // 2) @ pixels
        rows = _columns(len(finer), up.conv.out_channels)
        up.conv.weight[rows] = 0
        up.conv.weight[rows, : len(spectrum), 0, 0] = unfold
        side //= 2
        spectrum = finer
    decoder.head.conv.weight.zero_()
    middle = decoder.head.conv.kernel_size[0] // 2
    decoder.head.conv.weight[:, : len(spectrum), middle, middle] = torch.linalg.pinv(spectrum)


def _spectrum(side: int) -> Tensor:
    """Return the analysis (N, P) of squares of ``side`` pixels: strongest component first, each of unit spread."""
    order = _raw_spread(side).flatten().argsort(descending=True, stable=True)
    cosine = _cosine(side)
    opponent = functional.normalize(torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64), dim=1)
    full = torch.einsum("oc,uy,vx->ouvcyx", opponent, cosine, cosine).flatten(3).flatten(0, 2)
    return (full[order] / _raw_spread(side).flatten()[order, None]).float()


def _spread(side: int) -> Tensor:
    """Return the spread (N) of the components in the order of :func:`_spectrum`."""
    return _raw_spread(side).flatten().sort(descending=True, stable=True).values.float()


def _raw_spread(side: int) -> Tensor:
    k = torch.arange(side, dtype=torch.float64)
    frequency = torch.hypot(k[:, None], k[None]).clamp(min=1e-9)
    laws = []
    for mean, slope, power in _LAWS:
        spread = slope * (frequency * (8 / side)) ** -power
        spread[0, 0] = mean * side
        laws.append(spread)
    return torch.stack(laws)


def _estimate_from_neighbours(side: int, kept: int, rounding: float) -> Tensor:
    """Return the best linear estimate (N, kept, 3, 3) of a square's components from those of its neighborhood.

    All whitened components are estimated from the ``kept`` strongest ones, noisy, of the square and its neighbors.

    It joins squares smoothly, where the inverse transform of each alone would show their borders. Second moments are
    those of a stationary image with the same laws.
    """
    order = _raw_spread(side).flatten().argsort(descending=True, stable=True)
    span = 8 * side
    first = (span - 3 * side) // 2  # in the middle, far from where the waves are mirrored
    wave_KX = _cosine(span)[:, first : first + 3 * side]
    power_CKK = _raw_spread(span).square()
    power_CKK[:, 0, 0] *= 1e4  # a flat image is to stay flat, whatever its colour
    cosine_UX = _cosine(side)
    squares_USX = torch.stack([functional.pad(cosine_UX, (i * side, (2 - i) * side)) for i in range(3)], dim=1)
    seen_USK = squares_USX @ wave_KX.T  # component U of square S along one axis, in waves of the larger square
    estimate = torch.zeros(3, side * side, kept, 3, 3, dtype=torch.float64)
    for colour in range(3):
        mine = [(n, int(k) % side**2) for n, k in enumerate(order[:kept]) if int(k) // side**2 == colour]
        if not mine:
            continue
        u, v = (torch.tensor([divmod(k, side)[axis] for _, k in mine]) for axis in (0, 1))
        seen_M = torch.einsum("msk,mtl->mstkl", seen_USK[u], seen_USK[v]).flatten(0, 2).flatten(1)
        target_N = torch.einsum("uk,vl->uvkl", seen_USK[:, 1], seen_USK[:, 1]).flatten(0, 1).flatten(1)
        weighted_M = seen_M * power_CKK[colour].flatten()
        covariance_MM = weighted_M @ seen_M.T + rounding**2 * torch.eye(len(seen_M), dtype=torch.float64)
        weights_NM = torch.linalg.solve(covariance_MM, weighted_M @ target_N.T).T
        estimate[colour][:, [n for n, _ in mine]] = weights_NM.view(side * side, len(mine), 3, 3)
    whitened = estimate.flatten(0, 1) / _raw_spread(side).flatten()[:, None, None, None]
    return whitened[order].float()


def _cosine(side: int) -> Tensor:
    """Return the orthonormal cosine transform (frequency, place) of ``side`` pixels."""
    k = torch.arange(side, dtype=torch.float64)
    cosine = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / side) * math.sqrt(2 / side)
    cosine[0] /= math.sqrt(2)
    return cosine


def _fold(spectrum: Tensor, side: int) -> Tensor:
    """Return the matrix (4N, P') from a square of 2 x ``side`` pixels to its four quarters' components, folded."""
    pixels = torch.eye(3 * (2 * side) ** 2).view(-1, 3, 2 * side, 2 * side)
    cells = functional.conv2d(functional.pixel_unshuffle(pixels, side), spectrum[:, :, None, None])
    return functional.pixel_unshuffle(cells, 2).flatten(1).T.contiguous()


def _columns(kept: int, folded: int) -> Tensor:
    """Return where the folded channels of the first ``kept`` channels lie among ``folded`` ones."""
    return torch.arange(min(4 * kept, folded))
