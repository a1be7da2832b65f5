"""Skies that drift over photographs: made-up motion in which the land stands still.

Shape legend: Y, X pixels along the axes, 3 colours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.blending import filled
from nuwa_lightning.data.video_reading import Frame
from nuwa_lightning.data.videos import Pan, Steady, photograph, view

Field = NDArray[np.float64]

_LOOKED_AT: Final = 96
"""Rows at which the line is looked for: finer things are no skyline."""
_EDGES: Final = np.geomspace(2, 80, 40)
_LEAST, _MOST = 0.12, 0.8
_RAGGED: Final = 0.02
_REACH: Final = 7


def skyline(image_YX3: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return the first row of each column ``[X]`` that is no sky, or None where no sky can be told.

    Of all lines that follow the first edge of each column, an edge being anything steeper than some threshold, that
    one whose sky and land are the most uniform (Shen and Wang, "Sky region detection in a single image for autonomous
    ground robot navigation", 2013). Lines that jump up and down are no skylines.
    """
    float_YX3 = image_YX3.astype(np.float64)
    rows = np.arange(len(float_YX3))[:, None]
    steep_YX = np.hypot(*np.gradient(float_YX3.mean(2)))
    best, found = 0.0, None
    for edge in _EDGES:
        over_YX = steep_YX > edge
        line_X = np.where(over_YX.any(0), over_YX.argmax(0), len(rows))
        sky_YX = rows < line_X
        if not _LEAST < sky_YX.mean() < _MOST:
            continue
        uniform = 1 / (2 * _spread(float_YX3[sky_YX]) + _spread(float_YX3[~sky_YX]) + 1e-6)  # plain colours have none
        if uniform > best:
            best, found = uniform, line_X
    if found is None:
        return None
    near_XR = np.lib.stride_tricks.sliding_window_view(np.pad(found, _REACH // 2, mode="edge"), _REACH)
    line_X = np.median(near_XR, axis=1).astype(np.int64)
    ragged = np.abs(np.diff(line_X)).mean() / len(rows)
    return line_X if ragged < _RAGGED and _LEAST < line_X.mean() / len(rows) < _MOST else None


def _spread(colours_N3: Field) -> float:
    covariance_33 = np.cov(colours_N3.T)
    return float(abs(np.linalg.det(covariance_33)) + np.abs(np.linalg.eigvalsh(covariance_33)).max())


@final
class Drift(Steady):
    """A sky that drifts over land that stands still; where there is no sky, a `Pan`.

    Behind the land the sky goes on smoothly; what comes in from the side is its mirror image. The view drifts to the
    left if ``speed`` is negative.
    """

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        from PIL import Image

        photo = photograph(path)
        height = min(photo.height, photo.width * 9 / 16) * self.zoom
        room = max(0.0, photo.height - height), max(0.0, photo.width - height * 16 / 9)
        still_YX3 = view(photo, room[0] * self.start[0], room[1] * self.start[1], height, rows=height)
        rows, columns = still_YX3.shape[:2]
        small = Image.fromarray(still_YX3).resize(
            (round(columns * _LOOKED_AT / rows), _LOOKED_AT), Image.Resampling.BOX
        )
        line = skyline(np.asarray(small))
        if line is None:
            pan = Pan(self.seconds, self.fps, 0.7 * self.zoom, self.speed, self.start)  # it needs room
            yield from pan.frames(path)
            return
        line_X = np.interp(np.linspace(0, len(line) - 1, columns), np.arange(len(line)), line) * rows / _LOOKED_AT
        wide = Image.fromarray(
            np.pad(_without_land(still_YX3, line_X), ((0, 0), (columns, columns), (0, 0)), "reflect")
        )
        sky_YX1 = np.clip((line_X - np.arange(rows)[:, None]) / 3, 0, 1)[..., None]
        for number in range(max(2, round(self.seconds * self.fps))):
            left = columns + self.speed * rows * number / self.fps
            if not 0 <= left <= 2 * columns:
                return
            box = (left, 0, left + columns, rows)
            moved_YX3 = np.asarray(wide.resize((columns, rows), Image.Resampling.LANCZOS, box=box), dtype=np.float64)
            frame_YX3 = sky_YX1 * moved_YX3 + (1 - sky_YX1) * still_YX3
            yield number / self.fps, np.rint(frame_YX3).astype(np.uint8)


def _without_land(image_YX3: NDArray[np.uint8], line_X: Field) -> NDArray[np.uint8]:
    """Return an image whose sky goes on, ever more smoothly, where the land is."""
    sky_YX = np.arange(len(image_YX3))[:, None] < line_X - 4  # not what shines through the edge
    return np.rint(filled(image_YX3.astype(np.float32), sky_YX)).astype(np.uint8)
