"""No context: the lower bound of every pool."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from nuwa_lightning.planning.context.base import ContextPool
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex


@final
@dataclass(frozen=True)
class EmptyContextPool(ContextPool):
    """A patch sees itself alone, and is forgotten at once (ablation, ours)."""

    @property
    def embedding_extent(self) -> Extent:
        """The centre only."""
        return (0, 0, 0)

    def select(self, patch: PatchIndex, live: Collection[PatchIndex]) -> Collection[PatchIndex]:
        """Return nothing."""
        return ()

    def remove(
        self, live: Collection[PatchIndex], grid: PatchGrid, finished: Callable[[PatchIndex], bool]
    ) -> Collection[PatchIndex]:
        """Return everything."""
        return list(live)
