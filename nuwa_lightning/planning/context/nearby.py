"""The paper's Nearby Context Pool."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex


@final
@dataclass(frozen=True)
class NearbyContextPool(ContextPool):
    """A patch sees the finished patches in a box around it, in its own and in earlier frames (paper, section on NCP).

    A patch is forgotten as soon as every patch whose box holds it is finished: the same as the paper's "last user of
    each patch", but without knowing the plan.

    Args:
        extent: half sides of the box ``(t, y, x)`` in patches; t reaches backwards only.

    Raises:
        UsageError: if ``extent`` is not three whole numbers from 0 up.
    """

    extent: Extent = (0, 2, 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "extent", checked_extent("extent", self.extent))

    @property
    def embedding_extent(self) -> Extent:
        """The extent, made square in space: a transposed symmetry exchanges y and x."""
        t, y, x = self.extent
        return (t, max(y, x), max(y, x))

    def select(self, patch: PatchIndex, live: Collection[PatchIndex]) -> Collection[PatchIndex]:
        """Return the live patches in the box."""
        t, y, x = self.extent
        if (t + 1) * (2 * y + 1) * (2 * x + 1) < len(live):
            box = (
                PatchIndex(a, b, c)
                for a in range(patch.t - t, patch.t + 1)
                for b in range(patch.y - y, patch.y + y + 1)
                for c in range(patch.x - x, patch.x + x + 1)
            )
            return [other for other in box if other in live]
        return [
            other
            for other in live
            if 0 <= patch.t - other.t <= t and abs(other.y - patch.y) <= y and abs(other.x - patch.x) <= x
        ]

    def remove(
        self, live: Collection[PatchIndex], grid: PatchGrid, finished: Callable[[PatchIndex], bool]
    ) -> Collection[PatchIndex]:
        """Return the live patches whose every possible user is finished."""
        return [patch for patch in live if not self._needed(patch, grid, finished)]

    def _needed(self, patch: PatchIndex, grid: PatchGrid, finished: Callable[[PatchIndex], bool]) -> bool:
        """Say whether an unfinished patch may see ``patch``.

        Corners first: in most orders one of them is unfinished and settles it, and this runs for every live patch.
        """
        (t_extent, y_extent, x_extent), (t, y, x) = self.extent, patch
        t_high = t + t_extent if grid.t is None else min(t + t_extent, grid.t - 1)
        y_high = y + y_extent if grid.y is None else min(y + y_extent, grid.y - 1)
        x_high = x + x_extent if grid.x is None else min(x + x_extent, grid.x - 1)
        y_low, x_low = max(0, y - y_extent), max(0, x - x_extent)
        if not (
            finished(PatchIndex(t_high, y_high, x_high))
            and finished(PatchIndex(t_high, y_high, x_low))
            and finished(PatchIndex(t_high, y_low, x_high))
        ):
            return True
        return not all(
            finished(PatchIndex(a, b, c))
            for a in range(t_high, t - 1, -1)
            for b in range(y_low, y_high + 1)
            for c in range(x_low, x_high + 1)
        )
