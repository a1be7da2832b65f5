"""How well does a symmetry fit a patch, given which of its neighbors are finished (ours)?

A symmetry is trained in its canonical order, where the neighbors that come before a patch are its past half: above,
left, above-left and below-left in the frame of the symmetry. A patch of a composed plan should meet no finished
neighbor in the other half, and its past half should look as it does somewhere on a rectangle in training.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchOffset, Symmetry, symmetry_named

SymmetryName = Literal["omega", "omega*", "zeta", "zeta*", "up-right", "up-left", "left-down", "left-up"]

Place = tuple[int, int]
"""``(y, x)`` of a patch in its frame."""

RING: tuple[Place, ...] = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The eight neighbors; bit ``i`` of a mask says whether neighbor ``i`` is finished."""

PAPER_SYMMETRIES: tuple[SymmetryName, ...] = ("omega", "zeta", "omega*", "zeta*")
"""The paper's four orders in the order in which a ring takes them: right side, bottom, left side, top."""


class Misfit(NamedTuple):
    """What speaks against a symmetry; smaller is better, ``future`` before ``irregular``.

    Attributes:
        future: finished neighbors outside the past half of the symmetry.
        irregular: corners of the past half that are finished without what comes between, or missing in spite of it.
    """

    future: int
    irregular: int


@functools.cache
def misfit(symmetry: Symmetry, mask: int) -> Misfit:
    """Return how badly ``symmetry`` fits a patch whose finished neighbors are the bits of ``mask``."""
    framed = set()
    for bit, (y, x) in enumerate(RING):
        if mask >> bit & 1:
            offset = symmetry.offset(PatchOffset(0, y, x))
            framed.add((offset.y, offset.x))
    above, left = (-1, 0) in framed, (0, -1) in framed
    above_left, below_left = (-1, -1) in framed, (1, -1) in framed
    irregular = (above_left != (above and left)) + (below_left and not left)
    return Misfit(len(framed) - above - left - above_left - below_left, irregular)


def finished_mask(place: Place, finished: Callable[[Place], bool]) -> int:
    """Return the mask of the finished neighbors of ``place``."""
    y, x = place
    return sum(1 << bit for bit, (dy, dx) in enumerate(RING) if finished((y + dy, x + dx)))


def best_symmetry(mask: int, symmetries: Sequence[Symmetry], previous: Symmetry | None) -> Symmetry:
    """Return the symmetry with the most finished neighbors in its past half; ties: regular, as before, first named."""
    return min(
        symmetries, key=lambda symmetry: (*misfit(symmetry, mask), symmetry != previous, symmetries.index(symmetry))
    )


def named_symmetries(option: str, names: Sequence[str]) -> tuple[Symmetry, ...]:
    """Return the symmetries called ``names``."""
    try:
        symmetries = tuple(symmetry_named(name) for name in names)
    except ValueError as error:
        raise UsageError(option, list(names), str(error).split(": ", 2)[-1]) from error
    if not symmetries or len(set(symmetries)) != len(symmetries):
        raise UsageError(option, list(names), "name at least one symmetry, each once")
    return symmetries
