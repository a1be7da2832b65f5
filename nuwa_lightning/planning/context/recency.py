"""The last patches of the order are context, wherever they lie."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex


@final
@dataclass(frozen=True)
class RecencyContextPool(ContextPool):
    """A patch sees the last patches that were written, whatever their place: a sliding window (ablation, ours).

    Args:
        length: how many patches the window holds; those of later frames in it are not seen.
        embedding_extent: offsets ``(t, y, x)`` beyond it share the embedding of the nearest one inside.

    Raises:
        UsageError: if ``length`` is below 1 or ``embedding_extent`` is not three whole numbers from 0 up.
    """

    length: int = 12
    embedding_extent: Extent = (0, 3, 3)

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or isinstance(self.length, bool) or self.length < 1:
            raise UsageError("length", self.length, "give a whole number of patches from 1 up")
        object.__setattr__(self, "embedding_extent", checked_extent("embedding_extent", self.embedding_extent))

    def select(self, patch: PatchIndex, live: Collection[PatchIndex]) -> Collection[PatchIndex]:
        """Return the window."""
        return [other for other in list(live)[-self.length :] if other.t <= patch.t]

    def remove(
        self, live: Collection[PatchIndex], grid: PatchGrid, finished: Callable[[PatchIndex], bool]
    ) -> Collection[PatchIndex]:
        """Return what has left the window."""
        return list(live)[: -self.length]
