"""What may a patch look at? The interface of every context pool (paper, section on the Nearby Context Pool)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.context.canvas import CanvasPool
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex


class ContextPool(ABC):
    """A strategy: which finished patches a new patch may see, and which may be forgotten.

    A pool is a plain object without state: the state of one canvas lives in the :class:`CanvasPool` that
    :meth:`new_canvas` returns, so that many canvases can share one pool and one model.

    Laws (``nuwa_lightning.testing.check_context_pool`` tests them):

    1. ``select`` returns only patches of ``live``, each once, and the same ones for the same arguments.
    2. Time runs forwards: ``select`` returns no patch of a later frame.
    3. ``remove`` never names a patch that a later ``select`` of the same plan would return.
    4. If ``translation_equivariant``, moving the canvas moves the answer.
    5. If ``bounded``, the live set does not grow with the long axis of the canvas, in an order whose front is the
       short axis.
    """

    # No ClassVar: the types of a dataclass that derives from this are looked up in its own module, by the command line.
    translation_equivariant: bool = True
    bounded: bool = True

    @property
    @abstractmethod
    def embedding_extent(self) -> Extent:
        """The largest offset ``(t, y, x)`` that has an embedding of its own; larger ones are clamped to it.

        Counted in the frame of the symmetry under which the current patch is written, where y and x may be exchanged.
        """

    @abstractmethod
    def select(self, patch: PatchIndex, live: Collection[PatchIndex]) -> Collection[PatchIndex]:
        """Return the patches that ``patch`` may see, in any order.

        Args:
            patch: the patch to be written; it is not in ``live``.
            live: patches in the pool, in the order they were added; ``in`` takes constant time.
        """

    @abstractmethod
    def remove(
        self, live: Collection[PatchIndex], grid: PatchGrid, finished: Callable[[PatchIndex], bool]
    ) -> Collection[PatchIndex]:
        """Return the patches of ``live`` that no unfinished patch of ``grid`` can select any more.

        Args:
            live: patches in the pool, in the order they were added; ``in`` takes constant time.
            grid: the canvas; an axis may be endless.
            finished: says whether a patch of the grid has been added.
        """

    @final
    def new_canvas(self, grid: PatchGrid) -> CanvasPool[Any]:
        """Return the empty pool of a new canvas."""
        return CanvasPool(self, grid)


def checked_extent(option: str, extent: Extent) -> Extent:
    """Return ``extent`` as a tuple of three whole numbers."""
    values = tuple(extent) if isinstance(extent, (tuple, list)) else ()
    if len(values) != 3 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise UsageError(option, extent, "give three whole numbers from 0 up, in patches along (t, y, x)")
    return values
