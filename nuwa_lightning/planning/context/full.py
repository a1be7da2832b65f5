"""Everything finished is context: the upper bound of every pool."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex


@final
@dataclass(frozen=True)
class FullContextPool(ContextPool):
    """A patch sees every finished patch of its own and of earlier frames; nothing is forgotten (ablation, ours).

    Memory and time grow with the canvas: for small canvases only.

    Args:
        embedding_extent: offsets ``(t, y, x)`` beyond it share the embedding of the nearest one inside.

    Raises:
        UsageError: if ``embedding_extent`` is not three whole numbers from 0 up.
    """

    embedding_extent: Extent = (0, 3, 3)
    bounded = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding_extent", checked_extent("embedding_extent", self.embedding_extent))

    def select(self, patch: PatchIndex, live: Collection[PatchIndex]) -> Collection[PatchIndex]:
        """Return every live patch that is not of a later frame."""
        return [other for other in live if other.t <= patch.t]

    def remove(
        self, live: Collection[PatchIndex], grid: PatchGrid, finished: Callable[[PatchIndex], bool]
    ) -> Collection[PatchIndex]:
        """Return nothing."""
        return ()
