"""What may a patch look at? The interface of every pool (paper, section on NCP), and the pool of one canvas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, Final, Generic, TypeVar, final

from nuwa_lightning.errors import LawError, UsageError, shown
from nuwa_lightning.planning.geometry import Extent, PatchGrid, PatchIndex, PatchSet


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
    6. An offset that is selected lies within ``embedding_extent`` in every order, or in none: y and x are alike.
    """

    # No ClassVar: the types of a dataclass that derives from this are looked up in its own module, by the command line.
    translation_equivariant: bool = True
    bounded: bool = True

    @property
    @abstractmethod
    def embedding_extent(self) -> Extent:
        """The largest offset ``(t, y, x)`` that has an embedding of its own; larger ones are clamped to it.

        Counted in the frame of the symmetry under which the current patch is written, where y and x are exchanged in
        half of the orders: give both alike. Where t is above 0 the model reads tokens of earlier frames, too.
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
            finished: says whether a patch has been added; yes for one outside of the grid, which nobody waits for.
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


Payload = TypeVar("Payload")
_CHECK: Final = "check_context_pool"
_PLAN: Final = "check_direction_controller"


@final
class CanvasPool(Generic[Payload]):
    """Select, Add and Remove of the paper on one canvas; the payload of a patch may be anything.

    Time and memory depend on the live set, never on the canvas. The law of the strategy is checked on every call.

    A strategy need not know that an axis may be closed: it is asked about the unrolled canvas, where the patches beyond
    the seam lie beside it.
    """

    def __init__(self, pool: ContextPool, grid: PatchGrid) -> None:
        self.pool = pool
        self.grid = grid
        self._live: dict[PatchIndex, tuple[int, Payload]] = {}
        self._finished = PatchSet(grid)
        self._added = 0
        self._unrolled = grid.unrolled()

    @property
    def live(self) -> list[PatchIndex]:
        """The patches in the pool, in the order they were added."""
        return list(self._live)

    def __len__(self) -> int:
        return len(self._live)

    def finished(self, patch: PatchIndex) -> bool:
        """Say whether ``patch`` has been added, be it still alive or not, or will never be: it is outside the grid."""
        return patch in self._finished or patch not in self.grid

    def select(self, patch: PatchIndex) -> list[tuple[PatchIndex, Payload]]:
        """Return what ``patch`` may see, in the order it was added.

        Raises:
            LawError: if the strategy names a patch that is not alive, a patch twice, or a later frame.
        """
        chosen = self._select(patch)
        if len(set(chosen)) != len(chosen):
            raise self._fault(patch, "select returns each patch once")
        for other in chosen:
            if other not in self._live:
                raise self._fault(patch, f"select returns only patches that are alive, and {tuple(other)} is not")
            if other.t > patch.t:
                raise self._fault(patch, f"select returns no patch of a later frame, and {tuple(other)} is one")
        chosen.sort(key=lambda other: self._live[other][0])
        return [(other, self._live[other][1]) for other in chosen]

    def add(self, patch: PatchIndex, payload: Payload) -> None:
        """Put a finished patch into the pool.

        Raises:
            LawError: if the patch lies outside the grid or has been added before.
        """
        if patch not in self.grid:
            raise LawError("direction", tuple(patch), f"a plan stays inside its grid {self.grid.shape}", _PLAN)
        if patch in self._finished:
            raise LawError("direction", tuple(patch), "a plan names each patch once", _PLAN)
        self._live[patch] = (self._added, payload)
        self._added += 1
        self._finished.add(patch)

    def remove(self) -> list[PatchIndex]:
        """Drop what no patch to come can select, and return it in the order it was added.

        Raises:
            LawError: if the strategy names a patch that is not alive.
        """
        gone = set(self._remove())
        for patch in gone:
            if patch not in self._live:
                raise self._fault(patch, "remove returns only patches that are alive")
        dropped = sorted(gone, key=lambda patch: self._live[patch][0])
        for patch in dropped:
            del self._live[patch]
        return dropped

    def _select(self, patch: PatchIndex) -> list[PatchIndex]:
        if not self.grid.wrap:
            return self._asked("select", patch, lambda: self.pool.select(patch, self._live.keys()))
        middle = patch.shifted(self.grid.periods)
        images = {middle.shifted(self.grid.offset(other, patch)): other for other in self._live}
        # What is not alive stays as it is, for the message.
        chosen = self._asked("select", patch, lambda: self.pool.select(middle, images.keys()))
        return [images.get(other, other) for other in chosen]

    def _remove(self) -> list[PatchIndex]:
        newest = next(reversed(self._live), PatchIndex(0, 0, 0))
        if not self.grid.wrap:
            live = self._live.keys()
            return self._asked("remove", newest, lambda: self.pool.remove(live, self.grid, self.finished))
        images = {patch.shifted(self.grid.periods): patch for patch in self._live}
        gone = self._asked(
            "remove",
            newest,
            lambda: self.pool.remove(images.keys(), self._unrolled, lambda patch: self.finished(self.grid.home(patch))),
        )
        return [images.get(patch, patch) for patch in gone]

    def _asked(self, method: str, patch: PatchIndex, ask: Callable[[], Collection[PatchIndex]]) -> list[PatchIndex]:
        """Return the strategy's answer; one that is none, or an exception, is a fault of the class as well."""
        try:
            chosen = list(ask())
        except UsageError:
            raise
        except Exception as error:
            law = f"{method} returns patches, and this is an error: {type(error).__name__}: {error}"
            raise self._fault(patch, law) from error
        for other in chosen:
            if not isinstance(other, PatchIndex):
                raise self._fault(patch, f"{method} returns patches (PatchIndex), and {other!r} is none")
        return chosen

    def _fault(self, patch: PatchIndex, law: str) -> LawError:
        where = f"{shown(self.pool)} at patch {tuple(patch)}"
        return LawError("context_pool", where, f"breaks its law: {law}", _CHECK)
