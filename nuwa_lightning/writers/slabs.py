"""Where the tiles of a pyramid lie in a file when nobody knows yet how long the canvas will be (ours).

The canvas is cut across its long axis into slabs, one tile thick. The file holds slab after slab; a slab of a smaller
level, which covers two, four, eight of the canvas, comes right before the first of them. A smaller level only begins
where the canvas has become so long that it needs one. So the place of each tile follows from its number alone: nothing
about places has to be stored, and a canvas that goes on appends to the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class SlabLayout:
    """Numbers the tiles of all levels in the order in which they lie in the file.

    Attributes:
        breadth: pixels across the slabs.
        tile: side of a tile in pixels.
        levels: most levels that there can be.
    """

    breadth: int
    tile: int
    levels: int

    def thickness(self, level: int) -> int:
        """Return how many tiles a slab of that level has."""
        size: int = self.tile * 2**level
        return -(-self.breadth // size)

    def slot(self, level: int, slab: int, place: int) -> int:
        """Return the number of a tile.

        Args:
            level: 0 is the canvas.
            slab: which slab of that level.
            place: which tile of that slab.
        """
        return int(self.slots(level, np.array([slab]))[0]) + place

    def slots(self, level: int, slab_S: Slots) -> Slots:
        """Return the numbers of the first tiles of slabs."""
        begin_S = np.where(slab_S == 0, self._start(level), slab_S * 2**level)
        first_S = np.zeros_like(begin_S)
        for other in range(self.levels):
            whole_S = self._begun(other, begin_S)
            # Of levels that begin a slab at the same place the smaller number comes first.
            if other < level:
                whole_S = whole_S + self._begins(other, begin_S)
            first_S += whole_S * self.thickness(other)
        return first_S

    def total(self, slabs: int) -> int:
        """Return how many tiles the file holds for a canvas of so many slabs."""
        end_S = np.array([slabs])
        return sum(int(self._begun(level, end_S)[0]) * self.thickness(level) for level in range(self.levels))

    def _start(self, level: int) -> int:
        """Return at which slab of the canvas a level begins: 0 if the breadth alone calls for it."""
        half: int = 2**level // 2
        return 0 if level == 0 or self.breadth > self.tile * half else half

    def _begun(self, level: int, slab_S: Slots) -> Slots:
        """Return how many slabs of a level come before slabs of the canvas."""
        return np.where(slab_S > self._start(level), -(-slab_S // 2**level), 0)

    def _begins(self, level: int, slab_S: Slots) -> Slots:
        """Return 1 where a slab of a level lies right before a slab of the canvas."""
        start = self._start(level)
        return np.where((slab_S == start) | ((slab_S > start) & (slab_S % 2**level == 0)), 1, 0)
