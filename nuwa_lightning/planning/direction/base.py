"""In which order are patches written? The interface of every direction controller (paper, section on the ADC)."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple, final

from nuwa_lightning.errors import LawError, UsageError, shown
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, PatchSet, Symmetry

_CHECK: Final = "check_direction_controller"


class Step(NamedTuple):
    """One step of a plan.

    Attributes:
        patch: where.
        symmetry: under which symmetry its tokens are written.
        known: whether the patch is given (to be encoded), not to be written.
    """

    patch: PatchIndex
    symmetry: Symmetry
    known: bool = False


class DirectionController(ABC):
    """A strategy: in which order the patches of a canvas are written, each under which symmetry.

    A controller is a plain object without state. A subclass writes :meth:`steps` and :meth:`supports_endless`.

    Laws (``nuwa_lightning.testing.check_direction_controller`` tests them; :meth:`plan` holds 1 to 3 in every run):

    1. Every patch that is not known is written exactly once.
    2. A known patch appears at most once, marked as known.
    3. A known patch comes before every patch that is written in its own or in a later frame.
    4. The same arguments give the same plan.
    5. On a grid that ``supports_endless`` accepts, the plan is lazy and reaches every patch.
    """

    training_symmetries: tuple[tuple[float, Symmetry], ...] = ()
    """Weights and basic orders that training draws from; empty: training follows the controller's own plan."""

    @abstractmethod
    def steps(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield the plan; ``grid`` is supported and ``known`` lies in it."""

    @abstractmethod
    def supports_endless(self, grid: PatchGrid) -> bool:
        """Say whether a lazy plan of ``grid``, which has an endless axis, reaches every patch."""

    @final
    def plan(self, grid: PatchGrid, known: Collection[PatchIndex] = frozenset()) -> Iterator[Step]:
        """Return the steps that fill ``grid``, lazily.

        Args:
            grid: the canvas.
            known: patches that are given; anywhere in the grid.

        Raises:
            UsageError: if a known patch lies outside the grid, or the endless axis is not supported.
            LawError: while the steps are drawn, when the controller breaks a law.
        """
        given = frozenset(PatchIndex(*patch) for patch in known)
        outside = sorted(patch for patch in given if patch not in grid)
        if outside:
            raise UsageError("known", tuple(outside[0]), f"give patches inside the grid {grid.shape}")
        if grid.endless and not self.supports_endless(grid):
            hint = f"it cannot fill the endless grid {grid.shape}: give that side a length or choose another direction"
            raise UsageError("direction", shown(self), hint)
        return self._held_to_law(grid, given)

    def _held_to_law(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        seen = PatchSet(grid)
        written, last_frame = 0, -1
        for step in self._asked(grid, known):
            patch = step.patch
            if patch not in grid:
                raise self._fault(patch, f"a plan stays inside its grid {grid.shape}")
            if patch in seen:
                raise self._fault(patch, "a plan names each patch once")
            if step.known != (patch in known):
                raise self._fault(patch, "known patches, and no others, are marked as known")
            if not step.known:
                written, last_frame = written + 1, max(last_frame, patch.t)
            elif patch.t <= last_frame:
                raise self._fault(patch, "a known patch comes before what is written in its own or a later frame")
            seen.add(patch)
            yield step
        if grid.endless:
            law = f"breaks its law: a plan of the endless grid {grid.shape} ends"
            raise LawError("direction", shown(self), law, _CHECK)
        if written != grid.size - len(known):
            missing = next(patch for patch in grid if patch not in seen and patch not in known)
            raise self._fault(missing, "every patch that is not known is written")

    def _asked(self, grid: PatchGrid, known: frozenset[PatchIndex]) -> Iterator[Step]:
        """Yield what the subclass yields; what is no step, or an exception, is a fault of the class as well."""
        try:
            for step in self.steps(grid, known):
                if not isinstance(step, Step):
                    law = f"breaks its law: steps yields objects of Step, and {step!r} is none"
                    raise LawError("direction", shown(self), law, _CHECK)
                yield step
        except UsageError:
            raise
        except Exception as error:
            law = f"breaks its law: steps raises no error, and this is one: {type(error).__name__}: {error}"
            raise LawError("direction", shown(self), law, _CHECK) from error

    def _fault(self, patch: PatchIndex, law: str) -> LawError:
        return LawError("direction", f"{shown(self)} at patch {tuple(patch)}", f"breaks its law: {law}", _CHECK)

    @final
    def training_plans(self, grid: PatchGrid) -> Sequence[tuple[float, tuple[Step, ...]]]:
        """Return the plans that a training sample of shape ``grid`` may follow, with weights that sum to 1.

        Raises:
            UsageError: on an endless grid.
        """
        if grid.endless:
            raise UsageError("grid", grid.shape, "a training sample has a size: give every axis a length")
        if not self.training_symmetries:
            return [(1.0, tuple(self.plan(grid)))]
        total = sum(weight for weight, _ in self.training_symmetries)
        return [
            (weight / total, tuple(Step(patch, symmetry) for patch in symmetry.walk(grid)))
            for weight, symmetry in self.training_symmetries
            if weight > 0
        ]
