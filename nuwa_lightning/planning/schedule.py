"""Plan and pool give context table, dependency levels and waves; lazily, so that an axis may be endless.

Everything here is numbers of steps; no payload, no torch. A step's number is its position in the plan, known ones
included.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.context.base import CanvasPool, ContextPool
from nuwa_lightning.planning.direction.base import Step
from nuwa_lightning.planning.geometry import OMEGA, Extent, PatchGrid, PatchIndex, PatchOffset, Symmetry

TokenOrder = Literal["mirrored", "raster"]
"""Tokens inside a patch in the direction of travel (ours), or row by row in every order (the paper's way)."""


class PlannedStep(NamedTuple):
    """One step of a plan together with what its context pool gives it.

    Attributes:
        number: position in the plan, from 0.
        step: patch, symmetry and whether it is known.
        frame: the symmetry under which tokens and offsets of this step are read; the identity for token order raster.
        context: numbers of the steps it sees, ascending.
        places: for each of them its patch minus this patch on the canvas, the short way round on a closed axis.
        offsets: the same in ``frame``, clamped to the pool's embedding extent.
        relative_symmetries: for each of them the symmetry from its frame to this one (``Symmetry.relative_to``); 0 is
            the same.
        level: 0 without context, else one more than the highest level in the context.
        dropped: numbers of the steps that no later step sees, known once this step is finished; ascending.
    """

    number: int
    step: Step
    frame: Symmetry
    context: tuple[int, ...]
    places: tuple[PatchOffset, ...]
    offsets: tuple[PatchOffset, ...]
    relative_symmetries: tuple[int, ...]
    level: int
    dropped: tuple[int, ...]

    @property
    def patch(self) -> PatchIndex:
        """The place of the patch."""
        return self.step.patch


class _Done(NamedTuple):
    number: int
    frame: Symmetry
    level: int


def walk(
    plan: Iterable[Step], pool: ContextPool, grid: PatchGrid, *, token_order: TokenOrder = "mirrored"
) -> Iterator[PlannedStep]:
    """Replay Select, Add and Remove over ``plan`` with numbers as payload, lazily.

    Args:
        plan: steps from ``DirectionController.plan``; may be endless.
        pool: the strategy.
        grid: the canvas of the plan.
        token_order: ``mirrored`` reads each patch in the frame of its symmetry, ``raster`` all in the canvas' own.

    Raises:
        UsageError: for another token order.
        LawError: while steps are drawn, when the pool or the plan breaks a law.
    """
    if token_order not in ("mirrored", "raster"):
        raise UsageError("token_order", token_order, "choose mirrored or raster")
    return _replay(plan, pool, grid, mirrored=token_order == "mirrored")


def _replay(plan: Iterable[Step], pool: ContextPool, grid: PatchGrid, *, mirrored: bool) -> Iterator[PlannedStep]:
    canvas: CanvasPool[_Done] = pool.new_canvas(grid)
    extent = pool.embedding_extent
    number_of: dict[PatchIndex, int] = {}
    for number, step in enumerate(plan):
        frame = step.symmetry if mirrored else OMEGA
        seen = canvas.select(step.patch)
        level = 1 + max((done.level for _, done in seen), default=-1)
        canvas.add(step.patch, _Done(number, frame, level))
        number_of[step.patch] = number
        dropped = tuple(number_of.pop(patch) for patch in canvas.remove())
        places = tuple(grid.offset(patch, step.patch) for patch, _ in seen)
        yield PlannedStep(
            number=number,
            step=step,
            frame=frame,
            context=tuple(done.number for _, done in seen),
            places=places,
            offsets=tuple(framed_offset(place, frame, extent) for place in places),
            relative_symmetries=tuple(done.frame.relative_to(frame) for _, done in seen),
            level=level,
            dropped=dropped,
        )


@functools.lru_cache(maxsize=4096)
def framed_offset(offset: PatchOffset, frame: Symmetry, extent: Extent) -> PatchOffset:
    """Return ``offset`` as seen in ``frame``, clamped to ``extent``."""
    return frame.offset(offset).clamped(extent)


@final
@dataclass(frozen=True)
class ContextTable:
    """A finite plan, walked to its end: what the training mask is made of.

    Attributes:
        steps: the planned steps; a step's number is its index.
        peak_live: the largest number of patches alive at once, the one just finished included.
    """

    steps: tuple[PlannedStep, ...]
    peak_live: int

    @classmethod
    def from_walk(cls, walked: Iterable[PlannedStep]) -> ContextTable:
        """Return the table of a walk, from its first step to its end."""
        steps = []
        live = peak = 0
        for planned in walked:
            steps.append(planned)
            peak = max(peak, live + 1)
            live += 1 - len(planned.dropped)
        return cls(tuple(steps), peak)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def max_context(self) -> int:
        """The largest number of context patches of a step."""
        return max((len(planned.context) for planned in self.steps), default=0)

    def groups(self) -> dict[int, tuple[int, ...]]:
        """Return the numbers of the steps by how many context patches they have, few first."""
        by_count: dict[int, list[int]] = {}
        for planned in self.steps:
            by_count.setdefault(len(planned.context), []).append(planned.number)
        return {count: tuple(by_count[count]) for count in sorted(by_count)}

    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Return the numbers of the steps by dependency level: those of one level do not see one another."""
        depth = 1 + max((planned.level for planned in self.steps), default=-1)
        levels: list[list[int]] = [[] for _ in range(depth)]
        for planned in self.steps:
            levels[planned.level].append(planned.number)
        return tuple(map(tuple, levels))


class Wave(NamedTuple):
    """Steps that can be decoded as one batch.

    Attributes:
        steps: independent of one another, in plan order; every step they see was in an earlier wave.
        freed: numbers of the steps whose payload nobody needs once this wave is finished; ascending.
    """

    steps: tuple[PlannedStep, ...]
    freed: tuple[int, ...]


def waves(walked: Iterable[PlannedStep], *, max_width: int = 64, lookahead: int = 1024) -> Iterator[Wave]:
    """Return the steps of a walk in batches, lazily: each as soon as its context is finished, earlier steps first.

    Without limits this is the schedule of the dependency levels, the shortest there is. The walk may be endless.

    Args:
        walked: planned steps from the first one on.
        max_width: most steps in a wave.
        lookahead: how many steps of the plan, from the oldest unfinished one on, may be under way. For the shortest
            schedule it must reach from the oldest to the newest that can run side by side: for omega with spatial
            extent e on a canvas of H rows about H * H / (e + 1). Finished out of turn, that many payloads at most are
            alive on top of the plan's own live set.

    Raises:
        UsageError: if a limit is below 1.
    """
    for option, value in (("max_width", max_width), ("lookahead", lookahead)):
        if value < 1:
            raise UsageError(option, value, "give a whole number of patches from 1 up")
    return _schedule(walked, max_width, lookahead)


def _schedule(walked: Iterable[PlannedStep], max_width: int, lookahead: int) -> Iterator[Wave]:
    source = iter(walked)
    window = _Window()
    exhausted = False
    while True:
        while not exhausted and window.span < lookahead and len(window.ready) < max_width:
            planned = next(source, None)
            if planned is None:
                exhausted = True
            else:
                window.put(planned)
        if not window.ready:
            return
        steps = tuple(window.waiting[heapq.heappop(window.ready)] for _ in range(min(max_width, len(window.ready))))
        yield Wave(steps, window.finish(steps))


class _Window:
    """Steps that are walked and not finished, and who still needs the finished ones."""

    def __init__(self) -> None:
        self.waiting: dict[int, PlannedStep] = {}
        self.ready: list[int] = []
        self._missing: dict[int, int] = {}  # how many unfinished steps a waiting step sees
        self._blocked: dict[int, list[int]] = {}  # waiting steps that see this unfinished step
        self._users: dict[int, int] = {}  # how many waiting steps see this step, for every step not yet freed
        self._dropped: set[int] = set()  # steps not yet freed that no step to be walked sees
        self._freed: list[int] = []
        self._oldest = 0  # no step before this one waits
        self._next = 0

    @property
    def span(self) -> int:
        """How many steps of the plan lie between the oldest that waits and the end of what is walked."""
        while self._oldest < self._next and self._oldest not in self.waiting:
            self._oldest += 1
        return self._next - self._oldest

    def put(self, planned: PlannedStep) -> None:
        """Take in the next step of the walk."""
        number = planned.number
        self._next = number + 1
        self.waiting[number] = planned
        self._users[number] = self._missing[number] = 0
        self._blocked[number] = []
        for other in planned.context:
            if other not in self._users:
                raise UsageError("walk", f"step {number}", f"it sees step {other}, which was not walked before it")
            self._users[other] += 1
            if other in self.waiting:
                self._missing[number] += 1
                self._blocked[other].append(number)
        if not self._missing[number]:
            heapq.heappush(self.ready, number)
        for other in planned.dropped:
            self._dropped.add(other)
            self._free_if_unneeded(other)

    def finish(self, steps: Sequence[PlannedStep]) -> tuple[int, ...]:
        """Note that ``steps`` are finished; return whose payload nobody needs any more."""
        for planned in steps:
            del self.waiting[planned.number], self._missing[planned.number]
            for other in planned.context:
                self._users[other] -= 1
            for user in self._blocked.pop(planned.number):
                self._missing[user] -= 1
                if not self._missing[user]:
                    heapq.heappush(self.ready, user)
        for number in {other for planned in steps for other in (planned.number, *planned.context)}:
            self._free_if_unneeded(number)
        freed, self._freed = tuple(sorted(self._freed)), []
        return freed

    def _free_if_unneeded(self, number: int) -> None:
        if number in self._dropped and number not in self.waiting and not self._users[number]:
            self._dropped.remove(number)
            del self._users[number]
            self._freed.append(number)
