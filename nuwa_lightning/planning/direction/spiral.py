"""Round and round."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.direction.fit import PAPER_SYMMETRIES, RING, Place, SymmetryName, named_symmetries
from nuwa_lightning.planning.direction.growth import frame_by_frame, known_first, layers_from, with_symmetries
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, Symmetry


@final
@dataclass(frozen=True)
class SpiralDirectionController(DirectionController):
    """Rings around the centre of the canvas or around what is known, each clockwise from the right (ablation, ours).

    Args:
        symmetries: each patch takes the symmetry whose past half holds the most finished neighbors.

    Raises:
        UsageError: if a symmetry is unknown, named twice or missing.
    """

    symmetries: tuple[SymmetryName, ...] = PAPER_SYMMETRIES

    def __post_init__(self) -> None:
        named_symmetries("symmetries", self.symmetries)
        object.__setattr__(self, "symmetries", tuple(self.symmetries))

    def supports_endless(self, grid: PatchGrid) -> bool:
        """No: a canvas without an end has no centre."""
        return False

    def steps(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield the known patches, then ring after ring in each frame."""
        symmetries = named_symmetries("symmetries", self.symmetries)
        centre = (((grid.y or 1) - 1) // 2, ((grid.x or 1) - 1) // 2)

        def write(finished: frozenset[Place], previous: Symmetry | None) -> Iterator[tuple[Place, Symmetry]]:
            rings = _clockwise(layers_from(grid, finished, centre, RING), finished)
            return with_symmetries(rings, finished, symmetries, previous)

        return known_first(grid, known, frame_by_frame(grid, known, write), symmetries)


def _clockwise(rings: Iterable[Sequence[Place]], known: frozenset[Place]) -> Iterator[Sequence[Place]]:
    """Yield every ring in the order of the angle around the middle of ``known``, else of the first ring."""
    y_middle = x_middle = 0
    for number, ring in enumerate(rings):
        if number == 0:
            # Twice the middle of what is known stays a whole number.
            ys, xs = zip(*(known or ring), strict=True)
            y_middle, x_middle = min(ys) + max(ys), min(xs) + max(xs)
        angles = {place: _angle(2 * place[0] - y_middle, 2 * place[1] - x_middle) for place in ring}
        yield sorted(ring, key=lambda place: (angles[place], place))


def _angle(y: int, x: int) -> Fraction:
    """Return a number from 0 to 4 that grows with the angle, clockwise from the right (y points down); exact."""
    if x == 0 and y == 0:
        return Fraction(0)
    part = Fraction(y, abs(x) + abs(y))
    if x < 0:
        return 2 - part
    return part if y >= 0 else 4 + part
