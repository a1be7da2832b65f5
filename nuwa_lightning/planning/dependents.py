"""What has to be made again when some patches change: those and whatever depends on them, in the DAG of a walk (ours).

Numbers of steps and patches only, as in ``schedule``; no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.planning.schedule import PlannedStep


class Remake(NamedTuple):
    """The part of a walk that has to be gone through when some patches change.

    Attributes:
        steps: those that are made again, and as known ones those that they see, in the order of the walk.
        patches: which are made again.
    """

    steps: tuple[PlannedStep, ...]
    patches: frozenset[PatchIndex]


def remake(
    walked: Iterable[PlannedStep],
    chosen: Callable[[PatchIndex], bool],
    *,
    changed: Callable[[PatchIndex], bool] = lambda _: False,
    reach: int,
) -> Remake:
    """Return what of a finite walk has to be made again.

    That is what is chosen and not known, and whatever sees a patch that is made again or changed, directly or through
    others; a known patch in between keeps its tokens and hands the change on, since the states that are seen of it
    depend on what it sees.

    Args:
        walked: the steps, from the first to the last.
        chosen: whether a patch is to be made again; of known ones it is not asked.
        changed: whether a patch, known or not, has other tokens by now.
        reach: how many steps back, from one that is made again, what is seen of a patch can depend on others: patches
            further away are left out. For a transformer of L layers it is L + 1: what is seen of a patch in layer l
            depends on layer l - 1 of what it sees, and its input on its neighbors' tokens.
    """
    steps = list(walked)
    touched: set[int] = set()
    depth: dict[int, int] = {}
    for planned in steps:
        known = planned.step.known
        if changed(planned.patch) or not touched.isdisjoint(planned.context) or (not known and chosen(planned.patch)):
            touched.add(planned.number)
            if not known:
                depth[planned.number] = 0
    again = frozenset(depth)
    for planned in reversed(steps):  # what sees a step comes after it, so its depth is final
        here = depth.get(planned.number, reach)
        if here < reach:
            for other in planned.context:
                depth[other] = min(depth.get(other, reach), here + 1)
    kept, dropped = [], []
    for planned in steps:
        dropped += [other for other in planned.dropped if other in depth]
        if planned.number not in depth:
            continue
        step = planned.step._replace(known=planned.number not in again)
        trimmed = planned._replace(step=step, dropped=tuple(dropped))
        if depth[planned.number] >= reach:
            trimmed = trimmed._replace(context=(), places=(), offsets=(), relative_symmetries=())
        kept.append(trimmed)
        dropped = []
    return Remake(tuple(kept), frozenset(planned.patch for planned in steps if planned.number in again))
