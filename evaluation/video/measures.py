"""How a clip moves and flickers, in float64 (ours).

Shape legend: T frames, Y/X rows and columns.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.video.clips import Clip


@dataclass(frozen=True)
class Motion:
    """Statistics of the motion between neighboring frames.

    Attributes:
        speed: mean displacement of the blocks, pixels a frame.
        moving: share of blocks that move by half a pixel or more.
        coherence: length of the mean displacement over the mean length: 1 for a pan, near 0 for a boil.
        acceleration: mean change of the mean displacement from frame to frame, pixels a frame squared.
    """

    speed: float
    moving: float
    coherence: float
    acceleration: float


def frame_difference(clip_TYX3: Clip) -> float:
    """Return the mean absolute difference of neighboring frames, on 0..255; motion and flicker both raise it."""
    return float(np.mean([np.abs(np.diff(pair.astype(np.int16), axis=0)).mean() for pair in _runs(clip_TYX3, 2)]))


def flicker(clip_TYX3: Clip) -> float:
    """Return half the mean absolute second difference over time, on 0..255.

    What grows evenly (a fade, a shadow that moves over a smooth surface) leaves no second difference; what goes up and
    down from frame to frame leaves all of it: an image that alternates by d flickers by d, noise of spread s by about
    0.98 s.

    Raises:
        ValueError: for fewer than three frames.
    """
    if len(clip_TYX3) < 3:
        raise ValueError(f"a clip of {len(clip_TYX3)} frames has no second difference: three are needed")
    found = [np.abs(np.diff(three.astype(np.int16), n=2, axis=0)).mean() for three in _runs(clip_TYX3, 3)]
    return float(np.mean(found)) / 2


def motion(clip_TYX3: Clip, *, block: int = 32) -> Motion:
    """Return statistics of the displacements of blocks, by phase correlation of their luminance.

    Args:
        clip_TYX3: the clip.
        block: side of a block in pixels; smaller images are one block. Motion up to a quarter of it is found.
    """
    light = [(frame.astype(np.float64) @ np.array([0.299, 0.587, 0.114])) for frame in clip_TYX3]
    fields = np.stack([displacements(a, b, block=block) for a, b in itertools.pairwise(light)])
    lengths = np.linalg.norm(fields, axis=-1)
    means = fields.mean(1)
    speed = float(lengths.mean())
    return Motion(
        speed=speed,
        moving=float((lengths >= 0.5).mean()),
        coherence=float(np.linalg.norm(means, axis=-1).mean() / speed) if speed else 0.0,
        acceleration=float(np.linalg.norm(np.diff(means, axis=0), axis=-1).mean()) if len(means) > 1 else 0.0,
    )


def displacements(a_YX: NDArray[np.float64], b_YX: NDArray[np.float64], *, block: int) -> NDArray[np.float64]:
    """Return by how much (rows, columns) each block of ``a`` has moved in ``b``, ``[blocks, 2]``, whole pixels.

    A flat block has no motion that could be seen: (0, 0).
    """
    height, width = a_YX.shape
    side_y, side_x = min(block, height), min(block, width)
    window = np.outer(np.hanning(side_y + 2)[1:-1], np.hanning(side_x + 2)[1:-1])
    found = []
    for y in range(0, height - side_y + 1, side_y):
        for x in range(0, width - side_x + 1, side_x):
            here = np.s_[y : y + side_y, x : x + side_x]
            found.append(_shift(a_YX[here], b_YX[here], window))
    return np.array(found, np.float64)


def _shift(a_YX: NDArray[np.float64], b_YX: NDArray[np.float64], window: NDArray[np.float64]) -> tuple[float, float]:
    if a_YX.std() < 1.0 or b_YX.std() < 1.0:
        return 0.0, 0.0
    a, b = (np.fft.rfft2((z - z.mean()) * window) for z in (a_YX, b_YX))
    cross = np.conj(a) * b
    correlation = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=a_YX.shape)
    best = np.unravel_index(int(correlation.argmax()), correlation.shape)
    dy, dx = (int(at) - size if at > size // 2 else int(at) for at, size in zip(best, a_YX.shape, strict=True))
    # Beyond a quarter of the block chance wins.
    if abs(dy) > a_YX.shape[0] // 4 or abs(dx) > a_YX.shape[1] // 4:
        return 0.0, 0.0
    return float(dy), float(dx)


def _runs(clip_TYX3: Clip, length: int) -> list[Clip]:
    return [clip_TYX3[i : i + length] for i in range(len(clip_TYX3) - length + 1)]
