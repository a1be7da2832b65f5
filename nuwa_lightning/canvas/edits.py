"""What an edit of a canvas may ask for, and how the canvas remembers it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor

from nuwa_lightning.canvas.facts import CanvasFacts
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request import GenerationRequest

Box = tuple[int, int, int, int]
"""``(left, top, right, bottom)`` in pixels of the image, as Pillow's ``crop`` takes it."""
Boxes = Box | Sequence[Box]
"""One box, or several that are made again together."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A part of a canvas made again, and not taken yet.

    Attributes:
        edit: what was asked for.
        tokens: of each patch that is another, ``[B, rows, columns]``.
        of: the edits before it.
    """

    edit: Mapping[str, Any]
    tokens: Mapping[PatchIndex, Tensor]
    of: tuple[Mapping[str, Any], ...]


STEERED: Final = ("prompt", "temperature", "top_k", "top_p", "guidance")
"""Fields of a request that an edit may have otherwise."""


def steered(request: GenerationRequest, options: Mapping[str, Any]) -> GenerationRequest:
    """Return the request by which patches of an edit are made.

    A ``prompt`` among the options (a string, "" for none) is for all that the edit makes.
    """
    for name, value in options.items():
        if name not in STEERED:
            raise UsageError(name, value, f"an edit cannot have its own: choose {', '.join(STEERED)}")
    changed = dict(options)
    if "prompt" in changed:
        texts = tuple(filter(None, [str(changed["prompt"])]))
        changed |= {"prompt": texts, "prompt_each": (), "unprompted": not texts, "task": None}
        if not texts and "guidance" not in options:
            changed["guidance"] = None
    return replace(request, **changed)


def edited(facts: CanvasFacts, edit: Mapping[str, Any], *, before: int | None) -> CanvasFacts:
    """Return facts that tell of one more edit, ``before`` which so many records counted; None in memory."""
    how = {**facts.how, "edits": [*facts.how.get("edits", ()), edit]}
    if before is not None:
        how["undo"] = [*facts.how.get("undo", ()), before]
    return replace(facts, how=how)


def taken_back(facts: CanvasFacts) -> CanvasFacts | None:
    """Return the facts before the last edit; None if there is none that can be taken back."""
    edits, lengths = list(facts.how.get("edits", ())), list(facts.how.get("undo", ()))
    grown = not facts.finished and len(facts.stages) > 1
    if not edits or not (grown or (facts.finished and lengths)):
        return None
    how = {**facts.how, "edits": edits[:-1]}
    if lengths:
        how["undo"] = lengths[:-1]
    stages = facts.stages[:-1] if "grow" in edits[-1] else facts.stages
    return replace(facts, stages=stages, finished=True, how=how, log=facts.log if grown else lengths[-1])


def check_growth(facts: CanvasFacts, wish: Mapping[str, int], *, video: bool) -> None:
    """Refuse a growth that cannot be."""
    for name, n in wish.items():
        if n < 0:
            raise UsageError(
                name, n, "give how many more, from 0 up: a canvas does not shrink, an image can be cropped"
            )
    closed = "".join(
        axis for axis, sides in (("x", ("left", "right")), ("y", ("up", "down"))) if any(wish[s] for s in sides)
    )
    for axis in set(closed) & set(facts.grid.wrap):
        raise UsageError("grow", f"along {axis}", "the canvas is closed there: grow it along the other axis")
    if wish["frames"] and not video:
        raise UsageError("frames", wish["frames"], "the canvas is an image: grow it to a side")
    if not any(wish.values()):
        raise UsageError("grow", "nothing", "say how many pixels: `left`, `right`, `up` or `down`")


def listed(boxes: Boxes) -> list[Box]:
    """Return boxes, one or several, as a list."""
    return [cast(Box, boxes)] if boxes and isinstance(boxes[0], int) else list(cast(Sequence[Box], boxes))


def touched(facts: CanvasFacts, boxes: Boxes, frames: tuple[int, int] | None) -> Callable[[PatchIndex], bool]:
    """Return whether the patch at a position of the lattice is one that a box touches; refuse one that lies outside."""
    stage, (rows, columns) = facts.stage, facts.patch_pixels
    (y0, x0), (height, width) = stage.origin, (side or 0 for side in stage.size)
    count, found = facts.grid.t or 1, set[tuple[int, int]]()
    for box in listed(boxes) or [(0, 0, 0, 0)]:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            hint = f"give left,top,right,bottom in pixels, inside the {width}x{height} of the canvas"
            raise UsageError("box", ",".join(map(str, box)), hint)
        down = range((top + y0) // rows, -(-(bottom + y0) // rows))
        across = range((left + x0) // columns, -(-(right + x0) // columns))
        found.update(itertools.product(down, across))
    first, last = frames or (0, count)
    if not 0 <= first < last <= count:
        raise UsageError("frames", f"{first},{last}", f"give the first and the last, inside the {count} there are")

    def chosen(position: PatchIndex) -> bool:
        t, y, x = stage.patch(position)
        return first <= t < last and (y, x) in found

    return chosen


def where(folder: Path | None) -> Path | str:
    """Return what errors call a canvas."""
    return folder or "in memory"
