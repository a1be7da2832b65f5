"""The laws of what plans: context pools and direction controllers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence

from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, SYMMETRIES, ZETA, PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import ContextTable, walk

GRIDS: tuple[PatchGrid, ...] = tuple(
    PatchGrid(*shape)
    for shape in ((1, 1, 1), (1, 1, 4), (1, 4, 1), (1, 3, 3), (1, 4, 5), (2, 1, 1), (2, 2, 3), (3, 3, 2), (1, 7, 6))
)
ENDLESS: tuple[PatchGrid, ...] = tuple(
    PatchGrid(*shape)
    for shape in ((1, 1, None), (1, 3, None), (1, None, 2), (None, 1, 1), (None, 2, 3), (2, 2, None), (2, None, 2))
)
_LENGTHS = (16, 32, 64, 128, 256)


def check_context_pool(pool: ContextPool, *, seed: int = 0, trials: int = 4) -> None:
    """Hold ``pool`` to the laws of :class:`ContextPool` on small grids, in orderly and in random plans.

    Args:
        pool: an object of the class to be tested.
        seed: of the random plans.
        trials: random plans a grid.

    Raises:
        AssertionError: naming the class, the law, the grid and the patch.
    """
    rng = random.Random(seed)
    try:
        checked_extent("embedding_extent", pool.embedding_extent)
    except UsageError as error:
        raise AssertionError(f"{type(pool).__name__}: {error}") from error
    for grid in GRIDS:
        plans = [[Step(patch, symmetry) for patch in symmetry.walk(grid)] for symmetry in SYMMETRIES]
        for _ in range(trials):
            plans.append([Step(patch, OMEGA) for patch in rng.sample(list(grid), grid.size)])
        for plan in plans:
            _check_replay(pool, grid, plan, rng)
        _check_stateless(pool, grid, plans)
    if pool.bounded:
        _check_bounded(pool)
    _check_extent(pool)


def _broken(strategy: object, law: str, grid: PatchGrid, patch: PatchIndex | None, detail: str = "") -> AssertionError:
    where = f"grid {grid.shape}" + ("" if patch is None else f", patch {tuple(patch)}")
    return AssertionError(f"{type(strategy).__name__}: {law}: {where}" + (f": {detail}" if detail else ""))


def _check_replay(pool: ContextPool, grid: PatchGrid, plan: Sequence[Step], rng: random.Random) -> None:
    canvas = pool.new_canvas(grid)
    added: list[PatchIndex] = []
    for step in plan:
        patch, live = step.patch, canvas.live
        try:
            seen = {other for other, _ in canvas.select(patch)}
        except LawError as error:
            raise _broken(
                pool, "select returns live patches of no later frame, each once", grid, patch, error.law
            ) from error
        if set(pool.select(patch, tuple(live))) != seen:
            raise _broken(pool, "select is deterministic", grid, patch)
        whole = set(pool.select(patch, tuple(added)))
        if whole != seen:
            lost = [f"{tuple(other)} was dropped, and select would return it" for other in sorted(whole - seen)]
            detail = lost[0] if lost else "with what was dropped it returns less"
            raise _broken(pool, "remove drops nothing that a later select returns", grid, patch, detail)
        if pool.translation_equivariant:
            move = (rng.randrange(3), rng.randrange(9), rng.randrange(9))
            moved = pool.select(patch.shifted(move), [other.shifted(move) for other in live])
            if set(moved) != {other.shifted(move) for other in seen}:
                raise _broken(pool, "moving the canvas moves the answer", grid, patch, f"moved by {move}")
        canvas.add(patch, None)
        added.append(patch)
        try:
            canvas.remove()
        except LawError as error:
            raise _broken(pool, "remove returns live patches", grid, patch, error.law) from error


def _check_stateless(pool: ContextPool, grid: PatchGrid, plans: Sequence[Sequence[Step]]) -> None:
    alone = [[planned.context for planned in walk(plan, pool, grid)] for plan in plans]
    together = zip(*(walk(plan, pool, grid) for plan in plans), strict=True)
    for number, row in enumerate(together):
        for contexts, planned in zip(alone, row, strict=True):
            if contexts[number] != planned.context:
                raise _broken(pool, "canvases that share a pool do not disturb one another", grid, planned.patch)


def _check_bounded(pool: ContextPool) -> None:
    shapes = (((1, 2, None), OMEGA), ((1, None, 2), ZETA), ((None, 2, 1), OMEGA))
    for shape, symmetry in shapes:
        before = -1
        for length in _LENGTHS:
            grid = PatchGrid(*(length if n is None else n for n in shape))
            peak = ContextTable.from_walk(walk((Step(p, symmetry) for p in symmetry.walk(grid)), pool, grid)).peak_live
            if peak == before:
                break
            before = peak
        else:
            law = "the live set does not grow with the canvas (or say bounded = False)"
            raise _broken(pool, law, grid, None, f"{peak} patches are alive at once")


def _check_extent(pool: ContextPool) -> None:
    """Refuse an entry of the embedding that an offset has in one order and loses where y and x are exchanged."""
    extent, grid = pool.embedding_extent, PatchGrid(2, 3, 3)
    for symmetry in SYMMETRIES:
        for planned in walk((Step(patch, symmetry) for patch in symmetry.walk(grid)), pool, grid):
            for place in planned.places:
                if place.within(extent) != ZETA.offset(place).within(extent):
                    law = "an offset has an entry of its own in every order, or in none (give y and x alike)"
                    detail = f"embedding_extent {extent} holds the offset {tuple(place)} in some orders only"
                    raise _broken(pool, law, grid, planned.patch, detail)


def check_direction_controller(controller: DirectionController, *, seed: int = 0, trials: int = 4) -> None:
    """Hold ``controller`` to the laws of :class:`DirectionController`: small grids, endless ones, anything known.

    Args:
        controller: an object of the class to be tested.
        seed: of the random known patches.
        trials: random known sets a grid and density.

    Raises:
        AssertionError: naming the class, the law, the grid and the patch.
    """
    rng = random.Random(seed)
    for grid in GRIDS:
        for known in _known_sets(grid, rng, trials):
            _check_plan(controller, grid, known, rng)
        total = 0.0
        for weight, steps in controller.training_plans(grid):
            _check_symmetries(controller, grid, steps)
            total += weight
            if not weight > 0:
                raise _broken(controller, "the weights of training_plans are positive", grid, None, str(weight))
        if abs(total - 1) > 1e-9:
            raise _broken(controller, "the weights of training_plans sum to 1", grid, None, str(total))
    for grid in ENDLESS:
        _check_endless(controller, grid, rng, trials)


def _known_sets(grid: PatchGrid, rng: random.Random, trials: int) -> Iterator[frozenset[PatchIndex]]:
    """Yield known sets: none, all, the first frame, the four sides, a middle, a hole, and random ones."""
    patches = list(grid)
    height, width = grid.y or 1, grid.x or 1
    yield frozenset()
    yield frozenset(patches)
    yield frozenset(p for p in patches if p.t == 0)
    for half in range(1, 3):
        yield frozenset(p for p in patches if p.x < width // 2 * half)
        yield frozenset(p for p in patches if p.x >= width // 2 * half)
        yield frozenset(p for p in patches if p.y < height // 2 * half)
        yield frozenset(p for p in patches if p.y >= height // 2 * half)
    middle = frozenset(p for p in patches if 0 < p.y < height - 1 and 0 < p.x < width - 1)
    yield middle
    yield frozenset(patches) - middle
    for density, _ in itertools.product((0.2, 0.5, 0.8), range(trials)):
        yield frozenset(p for p in patches if rng.random() < density)


def _drawn(
    controller: DirectionController, grid: PatchGrid, known: Collection[PatchIndex], count: int | None = None
) -> list[Step]:
    """Return the steps of a plan, which holds all other laws of theirs by itself."""
    try:
        steps = list(itertools.islice(controller.plan(grid, known), count))
    except LawError as error:
        raise AssertionError(f"{type(controller).__name__}: grid {grid.shape}: {error.value}: {error.law}") from error
    _check_symmetries(controller, grid, steps)
    return steps


def _check_symmetries(controller: DirectionController, grid: PatchGrid, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.symmetry not in SYMMETRIES:
            raise _broken(controller, "a symmetry is one of the eight", grid, step.patch, repr(step.symmetry))


def _check_plan(
    controller: DirectionController, grid: PatchGrid, known: frozenset[PatchIndex], rng: random.Random
) -> None:
    steps = _drawn(controller, grid, known)
    again = _drawn(controller, grid, rng.sample(sorted(known), len(known)))
    for step, other in itertools.zip_longest(steps, again):
        if step != other:
            raise _broken(controller, "the same arguments give the same plan", grid, (step or other).patch)


def _check_endless(controller: DirectionController, grid: PatchGrid, rng: random.Random, trials: int) -> None:
    if not controller.supports_endless(grid):
        try:
            controller.plan(grid)
        except UsageError:
            return
        raise _broken(controller, "a grid that supports_endless denies is refused", grid, None)
    axis = grid.shape.index(None)
    slab = PatchGrid(*(n or 1 for n in grid.shape)).size
    near = list(PatchGrid(*(n or 4 for n in grid.shape)))
    for trial in range(1 + trials):
        known = frozenset(p for p in near if trial and rng.random() < 0.4)
        steps = _drawn(controller, grid, known, 32 * slab)
        seen = {step.patch for step in steps} | known
        for patch in near:
            if patch not in seen:
                detail = f"it is not among the first {len(steps)} steps, {tuple(patch)[axis]} along the endless axis"
                raise _broken(controller, "a lazy plan reaches every patch", grid, patch, detail)
