"""The paper's Arbitrary Direction Controller."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.direction.fit import (
    PAPER_SYMMETRIES,
    RING,
    Misfit,
    Place,
    SymmetryName,
    finished_mask,
    misfit,
    named_symmetries,
)
from nuwa_lightning.planning.direction.growth import frame_by_frame, in_order, is_prefix, known_first, layers
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, Symmetry

_Entry = tuple[Misfit, int, tuple[int, int, int], Place, int]
"""What a heap holds: misfit, finished neighbors (negative), place in the order, place, mask when it was offered."""


@final
@dataclass(frozen=True)
class ArbitraryDirectionController(DirectionController):
    """Four basic orders and their compositions (paper, section on the ADC).

    Nothing known, or known patches that one basic order extends to one side: that order, frame by frame. Else rings
    around what is known, from the inside out, each in runs of the basic orders: among the patches of a ring the next
    one is the one that the past half of some symmetry fits best, then the one with most finished neighbors, then the
    one that goes on with the run (the paper spreads around as well; its exact rule is not published).

    Args:
        order: the basic order of a canvas on which nothing is known; ``auto`` takes the one whose front is the short
            side, so that the live set stays small, or the open side where one is closed.
        symmetries: the basic orders there are.
        order_weights: how often training draws each of ``symmetries``; by default all alike.

    Raises:
        UsageError: if a symmetry is unknown, named twice or missing, or the weights do not fit.
    """

    order: Literal["auto"] | SymmetryName = "auto"
    symmetries: tuple[SymmetryName, ...] = PAPER_SYMMETRIES
    order_weights: tuple[float, ...] | None = None
    training_symmetries: tuple[tuple[float, Symmetry], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        symmetries = named_symmetries("symmetries", self.symmetries)
        if self.order != "auto" and self.order not in self.symmetries:
            raise UsageError("order", self.order, f"choose auto or one of the symmetries {', '.join(self.symmetries)}")
        weights = (1.0,) * len(symmetries) if self.order_weights is None else tuple(self.order_weights)
        if len(weights) != len(symmetries) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            hint = (
                f"give {len(symmetries)} numbers from 0 up, one for each of the symmetries {', '.join(self.symmetries)}"
            )
            raise UsageError("order_weights", self.order_weights, hint)
        object.__setattr__(self, "symmetries", tuple(self.symmetries))
        object.__setattr__(self, "order_weights", None if self.order_weights is None else weights)
        object.__setattr__(self, "training_symmetries", tuple(zip(weights, symmetries, strict=True)))

    def supports_endless(self, grid: PatchGrid) -> bool:
        """To the right in omega, downwards in zeta, forwards in time in every order."""
        return self._basic_order(grid) is not None

    def steps(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield one basic order or a composition."""
        basic = self._basic_order(grid)
        if basic is None:
            raise UsageError("order", self.order, f"it never ends its first run on {grid.shape}: choose auto")
        symmetries = [symmetry for _, symmetry in self.training_symmetries]
        for symmetry in [basic, *symmetries]:
            if symmetry.can_walk(grid) and is_prefix(symmetry, grid, known):
                return in_order(symmetry, grid, known)

        def write(finished: frozenset[Place], previous: Symmetry | None) -> Iterator[tuple[Place, Symmetry]]:
            if finished:
                return _rings(grid, finished, symmetries, previous)
            return (((patch.y, patch.x), basic) for patch in basic.walk(PatchGrid(1, grid.y, grid.x)))

        return known_first(grid, known, frame_by_frame(grid, known, write), symmetries)

    def _basic_order(self, grid: PatchGrid) -> Symmetry | None:
        """Return the order of a canvas on which nothing is known, if there is one that reaches all of ``grid``."""
        possible = [
            symmetry
            for _, symmetry in self.training_symmetries
            if self.order in ("auto", symmetry.name) and symmetry.can_walk(grid)
        ]

        def cost(symmetry: Symmetry) -> tuple[bool, int]:
            # A run along a closed axis ends beside the beginning of the next: patches could only be written singly.
            closed, front = ("x" in grid.wrap, grid.x) if symmetry.transpose else ("y" in grid.wrap, grid.y)
            return closed, front or 0

        return min(possible, key=cost, default=None)


def _rings(
    grid: PatchGrid, known: frozenset[Place], symmetries: Sequence[Symmetry], previous: Symmetry | None
) -> Iterator[tuple[Place, Symmetry]]:
    """Yield the unknown places of a frame, ring by ring around ``known``."""
    inside: frozenset[Place] | set[Place] = known
    for ring in layers(grid, known, RING):
        for place, symmetry in _one_ring(ring, inside, symmetries, previous):
            yield place, symmetry
            previous = symmetry
        inside = set(ring)


def _one_ring(
    ring: Sequence[Place],
    inside: frozenset[Place] | set[Place],
    symmetries: Sequence[Symmetry],
    previous: Symmetry | None,
) -> Iterator[tuple[Place, Symmetry]]:
    """Yield the places of one ring; ``inside`` is the finished ring within. n log n: a heap for each symmetry."""
    masks = {place: finished_mask(place, inside.__contains__) for place in ring}
    heaps: list[list[_Entry]] = [[] for _ in symmetries]

    def offer(place: Place) -> None:
        mask = masks[place]
        for symmetry, heap in zip(symmetries, heaps, strict=True):
            key = symmetry.order_key(PatchIndex(0, *place))
            heapq.heappush(heap, (misfit(symmetry, mask), -mask.bit_count(), key, place, mask))

    for place in ring:
        offer(place)
    while masks:
        best: tuple[Misfit, int, bool, int] | None = None
        for index, heap in enumerate(heaps):
            while masks.get(heap[0][3]) != heap[0][4]:  # written since, or outdated
                heapq.heappop(heap)
            fit, count = heap[0][:2]
            candidate = (fit, count, symmetries[index] != previous, index)
            best = candidate if best is None else min(best, candidate)
        assert best is not None, "there is at least one symmetry"
        previous = symmetries[best[3]]
        y, x = place = heaps[best[3]][0][3]
        del masks[place]
        yield place, previous
        for bit, (dy, dx) in enumerate(RING):
            other = (y - dy, x - dx)
            if other in masks:
                masks[other] |= 1 << bit
                offer(other)
