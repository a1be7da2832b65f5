"""What has to be made again when some patches change: those and whatever depends on them, in the DAG of a walk (ours).

Numbers of steps and patches only, as in ``schedule``; no torch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import final

from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.planning.schedule import PlannedStep


@final
@dataclass(frozen=True, eq=False)
class Remake:
    """The part of a walk that has to be gone through when some patches change.

    Attributes:
        walk: the steps of the whole walk, anew each time.
        patches: which are made again.
        depth: of the steps that have to be gone through, how many steps they are away from one that is made again.
        reach: from so many on what a step sees does not matter.
    """

    walk: Callable[[], Iterable[PlannedStep]]
    patches: frozenset[PatchIndex]
    depth: dict[int, int]
    reach: int

    def steps(self) -> Iterator[PlannedStep]:
        """Yield those that are made again, and as known ones those that they see, in the order of the walk."""
        dropped: list[int] = []
        for planned in self.walk():
            dropped += [other for other in planned.dropped if other in self.depth]
            depth = self.depth.get(planned.number)
            if depth is None:
                continue
            step = planned.step._replace(known=depth > 0)
            trimmed = planned._replace(step=step, dropped=tuple(dropped))
            if depth >= self.reach:
                trimmed = trimmed._replace(context=(), places=(), offsets=(), relative_symmetries=())
            yield trimmed
            dropped = []


def remake(
    walk: Callable[[], Iterable[PlannedStep]],
    chosen: Callable[[PatchIndex], bool],
    *,
    changed: Callable[[PatchIndex], bool] = lambda _: False,
    reach: int,
) -> Remake:
    """Return what of a finite walk has to be made again.

    That is what is chosen and not known, and whatever sees a patch that is made again or changed, directly or through
    others; a known patch in between keeps its tokens and hands the change on, since the states that are seen of it
    depend on what it sees. Of each step memory holds the numbers of those it sees, and nothing else.

    Args:
        walk: returns the steps, from the first to the last.
        chosen: whether a patch is to be made again; of known ones it is not asked.
        changed: whether a patch, known or not, has other tokens by now.
        reach: how many steps back, from one that is made again, what is seen of a patch can depend on others: patches
            further away are left out. For a transformer of L layers it is L + 1: what is seen of a patch in layer l
            depends on layer l - 1 of what it sees, and its input on its neighbors' tokens.
    """
    contexts: list[tuple[int, ...]] = []
    touched: set[int] = set()
    patches: set[PatchIndex] = set()
    depth: dict[int, int] = {}
    for planned in walk():
        contexts.append(planned.context)
        known = planned.step.known
        if changed(planned.patch) or not touched.isdisjoint(planned.context) or (not known and chosen(planned.patch)):
            touched.add(planned.number)
            if not known:
                depth[planned.number] = 0
                patches.add(planned.patch)
    for number in range(len(contexts) - 1, -1, -1):  # what sees a step comes after it, so its depth is final
        here = depth.get(number, reach)
        if here < reach:
            for other in contexts[number]:
                depth[other] = min(depth.get(other, reach), here + 1)
    return Remake(walk, frozenset(patches), depth, reach)
