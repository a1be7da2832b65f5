"""Plans that grow outwards from what is known, frame by frame, lazily."""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from nuwa_lightning.planning.direction.base import Step
from nuwa_lightning.planning.direction.fit import Place, best_symmetry, finished_mask
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, Symmetry

DIAMOND: tuple[Place, ...] = ((-1, 0), (0, -1), (0, 1), (1, 0))
"""The four neighbors that share a side."""

FrameWriter = Callable[[frozenset[Place], Symmetry | None], Iterator[tuple[Place, Symmetry]]]
"""Given the known places of a frame and the symmetry of the last step, yields the other places and their symmetries."""


def layers(grid: PatchGrid, sources: Collection[Place], neighbors: Sequence[Place]) -> Iterator[list[Place]]:
    """Yield the places of a frame of ``grid`` at distance 1, 2, ... from ``sources``, in raster order, lazily.

    The distance is counted in moves of ``neighbors``: Chebyshev for ``RING``, Manhattan for :data:`DIAMOND`.
    Memory: two layers and the sources.
    """
    before: frozenset[Place] | set[Place] = frozenset()
    here: frozenset[Place] | set[Place] = frozenset(sources)
    while here:
        beyond = set()
        for y, x in here:
            for dy, dx in neighbors:
                place = (y + dy, x + dx)
                if place not in here and place not in before and PatchIndex(0, *place) in grid:
                    beyond.add(place)
        if beyond:
            yield sorted(beyond)
        before, here = here, beyond


def layers_from(
    grid: PatchGrid, known: frozenset[Place], origin: Place, neighbors: Sequence[Place]
) -> Iterator[list[Place]]:
    """Yield the :func:`layers` around what is known or else ``origin`` and those around it."""
    if known:
        return layers(grid, known, neighbors)
    return itertools.chain([[origin]], layers(grid, [origin], neighbors))


def with_symmetries(
    rings: Iterable[Sequence[Place]], known: frozenset[Place], symmetries: Sequence[Symmetry], previous: Symmetry | None
) -> Iterator[tuple[Place, Symmetry]]:
    """Yield the places of ``rings`` with the symmetries that fit them best.

    Remembers two rings: no neighbor of a patch lies further in.
    """
    finished = set(known)
    remembered: deque[Collection[Place]] = deque([known])
    for ring in rings:
        for place in ring:
            previous = best_symmetry(finished_mask(place, finished.__contains__), symmetries, previous)
            yield place, previous
            finished.add(place)
        remembered.append(ring)
        if len(remembered) > 2:
            finished.difference_update(remembered.popleft())


def frame_by_frame(grid: PatchGrid, known: frozenset[PatchIndex], write: FrameWriter) -> Iterator[Step]:
    """Yield the steps of all unknown patches, the frames in turn, each as ``write`` orders it."""
    by_frame: dict[int, set[Place]] = {}
    for patch in known:
        by_frame.setdefault(patch.t, set()).add((patch.y, patch.x))
    previous: Symmetry | None = None
    for t in itertools.count() if grid.t is None else range(grid.t):
        for place, symmetry in write(frozenset(by_frame.get(t, ())), previous):
            yield Step(PatchIndex(t, *place), symmetry)
            previous = symmetry


def known_first(
    grid: PatchGrid, known: frozenset[PatchIndex], unknown: Iterator[Step], symmetries: Sequence[Symmetry]
) -> Iterator[Step]:
    """Yield the known patches, grouped by symmetry, then ``unknown``.

    A known patch takes the symmetry of the unknown patch nearest to it (Chebyshev over t, y and x; among equals the one
    written first), so that what is written beside it finds states of its own symmetry. Draws no more of ``unknown``
    than it takes to see every patch that touches a known one.
    """
    border = {patch for near in known for patch in grid.box(near, (1, 1, 1)) if patch not in known}
    drawn: list[Step] = []
    numbers: dict[PatchIndex, int] = {}
    while len(numbers) < len(border):
        drawn.append(next(unknown))
        if drawn[-1].patch in border:
            numbers[drawn[-1].patch] = len(drawn) - 1
    nearest = _nearest_first(grid, known, numbers)
    symmetry_of = {patch: drawn[nearest[patch]].symmetry if patch in nearest else symmetries[0] for patch in known}
    for symmetry in symmetries:
        for patch in sorted((patch for patch in known if symmetry_of[patch] == symmetry), key=symmetry.order_key):
            yield Step(patch, symmetry, known=True)
    yield from drawn
    yield from unknown


def _nearest_first(
    grid: PatchGrid, known: frozenset[PatchIndex], numbers: dict[PatchIndex, int]
) -> dict[PatchIndex, int]:
    """Return for each known patch the smallest number among the unknown patches nearest to it.

    Layer by layer inwards: whatever is nearest to a patch is nearest to one of its neighbors a layer further out.
    """
    found: dict[PatchIndex, int] = {}
    layer = numbers
    while layer:
        inner: dict[PatchIndex, int] = {}
        for patch, number in layer.items():
            for other in grid.box(patch, (1, 1, 1)):
                if other in known and other not in found:
                    inner[other] = min(number, inner.get(other, number))
        found.update(inner)
        layer = inner
    return found


def is_prefix(symmetry: Symmetry, grid: PatchGrid, known: Collection[PatchIndex]) -> bool:
    """Say whether the known patches of every frame come first in that frame's order under ``symmetry``."""
    counts: dict[int, int] = {}
    for patch in known:
        counts[patch.t] = counts.get(patch.t, 0) + 1
    frame = PatchGrid(1, grid.y, grid.x)
    return all(
        PatchIndex(t, place.y, place.x) in known
        for t, count in counts.items()
        for place in itertools.islice(symmetry.walk(frame), count)
    )


def in_order(symmetry: Symmetry, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
    """Yield every patch in the order of ``symmetry``, the known ones in their place: only where they are a prefix."""
    return (Step(patch, symmetry, patch in known) for patch in symmetry.walk(grid))
