"""The joint of closed canvases: what differs across a seam is faded out on both sides of it (ours). NumPy only.

The last patches see the first ones, but two ends that were written far apart need not fit: one would see a line.

Shape legend: Y/X rows and columns, L lines across a seam, N places along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.generation.filling import blurred
from nuwa_lightning.generation.streaming import Pixels

_NEAR = 4
"""Pixels on each side of a seam whose mean says what is there: fewer would take single grains for a step."""
_ALONG = 2
"""Steps are smoothed over so many pixels to both sides along the seam, so that they leave no streaks."""


@final
@dataclass(frozen=True)
class JointBlend:
    """Lets both ends of a closed axis run into each other; a ``Finish`` of the streaming decoder.

    Args:
        size: height and width of the canvas in pixels.
        wrap: closed axes, ``x``, ``y`` or ``xy``.
        reach: over how many pixels on each side the difference fades out; at most a quarter of the canvas.
        factor: pixels a token.
    """

    size: tuple[int | None, int | None]
    wrap: str
    reach: int
    factor: int

    @property
    def margin(self) -> int:
        """How many tokens around what is to be finished :meth:`finish` has to see."""
        return -(-(self.reach + _NEAR + _ALONG) // self.factor)

    def finish(self, pixels_YX3: Pixels, *, y: int, x: int) -> Pixels:
        """Return pixels that begin at ``(y, x)``, beyond a seam if need be, without a step across the seams."""
        out_YX3 = pixels_YX3.astype(np.float32)
        for axis, name, start in ((1, "x", x), (0, "y", y)):
            period = self.size[axis]
            if name in self.wrap and period is not None:
                out_YX3 = self._along(out_YX3, axis, start, period)
        return np.rint(out_YX3).clip(0, 255).astype(np.uint8)

    def _along(self, pixels_YX3: NDArray[np.float32], axis: int, start: int, period: int) -> NDArray[np.float32]:
        pixels_NL3 = np.moveaxis(pixels_YX3, axis, 0).copy()
        reach, length = min(self.reach, period // 4), len(pixels_NL3)
        near = min(_NEAR, reach)
        if not near:
            return pixels_YX3
        for seam in range(-(-start // period) * period - start, length + 1, period):
            if seam < near or seam > length - near:
                continue  # too far outside for what counts to be within its reach
            before, after = pixels_NL3[seam - near : seam], pixels_NL3[seam : seam + near]
            step_1L3 = blurred((after.mean(axis=0) - before.mean(axis=0))[None], _ALONG)
            for side, sign in ((-1, 0.5), (1, -0.5)):
                for distance in range(reach):
                    place = seam + distance if side > 0 else seam - 1 - distance
                    if 0 <= place < length:
                        fade = 0.5 * (1 + math.cos(math.pi * (distance + 0.5) / reach))
                        pixels_NL3[place] += np.float32(sign * fade) * step_1L3[0]
        return np.moveaxis(pixels_NL3, 0, axis)
