"""Nearest first."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.direction.fit import PAPER_SYMMETRIES, Place, SymmetryName, named_symmetries
from nuwa_lightning.planning.direction.growth import DIAMOND, frame_by_frame, known_first, layers_from, with_symmetries
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, Symmetry


@final
@dataclass(frozen=True)
class OutwardDirectionController(DirectionController):
    """By the Manhattan distance from what is known or else from an origin; a diamond grows (ablation, ours).

    Args:
        origin: where a canvas begins on which nothing is known, as shares ``(y, x)`` of its height and width: (0, 0)
            is the first patch, (1, 1) the last. On an endless axis it is the first patch.
        symmetries: each patch takes the symmetry whose past half holds the most finished neighbors.

    Raises:
        UsageError: if ``origin`` is not two shares from 0 to 1, or a symmetry is unknown, named twice or missing.
    """

    origin: tuple[float, float] = (0.5, 0.5)
    symmetries: tuple[SymmetryName, ...] = PAPER_SYMMETRIES

    def __post_init__(self) -> None:
        if len(self.origin) != 2 or not all(0 <= share <= 1 for share in self.origin):
            raise UsageError("origin", self.origin, "give two shares (y, x) from 0 to 1 of the height and the width")
        named_symmetries("symmetries", self.symmetries)
        object.__setattr__(self, "origin", tuple(self.origin))
        object.__setattr__(self, "symmetries", tuple(self.symmetries))

    def supports_endless(self, grid: PatchGrid) -> bool:
        """Forwards in time, and in space on a single frame."""
        return grid.t in (None, 1)

    def steps(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield the known patches, then layer after layer in each frame."""
        symmetries = named_symmetries("symmetries", self.symmetries)
        lengths = zip(self.origin, grid.shape[1:], strict=True)
        y, x = (0 if length is None else round(share * (length - 1)) for share, length in lengths)

        def write(finished: frozenset[Place], previous: Symmetry | None) -> Iterator[tuple[Place, Symmetry]]:
            rings = layers_from(grid, finished, (y, x), DIAMOND)
            return with_symmetries(rings, finished, symmetries, previous)

        return known_first(grid, known, frame_by_frame(grid, known, write), symmetries)
