"""The joint of closed canvases: both sides of a seam are faded into each other's mirror images (ours). NumPy only.

The last patches see the first ones, but two ends that were written far apart need not fit: one would see a line.

Shape legend: Y/X rows and columns, L lines across a seam, N places along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.canvas.decoding import Pixels


@final
@dataclass(frozen=True)
class JointBlend:
    """Lets both ends of a closed axis run into each other; a ``Finish``.

    Next to the seam a pixel is the mean of itself and of its mirror image on the other side, so that there is no step;
    with the distance the mirror image fades out.
    """

    size: tuple[int | None, int | None]
    wrap: str
    reach: int
    downsample_factor: int

    @property
    def margin(self) -> int:
        """How many tokens around what is to be finished :meth:`finish` has to see."""
        # A mirror image lies up to twice as far away.
        return -(-2 * self.reach // self.downsample_factor)

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
        for seam in range(-(-start // period) * period - start, length + 1, period):
            for distance in range(min(reach, seam, length - seam)):
                weight = np.float32(0.25 * (1 + math.cos(math.pi * distance / reach)))
                before, after = pixels_NL3[seam - 1 - distance].copy(), pixels_NL3[seam + distance].copy()
                pixels_NL3[seam - 1 - distance] += weight * (after - before)
                pixels_NL3[seam + distance] += weight * (before - after)
        return np.moveaxis(pixels_NL3, 0, axis)
