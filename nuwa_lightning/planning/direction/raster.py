"""Reading order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.direction.growth import in_order, is_prefix, known_first
from nuwa_lightning.planning.geometry import ZETA, PatchGrid, PatchIndex


@final
@dataclass(frozen=True)
class RasterDirectionController(DirectionController):
    """Rows from left to right, from the top row down, frame by frame, whatever is known (ablation, ours)."""

    def supports_endless(self, grid: PatchGrid) -> bool:
        """Downwards and forwards in time."""
        return ZETA.can_walk(grid)

    def steps(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield the known patches in their place where they come first anyway, else before all others."""
        if is_prefix(ZETA, grid, known):
            return in_order(ZETA, grid, known)
        unknown = (Step(patch, ZETA) for patch in ZETA.walk(grid) if patch not in known)
        return known_first(grid, known, unknown, (ZETA,))
