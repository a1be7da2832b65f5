"""Which plan a training sample follows, laid out as tensors; each layout is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.layout import PlanLayout
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.training.conditioning import Conditions, closing, draw_known

_KNOWN_LAYOUTS = 256
"""Plans with given patches that are kept: each takes 0.1 s to lay out and some 0.3 MB."""

Shape = tuple[int, int, int]


@final
class TrainingPlans:
    """Plans of a direction controller, drawn for samples.

    Args:
        direction: whose plans they are.
        conditions: how often parts of a sample are given.
        patch_size: tokens of a patch, rows and columns.
        lay_out: turns a plan into tensors.
    """

    def __init__(
        self,
        direction: DirectionController,
        conditions: Conditions,
        *,
        patch_size: tuple[int, int],
        lay_out: Callable[[Iterable[Step], PatchGrid], PlanLayout],
    ) -> None:
        self._direction, self._conditions, self._patch_size = direction, conditions, patch_size
        self._lay_out = lay_out
        self._layouts: dict[Shape, tuple[Tensor, list[PlanLayout]]] = {}
        self._closing: dict[tuple[Shape, int], PlanLayout] = {}
        self._known: dict[tuple[PatchGrid, frozenset[PatchIndex]], PlanLayout] = {}

    @property
    def frames(self) -> int:
        """How many frames the longest sample had so far, at least 1."""
        return max((shape[0] for shape in self._layouts), default=1)

    def layouts(self, shape: Shape) -> tuple[Tensor, list[PlanLayout]]:
        """Return the weights and layouts of the plans that a sample of ``(t, y, x)`` tokens may follow.

        Raises:
            UsageError: if the sample is no whole number of patches, or a symmetry transposes patches that are not
                square.
            LawError: if the pool or the direction breaks a law.
        """
        if shape not in self._layouts:
            rows, columns = self._patch_size
            if shape[1] % rows or shape[2] % columns:
                hint = f"training crops of {shape[1]}x{shape[2]} tokens are not whole patches: change data.grid"
                raise UsageError("model.patch_size", self._patch_size, hint)
            grid = self._grid(shape)
            weights, layouts = [], []
            for weight, plan in self._direction.training_plans(grid):
                weights.append(weight)
                layouts.append(self._lay_out(plan, grid))
            self._layouts[shape] = torch.tensor(weights, dtype=torch.float64), layouts
        return self._layouts[shape]

    def draw(
        self, shape: Shape, count: int, generator: torch.Generator | None, *, needed: range | None = None
    ) -> tuple[list[PlanLayout | None], int]:
        """Return a layout for each of ``count`` samples: drawn, or in turn where there is no generator.

        Args:
            shape: of a sample.
            count: of samples.
            generator: draws.
            needed: which layouts are needed, by default all; others that would have to be made are None.

        Returns:
            The layouts, and how many patches are written in all.
        """
        weights, layouts = self.layouts(shape)
        drawn: list[PlanLayout | None] = [layouts[number % len(layouts)] for number in range(count)]
        known = 0
        if generator is not None:
            choice = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
            drawn = [layouts[number] for number in choice]
            for place, number in enumerate(choice):
                if self._happens(self._conditions.known_prob, generator):
                    given = draw_known(self._grid(shape), generator)
                    drawn[place] = self._with_known(shape, given) if needed is None or place in needed else None
                    known += len(given) if drawn[place] is None else 0
                elif self._happens(self._conditions.closing_prob, generator):
                    drawn[place] = self._closed(shape, number)
        known += sum(int(layout.known_P.sum()) for layout in drawn if layout is not None)
        return drawn, count * self._grid(shape).size - known

    @staticmethod
    def _happens(share: float, generator: torch.Generator) -> bool:
        # Nothing is drawn for what never happens, so that an option that is off changes no random number.
        return share > 0 and bool(torch.rand((), generator=generator) < share)

    def _grid(self, shape: Shape) -> PatchGrid:
        rows, columns = self._patch_size
        return PatchGrid(shape[0], shape[1] // rows, shape[2] // columns)

    def _closed(self, shape: Shape, number: int) -> PlanLayout:
        if (shape, number) not in self._closing:
            grid = self._grid(shape)
            _, plan = self._direction.training_plans(grid)[number]
            self._closing[shape, number] = self._lay_out(closing(plan, grid), grid)
        return self._closing[shape, number]

    def _with_known(self, shape: Shape, known: frozenset[PatchIndex]) -> PlanLayout:
        grid = self._grid(shape)
        key = (grid, known)
        if key not in self._known:
            if len(self._known) >= _KNOWN_LAYOUTS:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._lay_out(self._direction.plan(grid, known), grid)
        return self._known[key]
