"""Where patches lie: plain integers, no torch.

Extents, shapes and indices are written ``(t, y, x)`` everywhere. An axis of a grid may be endless (``None``).
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Extent = tuple[int, int, int]
"""How far, in patches, along ``(t, y, x)``."""


class PatchIndex(NamedTuple):
    """The place of one patch on the canvas, counted in patches."""

    t: int
    y: int
    x: int

    def offset_from(self, other: PatchIndex) -> PatchOffset:
        """Return ``self - other``."""
        return PatchOffset(self.t - other.t, self.y - other.y, self.x - other.x)

    def shifted(self, offset: tuple[int, int, int]) -> PatchIndex:
        """Return the index moved by ``offset``."""
        return PatchIndex(self.t + offset[0], self.y + offset[1], self.x + offset[2])


class PatchOffset(NamedTuple):
    """A difference of two patch indices."""

    t: int
    y: int
    x: int

    def within(self, extent: Extent) -> bool:
        """Say whether every component is at most ``extent`` in absolute value."""
        return abs(self.t) <= extent[0] and abs(self.y) <= extent[1] and abs(self.x) <= extent[2]

    def clamped(self, extent: Extent) -> PatchOffset:
        """Return the offset with every component limited to ``extent`` in absolute value."""
        return PatchOffset(*(max(-e, min(e, v)) for v, e in zip(self, extent, strict=True)))


@dataclass(frozen=True)
class PatchGrid:
    """The shape of a canvas in patches; ``None`` marks an endless axis.

    Attributes:
        t: frames.
        y: rows.
        x: columns.
        wrap: the closed axes (ours): ``x``, ``y`` or ``xy``. On a closed axis the first patch follows upon the last, as
            on a panorama all around (x) or a tile of a pattern (xy).

    Raises:
        ValueError: if an axis is below 1, more than one axis is endless, or ``wrap`` names an axis that cannot be
            closed.
    """

    t: int | None = 1
    y: int | None = 1
    x: int | None = 1
    wrap: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.wrap not in ("", "x", "y", "xy"):
            raise ValueError(f"wrap {self.wrap!r}: choose x, y or xy")
        for name in self.wrap:
            if getattr(self, name) is None:
                raise ValueError(f"wrap {self.wrap!r}: the axis {name} is endless and cannot be closed")
        for name, length in zip("tyx", self.shape, strict=True):
            if length is not None and length < 1:
                raise ValueError(f"PatchGrid axis {name} is {length}: at least one patch is needed")
        if self.shape.count(None) > 1:
            raise ValueError(f"PatchGrid {self.shape}: at most one axis may be endless")

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """The lengths along ``(t, y, x)``."""
        return (self.t, self.y, self.x)

    @property
    def endless(self) -> bool:
        """Whether one axis has no end."""
        return None in self.shape

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The lengths along ``(t, y, x)`` of a grid that is not endless; ValueError for another."""
        if self.t is None or self.y is None or self.x is None:
            raise ValueError(f"PatchGrid {self.shape} is endless and has no size")
        return self.t, self.y, self.x

    @property
    def size(self) -> int:
        """The number of patches; ValueError on an endless grid."""
        return math.prod(self.lengths)

    @property
    def periods(self) -> tuple[int, int, int]:
        """After how many patches along ``(t, y, x)`` the canvas begins anew; 0 where it is not closed."""
        return (0, self.y or 0 if "y" in self.wrap else 0, self.x or 0 if "x" in self.wrap else 0)

    def offset(self, other: PatchIndex, patch: PatchIndex) -> PatchOffset:
        """Return ``other - patch``, the short way round on a closed axis; of two equal ways the negative one."""
        if not self.wrap:
            return other.offset_from(patch)
        ways = zip(other, patch, self.periods, strict=True)
        return PatchOffset(*((o - p + n // 2) % n - n // 2 if n else o - p for o, p, n in ways))

    def home(self, patch: PatchIndex) -> PatchIndex:
        """Return the patch of the grid that ``patch``, which may lie beyond a closed axis, stands for."""
        return PatchIndex(*(p % n if n else p for p, n in zip(patch, self.periods, strict=True)))

    def height(self, patch: PatchIndex) -> float:
        """Return how high its center lies, 0 at the top and 1 at the bottom; NaN where there is no top or bottom."""
        return math.nan if self.y is None or "y" in self.wrap else (patch.y + 0.5) / self.y

    def unrolled(self) -> PatchGrid:
        """Return the open grid that repeats this one three times along every closed axis, with itself in the middle."""
        t, y, x = (
            n if n is None else n * (3 if period else 1) for n, period in zip(self.shape, self.periods, strict=True)
        )
        return PatchGrid(t, y, x)

    def __contains__(self, patch: object) -> bool:
        if not isinstance(patch, tuple) or len(patch) != 3:
            return False
        t, y, x = patch
        return (
            (t >= 0 and (self.t is None or t < self.t))
            and (y >= 0 and (self.y is None or y < self.y))
            and (x >= 0 and (self.x is None or x < self.x))
        )

    def __iter__(self) -> Iterator[PatchIndex]:
        """Return an iterator over every patch in raster order (t slowest), lazily where the frames never end.

        Raises:
            ValueError: on a grid that is endless in space: walk a plan instead.
        """
        if self.y is None or self.x is None:
            raise ValueError(f"PatchGrid {self.shape} is endless in space: iterate over a plan instead")
        places = range(self.y), range(self.x)
        times = itertools.count() if self.t is None else range(self.t)
        return (PatchIndex(t, y, x) for t in times for y, x in itertools.product(*places))

    def box(self, centre: PatchIndex, extent: Extent) -> Iterator[PatchIndex]:
        """Yield the patches of the grid at most ``extent`` away from ``centre``, itself included."""
        ranges = []
        for c, e, n in zip(centre, extent, self.shape, strict=True):
            top = c + e if n is None else min(c + e, n - 1)
            ranges.append(range(max(0, c - e), top + 1))
        for t, y, x in itertools.product(*ranges):
            yield PatchIndex(t, y, x)


@dataclass(frozen=True)
class Symmetry:
    """One of the eight symmetries of the square lattice (ours).

    A symmetry reads the canvas so that its own order becomes the one canonical order, omega: down a column, columns
    from left to right. ``to_frame`` flips first, then transposes.
    """

    name: str
    flip_y: bool = False
    flip_x: bool = False
    transpose: bool = False

    def offset(self, offset: PatchOffset) -> PatchOffset:
        """Return ``offset`` as it looks in the canonical frame of this symmetry."""
        y = -offset.y if self.flip_y else offset.y
        x = -offset.x if self.flip_x else offset.x
        return PatchOffset(offset.t, x, y) if self.transpose else PatchOffset(offset.t, y, x)

    def extent(self, extent: Extent) -> Extent:
        """Return ``extent`` with its spatial axes in the canonical frame of this symmetry."""
        return (extent[0], extent[2], extent[1]) if self.transpose else extent

    def order_key(self, patch: PatchIndex) -> tuple[int, int, int]:
        """Return a key that sorts patches into the order of this symmetry: frames, then its columns, then down each."""
        y = -patch.y if self.flip_y else patch.y
        x = -patch.x if self.flip_x else patch.x
        return (patch.t, y, x) if self.transpose else (patch.t, x, y)

    def can_walk(self, grid: PatchGrid) -> bool:
        """Say whether :meth:`walk` reaches every patch of ``grid``: an endless axis must come last and forwards."""
        if not grid.endless or grid.t is None:
            return True
        if grid.t != 1:
            return False
        if grid.y is None:
            return self.transpose and not self.flip_y
        return not self.transpose and not self.flip_x

    def walk(self, grid: PatchGrid) -> Iterator[PatchIndex]:
        """Return the patches of ``grid`` in the order of this symmetry, frame by frame, lazily.

        Raises:
            ValueError: if :meth:`can_walk` denies it.
        """
        if not self.can_walk(grid):
            raise ValueError(f"the order {self.name} never ends its first run on the grid {grid.shape}")
        times = itertools.count() if grid.t is None else range(grid.t)
        height, width = grid.y, grid.x
        if self.transpose:
            rows = _run(height, self.flip_y)
            return (PatchIndex(t, y, x) for t in times for y in rows for x in _run(width, self.flip_x))
        columns = _run(width, self.flip_x)
        return (PatchIndex(t, y, x) for t in times for x in columns for y in _run(height, self.flip_y))

    def cell(self, row: int, column: int, size: int) -> tuple[int, int]:
        """Return where cell ``(row, column)`` of a ``size`` x ``size`` square stands in this symmetry's frame."""
        row = size - 1 - row if self.flip_y else row
        column = size - 1 - column if self.flip_x else column
        return (column, row) if self.transpose else (row, column)

    def cells(self, size: int) -> tuple[int, ...]:
        """Return, for each cell of the frame in raster order, the raster index of that cell on the canvas.

        ``canvas.flatten()[list(view.cells(size))]`` is the square in the frame of this symmetry.
        """
        order = [0] * (size * size)
        for row, column in itertools.product(range(size), repeat=2):
            framed_row, framed_column = self.cell(row, column, size)
            order[framed_row * size + framed_column] = row * size + column
        return tuple(order)

    @property
    def index(self) -> int:
        """The position of this symmetry in :data:`SYMMETRIES`."""
        return SYMMETRIES.index(self)

    def relative_to(self, other: Symmetry) -> int:
        """Return which of the eight symmetries turns this symmetry's frame into the frame of ``other``; 0 for the same.

        The token that stands at ``(row, column)`` in this symmetry's frame stands at ``SYMMETRIES[g].cell(row, column,
        size)`` in the frame of ``other``.
        """
        return _relative(self, other)


def _run(length: int | None, flip: bool) -> Iterable[int]:
    if length is None:
        return itertools.count()
    return range(length - 1, -1, -1) if flip else range(length)


@functools.cache
def _relative(symmetry: Symmetry, other: Symmetry) -> int:
    units = (PatchOffset(0, 1, 0), PatchOffset(0, 0, 1))
    for index, each in enumerate(SYMMETRIES):
        if all(each.offset(symmetry.offset(unit)) == other.offset(unit) for unit in units):
            return index
    raise AssertionError("the eight symmetries are a group")


OMEGA = Symmetry("omega")
OMEGA_STAR = Symmetry("omega*", flip_x=True)
ZETA = Symmetry("zeta", transpose=True)
ZETA_STAR = Symmetry("zeta*", flip_y=True, transpose=True)
SYMMETRIES: tuple[Symmetry, ...] = (
    OMEGA,
    OMEGA_STAR,
    ZETA,
    ZETA_STAR,
    Symmetry("up-right", flip_y=True),
    Symmetry("up-left", flip_y=True, flip_x=True),
    Symmetry("left-down", flip_x=True, transpose=True),
    Symmetry("left-up", flip_y=True, flip_x=True, transpose=True),
)
"""The paper's four orders first, then the four that complete the group, named by the inner, then the outer direction:
``up-right`` writes columns upwards, from the left column to the right one."""


def symmetry_named(name: str) -> Symmetry:
    """Return the symmetry called ``name``.

    Raises:
        ValueError: if there is none.
    """
    for symmetry in SYMMETRIES:
        if symmetry.name == name:
            return symmetry
    raise ValueError(f"symmetry: {name}: choose one of {', '.join(symmetry.name for symmetry in SYMMETRIES)}")


class PatchSet:
    """A growing set of patches of one grid whose memory is its ragged front, not its size.

    Slabs across the endless (else the longest) axis are counted; a full slab is kept as part of an interval only.
    """

    def __init__(self, grid: PatchGrid) -> None:
        self.grid = grid
        lengths = [float("inf") if n is None else n for n in grid.shape]
        self._axis = lengths.index(max(lengths))
        self._slab_size = 1
        for axis, length in enumerate(grid.shape):
            if axis != self._axis:
                self._slab_size *= length or 1
        self._ragged: dict[int, set[PatchIndex]] = {}
        self._starts: list[int] = []  # full slabs are [start, stop), sorted and apart
        self._stops: list[int] = []

    def __contains__(self, patch: PatchIndex) -> bool:
        """Say whether ``patch``, a patch of the grid, is in the set."""
        slab = patch[self._axis]
        ragged = self._ragged.get(slab)
        return patch in ragged if ragged is not None else self._is_full(slab)

    def _is_full(self, slab: int) -> bool:
        at = bisect_right(self._starts, slab) - 1
        return at >= 0 and slab < self._stops[at]

    def add(self, patch: PatchIndex) -> None:
        """Put ``patch``, a patch of the grid, into the set."""
        slab = patch[self._axis]
        if self._is_full(slab):
            return
        ragged = self._ragged.setdefault(slab, set())
        ragged.add(patch)
        if len(ragged) == self._slab_size:
            del self._ragged[slab]
            self._fill(slab)

    def _fill(self, slab: int) -> None:
        at = bisect_right(self._starts, slab)
        joins_left = at > 0 and self._stops[at - 1] == slab
        joins_right = at < len(self._starts) and self._starts[at] == slab + 1
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops.pop(at)
            del self._starts[at]
        elif joins_left:
            self._stops[at - 1] = slab + 1
        elif joins_right:
            self._starts[at] = slab
        else:
            self._starts.insert(at, slab)
            self._stops.insert(at, slab + 1)

    @property
    def footprint(self) -> int:
        """How many patches and intervals are held in memory."""
        return sum(map(len, self._ragged.values())) + len(self._starts)
