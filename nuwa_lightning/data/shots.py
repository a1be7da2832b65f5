"""Where a video cuts from one shot to another (ours).

A cut changes the image at once and in its colours; motion changes it over several frames, and a flash or a shaking
camera moves pixels about but keeps the colours. So three things are asked of a cut: the change is large, it is several
times as large as the changes around it, and the histogram of colours changes, too.

FFmpeg's scene score, to be had through PyAV, compares with the change just before only: the first move of a shaking
hand is a cut to it (docs/captions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nuwa_lightning.data.video_reading import Frame

_SIDE: Final = 32
_BINS: Final = 16
_AROUND: Final = 6
_LEAST_CHANGE: Final = 12.0
"""Mean difference of pixels, of 255."""
_TIMES_AROUND: Final = 3.0
_LEAST_COLOUR: Final = 0.2
"""Share of the histogram that moves."""


class Thumbnail(NamedTuple):
    """What is kept of a frame to compare it with the next one."""

    pixels: npt.NDArray[np.float32]
    histogram: npt.NDArray[np.float32]


class Change(NamedTuple):
    """How far a frame is from the one before it."""

    pixels: float
    colours: float


def thumbnail(frame_YX3: Frame) -> Thumbnail:
    """Return the means of 32x32 fields (of a small frame the nearest pixels), and how often colours occur."""
    height, width = frame_YX3.shape[:2]
    rows, columns = (np.linspace(0, side, _SIDE + 1).astype(int)[:-1] for side in (height, width))
    if min(height, width) >= _SIDE:
        # A few rows of each field are enough, and much faster than all.
        thin_YX3 = frame_YX3[np.unique(np.linspace(0, height - 1, 4 * _SIDE).astype(int))].astype(np.float32)
        fields = np.linspace(0, len(thin_YX3), _SIDE + 1).astype(int)[:-1]
        sums = np.add.reduceat(np.add.reduceat(thin_YX3, fields, axis=0), columns, axis=1)
        heights = np.diff([*fields, len(thin_YX3)])[:, None, None]
        small = sums / (heights * np.diff([*columns, width])[None, :, None])
    else:
        small = frame_YX3[rows][:, columns].astype(np.float32)
    counts = [np.bincount((small[..., c].astype(int) * _BINS // 256).ravel(), minlength=_BINS) for c in range(3)]
    histogram = np.concatenate(counts).astype(np.float32) / np.float32(3 * _SIDE**2)
    return Thumbnail(small.astype(np.float32), histogram)


def change(before: Thumbnail, after: Thumbnail) -> Change:
    """Return how far two frames are apart."""
    pixels = float(np.abs(after.pixels - before.pixels).mean())
    return Change(pixels, float(np.abs(after.histogram - before.histogram).sum() / 2))


def find_cuts(changes: Sequence[Change]) -> list[int]:
    """Return the frames that begin a new shot, given how each but the first differs from the one before it."""
    pixels = np.array([c.pixels for c in changes])
    cuts = []
    for place, found in enumerate(changes):
        if found.pixels < _LEAST_CHANGE or found.colours < _LEAST_COLOUR:
            continue
        around = np.concatenate([pixels[max(0, place - _AROUND) : place], pixels[place + 1 : place + 1 + _AROUND]])
        usual = float(np.median(around)) if len(around) else 0.0
        if found.pixels >= _TIMES_AROUND * (usual + 1):
            cuts.append(place + 1)
    return cuts
