"""Values where there are none: carried on smoothly from where there are (ours). NumPy only."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

RIM: Final = 3
"""How many pixels beyond the border what was written is looked at; on the other side, one less."""


def filled(values_YXC: Values, known_YX: NDArray[np.bool_]) -> Values:
    """Return ``values_YXC`` with what is not known filled in from what is nearest: fine near it, smooth far from it.

    Averages over ever larger squares, then back from the largest: each size fills what the smaller ones left open.
    Known values stay as they are; without any, all is 0.

    Example:
        >>> row = np.array([[[8.0], [0.0], [0.0], [0.0]]], dtype=np.float32)
        >>> filled(row, np.array([[True, False, False, False]]))[0, :, 0].tolist()
        [8.0, 8.0, 8.0, 8.0]
    """
    known_YX1 = known_YX[..., None]
    if known_YX.all():
        return values_YXC.copy()
    values_YXC = np.where(known_YX1, values_YXC, np.float32(0))
    height, width = known_YX.shape
    if max(height, width) == 1:
        return values_YXC
    counts_YX1 = _quartered(known_YX1.astype(np.float32))
    means_YXC = (_quartered(values_YXC) / np.maximum(counts_YX1, 1)).astype(np.float32)
    coarse_YXC = filled(means_YXC, counts_YX1[..., 0] > 0)
    grown_YXC = coarse_YXC.repeat(2, axis=0).repeat(2, axis=1)
    return np.where(known_YX1, values_YXC, blurred(grown_YXC, 1)[:height, :width])


def meeting(written_YXC: Values, given_YXC: Values, given_YX: NDArray[np.bool_], reach: int) -> Values:
    """Return what to add to what was written so that it meets what is given at its border; 0 beyond ``reach`` pixels.

    What is given just inside the border is compared with what was written just outside it, as in Poisson blending
    (Pérez et al., 2003): a step that was written there vanishes, too. What it gives for a pixel depends on those at
    most ``reach + RIM`` away and on nothing else, so that it can be worked out piece by piece.
    """
    rim_YX = given_YX & (blurred((~given_YX)[..., None].astype(np.float32), RIM - 1, beyond=0)[..., 0] > 0)
    apart_YXC = given_YXC - nearby(written_YXC, ~given_YX, RIM)
    return nearby(apart_YXC, rim_YX, reach) * fading(given_YX, reach)[..., None]


def nearby(values_YXC: Values, known_YX: NDArray[np.bool_], reach: int) -> Values:
    """Return known values, and elsewhere a mean of those at most ``reach`` away, the nearer the heavier.

    Where none is near, it is 0.
    """
    weight_YX1 = known_YX[..., None].astype(np.float32)
    both_YXD = np.concatenate([np.where(known_YX[..., None], values_YXC, np.float32(0)), weight_YX1], axis=2)
    total_YXD = np.zeros_like(both_YXD)
    sigma = 0.5
    while 2 * sigma <= reach:
        # Bells of doubling width: together a weight that falls with the sixth power of the distance. What is next to a
        # border is carried on almost as it is, what is further away as a mean over the more: no step anywhere.
        total_YXD += _under_a_bell(both_YXD, sigma, min(reach, math.ceil(3 * sigma))) / np.float32(sigma**4)
        sigma *= 2
    near_YXC = total_YXD[..., :-1] / np.maximum(total_YXD[..., -1:], np.float32(1e-12))
    return np.where(known_YX[..., None], values_YXC, near_YXC)


def fading(known_YX: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Return 1 where something is known, falling to 0 at ``reach`` pixels from it."""
    # Half of the pixels around one at a straight border are known, none around one that is ``reach`` away.
    share_YX = 2 * blurred(known_YX[..., None].astype(np.float32), reach, beyond=0)[..., 0]
    faded: NDArray[np.float32] = np.where(known_YX, np.float32(1), np.minimum(1, share_YX))
    return faded


def blurred(values_YXC: Values, radius: int, *, beyond: float | None = None) -> Values:
    """Return the means over squares of ``2 * radius + 1``; outside are the outermost values, or ``beyond``."""
    out = values_YXC
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0)] * out.ndim
        # One more in front: the sum over a square is the difference of two running sums.
        pad[axis] = (radius + 1, radius)
        padded = np.pad(out, pad, mode="edge") if beyond is None else np.pad(out, pad, constant_values=beyond)
        sums = np.cumsum(padded, axis=axis, dtype=np.float64)
        length = out.shape[axis]
        ahead = np.take(sums, range(size, size + length), axis=axis)
        out = ((ahead - np.take(sums, range(length), axis=axis)) / size).astype(np.float32)
    return out


def _under_a_bell(values_YXC: Values, sigma: float, reach: int) -> Values:
    """Return means under a normal distribution that is cut off at ``reach``; outside there is 0."""
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).astype(np.float32)
    out = values_YXC
    for axis in (0, 1):
        pad = [(0, 0)] * out.ndim
        pad[axis] = (reach, reach)
        padded, length = np.pad(out, pad), out.shape[axis]
        out = np.zeros_like(out)
        for place, tap in enumerate(taps):
            out += tap * np.take(padded, range(place, place + length), axis=axis)
    return out


def _quartered(values_YXC: Values) -> Values:
    """Return the sums over squares of 2 x 2; a side of odd length gets zeros."""
    height, width, channels = values_YXC.shape
    even = np.pad(values_YXC, ((0, height % 2), (0, width % 2), (0, 0)))
    out: Values = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, channels).sum(axis=(1, 3))
    return out
