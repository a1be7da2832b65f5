"""A canvas in a folder as it is at this moment, read beside whoever is writing it.

Positions are pixels of the lattice: those of the first patch's corner stay what they are when a canvas grows to the
left or up, so that a tile keeps its place.

Shape legend: Y/X rows and columns.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from torch import Tensor

from nuwa_lightning.canvas.edits import Boxes, touched
from nuwa_lightning.canvas.facts import CanvasFacts, read_facts
from nuwa_lightning.canvas.history import CanvasMaker, History
from nuwa_lightning.canvas.job import Order
from nuwa_lightning.canvas.keeping import check_hashes, kept_request
from nuwa_lightning.canvas.log import TokenLog
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.tokenizers.tiling import Rectangle


class Area(NamedTuple):
    """A rectangle of pixels of the lattice, ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: Area) -> Area | None:
        """Return what lies in both."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Area(left, top, right, bottom) if left < right and top < bottom else None

    def grown(self, margin: int) -> Area:
        """Return it with a margin on every side."""
        return Area(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)


@dataclass(frozen=True)
class Change:
    """What came between two looks at a canvas.

    Attributes:
        areas: of new patches, per frame; None where anything may be another.
        shape: whether size, state or edits are others.
    """

    areas: tuple[tuple[int, Area], ...] | None
    shape: bool


def bounds(facts: CanvasFacts) -> Area:
    """Return where the image of a canvas lies on the lattice."""
    (_, y, x), (rows, columns), stage = facts.corner, facts.patch_pixels, facts.stage
    top, left = y * rows + stage.origin[0], x * columns + stage.origin[1]
    height, width = stage.size
    assert height is not None
    assert width is not None
    return Area(left, top, left + width, top + height)


@final
@dataclass(frozen=True, eq=False)
class Look:
    """The shape of a canvas at a moment: it may be grown while a tile is decoded.

    Attributes:
        view: the canvas.
        facts: what it was then.
        order: how its pixels are made.
    """

    view: CanvasView
    facts: CanvasFacts
    order: Order

    @property
    def bounds(self) -> Area:
        """Where the image lies on the lattice."""
        return bounds(self.facts)

    @property
    def offset(self) -> tuple[int, int]:
        """Row and column of the lattice at which the grid of patches begins, in pixels."""
        (_, y, x), (rows, columns) = self.facts.corner, self.facts.patch_pixels
        return y * rows, x * columns

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid in tokens."""
        grid, (rows, columns) = self.facts.grid, self.facts.patch_size
        return (grid.y or 0) * rows, (grid.x or 0) * columns

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens of an area of its grid; ``UNWRITTEN`` where there are none."""
        return self.view.read_at(area, t, number, self.facts.corner)


@final
class CanvasView:
    """Tokens and facts of a canvas, without its lock; a ``TokenView``.

    Records that count are shown; while its own server edits it (``live``), or while it is not finished, those too that
    do not count yet.

    Args:
        folder: the canvas.
        maker: the pipeline that made it.
        hashes: what tells its model, as ``keeping.hashes`` does.
        max_pixels: refuse a given image of more.

    Raises:
        UsageError: if it is no canvas, or one of another model.
    """

    def __init__(
        self, folder: Path, maker: CanvasMaker, hashes: dict[str, str], *, max_pixels: int | None = None
    ) -> None:
        self._folder, self._maker, self._max_pixels = folder, maker, max_pixels
        self._log = TokenLog(folder / "tokens.log")
        self._guard = threading.RLock()
        self._stamp: tuple[int, int] | None = None
        self._last: Look | None = None
        self.live = False
        self._read_facts()
        check_hashes(folder.name, self.facts.how, hashes, of="this page", option="canvas")
        self._request: GenerationRequest = kept_request(folder, self.facts.how, max_pixels=max_pixels, option="canvas")
        if self.facts.grid.endless:
            raise UsageError("canvas", folder.name, "is endless and not finished: stop it first")
        self._reload()

    # -- a TokenView --------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    @property
    def facts(self) -> CanvasFacts:
        """What it is."""
        return self._log.facts

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens of a patch, if it is there."""
        with self._guard:
            return self._log.patch(patch)

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens of an area; ``UNWRITTEN`` where there are none."""
        return self.read_at(area, t, number, self.facts.corner)

    def read_at(self, area: Rectangle, t: int, number: int, corner: tuple[int, int, int]) -> Tensor:
        """Return the tokens of an area of a grid that begins at a corner of the lattice."""
        with self._guard:
            try:
                return self._log.read(area, t=t, number=number, corner=corner)
            except ValueError:  # another process has just cut the log
                self._reload()
                return self._log.read(area, t=t, number=number, corner=corner)

    def written(self) -> Iterable[PatchIndex]:
        """Return the patches that are there."""
        with self._guard:
            return list(self._log.written())

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def request(self) -> GenerationRequest:
        """How it was begun."""
        return self._request

    @property
    def patches(self) -> int:
        """How many are there."""
        return self._log.patches

    def look(self) -> Look:
        """Return the shape that it has now."""
        with self._guard:
            facts = self.facts
            if self._last is None or self._last.facts.stages != facts.stages:
                self._last = Look(self, facts, History(self, self._maker, self._request).order())
            return self._last

    def dependents(self, box: Boxes, frames: tuple[int, int] | None = None) -> int:
        """Return how many patches are made again with those that boxes touch; see :meth:`FinishedCanvas.dependents`."""
        facts = self.facts
        if not facts.finished:
            raise UsageError("canvas", self._folder.name, "is not finished: wait, or go on with it")
        remakes = History(self, self._maker, self._request).remakes(touched(facts, box, frames))
        return len({position for *_, positions in remakes for position in positions})

    def told(self) -> dict[str, Any]:
        """Return what the page shows of it, as plain JSON."""
        facts, (height, width) = self.facts, self.facts.stage.size
        said = {"size": [width, height], "bounds": list(bounds(facts)), "patch": list(facts.patch_pixels[::-1])}
        said |= {"frames": facts.grid.t, "seed": facts.seeds[0], "images": len(facts.seeds), "wrap": facts.grid.wrap}
        said |= {"finished": facts.finished, "patches": [self.patches, facts.grid.size]}
        said |= {"edits": list(facts.how.get("edits", ())), "undo": len(facts.how.get("undo", ()))}
        said |= {"request": dict(facts.how["request"]), "task": self._request.task, "video": self._request.video}
        return said

    # -- what is new --------------------------------------------------------------------------------------------------

    def refresh(self) -> Change | None:
        """Take in what is new on the disk; returns None for nothing."""
        with self._guard:
            before, shape = self.facts, self._stamp != self._stat()
            if shape:
                self._read_facts()
            now, end, length = self.facts, self._end, self._log.length
            size = (self._folder / "tokens.log").stat().st_size // self._log.record_bytes
            moved = before.stages[: len(now.stages)] != now.stages[: len(before.stages)]
            if moved or length > (size if end is None else min(end, size)):
                self._reload()
                return Change(None, shape)
            found: list[PatchIndex] = []
            self._log.extend(end=end, found=found)
            if len(now.stages) < len(before.stages):
                return Change(None, shape)
            areas = tuple(itertools.chain.from_iterable(map(self._areas, found)))
            return Change(areas, shape) if found or shape else None

    @property
    def _end(self) -> int | None:
        return self.facts.log if self.facts.finished and not self.live else None

    def _areas(self, position: PatchIndex) -> Iterator[tuple[int, Area]]:
        """Yield where a patch lies: on a closed axis beyond both sides too."""
        (t, y, x), (rows, columns), grid = position, self.facts.patch_pixels, self.facts.grid
        down, across = (
            (-n, 0, n) if name in grid.wrap else (0,) for name, n in (("y", grid.y or 0), ("x", grid.x or 0))
        )
        for i, j in itertools.product(down, across):
            top, left = (y + i) * rows, (x + j) * columns
            yield t - self.facts.corner[0], Area(left, top, left + columns, top + rows)

    def _stat(self) -> tuple[int, int]:
        try:
            found = (self._folder / "canvas.json").stat()
        except OSError:
            raise UsageError("canvas", self._folder.name, "is not there any more") from None
        return found.st_mtime_ns, found.st_ino

    def _read_facts(self) -> None:
        stamp = self._stat()
        try:
            self._log.facts = read_facts(self._folder / "canvas.json")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UsageError("canvas", self._folder.name, "is damaged: put back a copy of the folder") from None
        self._stamp = stamp

    def _reload(self) -> None:
        self._log.clear()
        self._log.extend(end=self._end)
