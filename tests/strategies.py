"""Every pool and controller there is, and hypothesis strategies over grids, plans and known patches."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from nuwa_lightning.planning.context import (
    ContextPool,
    EmptyContextPool,
    FullContextPool,
    NearbyContextPool,
    RecencyContextPool,
)
from nuwa_lightning.planning.direction import (
    ArbitraryDirectionController,
    DirectionController,
    OutwardDirectionController,
    RasterDirectionController,
    SpiralDirectionController,
)
from nuwa_lightning.planning.geometry import SYMMETRIES, PatchGrid, PatchIndex

POOLS: tuple[ContextPool, ...] = (
    NearbyContextPool(),
    NearbyContextPool((1, 1, 2)),
    NearbyContextPool((3, 1, 1)),
    NearbyContextPool((0, 0, 0)),
    FullContextPool(),
    FullContextPool((1, 0, 2)),
    EmptyContextPool(),
    RecencyContextPool(),
    RecencyContextPool(3, (0, 1, 1)),
)
ALL_SYMMETRIES = tuple(symmetry.name for symmetry in SYMMETRIES)
DIRECTIONS: tuple[DirectionController, ...] = (
    *(ArbitraryDirectionController(order) for order in ("omega", "omega*", "zeta", "zeta*")),
    RasterDirectionController(),
    SpiralDirectionController(),
    OutwardDirectionController(),
)
CONTROLLERS: tuple[DirectionController, ...] = (
    ArbitraryDirectionController(),
    *DIRECTIONS,
    ArbitraryDirectionController("zeta*", order_weights=(1, 2, 0, 5)),
    ArbitraryDirectionController(symmetries=("omega",)),
    ArbitraryDirectionController("left-up", symmetries=ALL_SYMMETRIES),
    SpiralDirectionController(symmetries=ALL_SYMMETRIES),
    OutwardDirectionController((0.0, 1.0), symmetries=("zeta*", "omega")),
)

Class = TypeVar("Class")


def package_classes(base: type[Class]) -> set[type[Class]]:
    """Return the classes beside ``base`` in its package, not those that tests and doctests define."""
    package = base.__module__.rpartition(".")[0] + "."
    below = set(base.__subclasses__())
    for each in base.__subclasses__():
        below |= package_classes(each)
    return {each for each in below if each.__module__.startswith(package)}


grids = st.builds(PatchGrid, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
pools = st.sampled_from(POOLS)
controllers = st.sampled_from(CONTROLLERS)


@st.composite
def canvases(draw: st.DrawFn) -> tuple[PatchGrid, frozenset[PatchIndex]]:
    """Return a grid and known patches anywhere in it."""
    grid = draw(grids)
    return grid, draw(st.frozensets(st.sampled_from(list(grid)), max_size=grid.size))
