"""Which plan a training sample follows, laid out as tensors (each layout is made once), and its tokens in that order.

Shape legend: B samples, P steps of a plan, N tokens per patch, K neighbors, S tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.patch_decoder import own_neighbors
from nuwa_lightning.models.layout import PlanLayout
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TokenMask
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import TokenOrder
from nuwa_lightning.training.conditioning import Conditions, SampleText, closing, draw_known


@dataclass(frozen=True)
class Written:
    """Samples that follow plans with the same masks, in writing order.

    Attributes:
        layout: of one of them.
        tokens_BPN: codes, the targets.
        read_BPN: codes as they are read: the same, or some of them wrong.
        neighbors_BPNK: their neighbors, as they are read.
        symmetry_BP: index of each step's symmetry.
        token_mask: what is hidden, unless each token sees earlier ones only.
        text: their texts, for a model that reads text.
    """

    layout: PlanLayout
    tokens_BPN: Tensor
    read_BPN: Tensor
    neighbors_BPNK: Tensor
    symmetry_BP: Tensor
    token_mask: TokenMask | None = None
    text: SampleText | None = None

    @property
    def count(self) -> int:
        """How many tokens are written; those that are given are no targets."""
        return self.tokens_BPN[:, ~self.layout.known_P].numel()

    def weighted(self, loss_BPN: Tensor) -> Tensor:
        """Return the loss of hidden tokens only, if any are, so that the mean over what is written is their mean."""
        if self.token_mask is None:
            return loss_BPN
        masked_BPN = self.token_mask.tokens
        targets = masked_BPN[:, ~self.layout.known_P].sum().clamp_min(1)
        return loss_BPN * masked_BPN * (self.count / targets)


def hide(
    neighbors_BPNK: Tensor,
    decoder: LocalDecoder,
    model: PatchTransformer,
    token_order: TokenOrder,
    generator: torch.Generator,
) -> TokenMask | None:
    """Return what a local decoder hides of patches in training; None where each token sees earlier ones only."""
    B, P, N, _ = neighbors_BPNK.shape
    masked_BPN = decoder.training_mask((B, P, N), generator)
    if masked_BPN is None:
        return None
    own_NK = own_neighbors(model.patch_size, token_order, model.neighbors)
    context_BPNK = neighbors_BPNK.cpu().masked_fill(own_NK != ABSENT, ABSENT)
    groups_BPN = decoder.training_groups(context_BPNK, own_NK, model.neighbors, generator)
    place_NK = own_NK.clamp_min(0)
    if groups_BPN is None:
        gone_BPNK = masked_BPN[:, :, place_NK]
    else:
        gone_BPNK = groups_BPN[:, :, place_NK] >= groups_BPN[:, :, :, None]
    device = neighbors_BPNK.device
    left_BPNK = neighbors_BPNK.masked_fill((gone_BPNK & (own_NK != ABSENT)).to(device), ABSENT)
    return TokenMask(masked_BPN.to(device), left_BPNK, None if groups_BPN is None else groups_BPN.to(device))


def look_up(tokens_S: Tensor, place: Tensor) -> Tensor:
    """Return the tokens at ``place``, ABSENT where that is ABSENT."""
    place = place.to(tokens_S.device)
    return torch.where(place == ABSENT, ABSENT, tokens_S[place.clamp_min(0)])


_KNOWN_LAYOUTS = 256
"""Plans with given patches that are kept: each takes 0.1 s to lay out and some 0.3 MB."""

Shape = tuple[int, int, int]


@final
class TrainingPlans:
    """Plans of a direction controller, drawn for samples."""

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
        """Return the weights and layouts of the plans that a sample of ``(t, y, x)`` tokens may follow."""
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

    def draw(self, shape: Shape, count: int, generator: torch.Generator | None) -> list[PlanLayout]:
        """Return a layout for each of ``count`` samples: drawn, or in turn where there is no generator."""
        weights, layouts = self.layouts(shape)
        if generator is None:
            return [layouts[number % len(layouts)] for number in range(count)]
        choice = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        drawn = [layouts[number] for number in choice]
        for place, number in enumerate(choice):
            if self._happens(self._conditions.known_prob, generator):
                drawn[place] = self._with_known(shape, generator)
            elif self._happens(self._conditions.closing_prob, generator):
                drawn[place] = self._closed(shape, number)
        return drawn

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

    def _with_known(self, shape: Shape, generator: torch.Generator) -> PlanLayout:
        grid = self._grid(shape)
        known = draw_known(grid, generator)
        key = (grid, known)
        if key not in self._known:
            if len(self._known) >= _KNOWN_LAYOUTS:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._lay_out(self._direction.plan(grid, known), grid)
        return self._known[key]
