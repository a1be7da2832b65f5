"""Which plan a training sample follows, laid out as tensors (each layout is made once), and its tokens in that order.

Shape legend: B samples, G samples of all processes that train together, P steps of a plan, N tokens per patch,
K neighbors, S tokens of a sample.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from nuwa_lightning.errors import LawError, UsageError, shown
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.patch_decoder import own_neighbors
from nuwa_lightning.models.layout import PlanLayout
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TokenMask, patch_entry
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import TokenOrder
from nuwa_lightning.training.conditioning import Conditions, SampleText, closing, draw_known


class Whole(NamedTuple):
    """What all processes that train together have.

    Attributes:
        samples: how many follow plans with the same masks.
        total: how many tokens are written of the whole batch, whatever its plans.
        masked_GPN: which tokens of these samples are hidden, if any are.
    """

    samples: int
    total: int
    masked_GPN: Tensor | None


@dataclass(frozen=True)
class Written:
    """Samples that follow plans with the same masks, in writing order.

    Attributes:
        layout: of one of them.
        tokens_BPN: codes, the targets.
        read_BPN: codes as they are read: the same, or some of them wrong.
        neighbors_BPNK: their neighbors, as they are read.
        entry_BP: entry of the patch embedding of each step.
        whole: these samples and those that follow such plans in other processes.
        token_mask: what is hidden, unless each token sees earlier ones only.
        text: their texts, for a model that reads text.
        idle: of no weight: they keep other processes company, which have such samples.
    """

    layout: PlanLayout
    tokens_BPN: Tensor
    read_BPN: Tensor
    neighbors_BPNK: Tensor
    entry_BP: Tensor
    whole: Whole
    token_mask: TokenMask | None = None
    text: SampleText | None = None
    idle: bool = False

    @property
    def count(self) -> int:
        """How many tokens are written in all processes; those that are given are no targets."""
        _, P, N = self.tokens_BPN.shape
        return self.whole.samples * (P - int(self.layout.known_P.sum())) * N

    def share(self, step: int) -> float:
        """Return which share of the targets of a step this process has."""
        masked_GPN = self.whole.masked_GPN
        if self.idle:
            return 0.0
        if self.token_mask is None or masked_GPN is None:
            return len(self.tokens_BPN) / self.whole.samples
        return float(self.token_mask.tokens[:, step].sum()) / float(masked_GPN[:, step].sum())

    def weighted(self, loss_BPN: Tensor) -> Tensor:
        """Return the loss of hidden tokens only, if any are, so that the mean over what is written is their mean."""
        masked_GPN = self.whole.masked_GPN
        if self.idle:
            return 0 * loss_BPN
        if self.token_mask is None or masked_GPN is None:
            return loss_BPN
        targets = masked_GPN[:, ~self.layout.known_P].sum().clamp_min(1)
        return loss_BPN * self.token_mask.tokens * (self.count / targets).to(loss_BPN.device)


def hide(
    neighbors_BPNK: Tensor,
    layouts: Mapping[int, PlanLayout],
    own: range,
    decoder: LocalDecoder,
    model: PatchTransformer,
    token_order: TokenOrder,
    generator: torch.Generator,
) -> tuple[TokenMask | None, Tensor | None]:
    """Return what a local decoder hides of patches in training, in this process ``[B, ...]``, and in all (``G``).

    None where each token sees earlier ones only. ``layouts`` are of all samples, of which ``own`` are this process's.
    """
    P, N, _ = neighbors_BPNK.shape[1:]
    masked_GPN = decoder.training_mask((len(layouts), P, N), generator)
    if masked_GPN is None:
        return None, None
    is_own = [number in own for number in layouts]
    own_NK = own_neighbors(model.patch_size, token_order, model.neighbors)
    context_GPNK = neighbors_BPNK.cpu()
    if not all(is_own):  # of others only how many there are counts
        context_GPNK = torch.stack([layout.neighbors_PNK for layout in layouts.values()])
        context_GPNK[is_own] = neighbors_BPNK.cpu()
    context_GPNK = context_GPNK.masked_fill(own_NK != ABSENT, ABSENT)
    groups_GPN = decoder.training_groups(context_GPNK, own_NK, model.neighbors, generator)
    place_NK, masked_BPN = own_NK.clamp_min(0), masked_GPN[is_own]
    groups_BPN = None if groups_GPN is None else groups_GPN[is_own]
    if groups_BPN is None:
        gone_BPNK = masked_BPN[:, :, place_NK]
    else:
        gone_BPNK = groups_BPN[:, :, place_NK] >= groups_BPN[:, :, :, None]
    device = neighbors_BPNK.device
    left_BPNK = neighbors_BPNK.masked_fill((gone_BPNK & (own_NK != ABSENT)).to(device), ABSENT)
    groups_BPN = None if groups_BPN is None else groups_BPN.to(device)
    return TokenMask(masked_BPN.to(device), left_BPNK, groups_BPN), masked_GPN


def check_hiding(decoder: LocalDecoder) -> None:
    """Refuse a local decoder that hides tokens of a causal model in training, or none of a bidirectional one.

    Raises:
        LawError: naming the law.
    """
    hides = decoder.training_mask((1, 1, 1), torch.Generator().manual_seed(0)) is not None
    if hides != decoder.bidirectional:
        law = "a bidirectional decoder hides tokens in training"
        law = "a causal decoder hides nothing (training_mask returns None)" if hides else law
        raise LawError("model.local_decoder", shown(decoder), law, "check_local_decoder")


def look_up(tokens_S: Tensor, place: Tensor) -> Tensor:
    """Return the tokens at ``place``, ABSENT where that is ABSENT."""
    place = place.to(tokens_S.device)
    return torch.where(place == ABSENT, ABSENT, tokens_S[place.clamp_min(0)])


def gathered(
    layouts: Mapping[int, PlanLayout],
    layout: PlanLayout,
    tokens_BS: Tensor,
    read_BS: Tensor,
    seen_BM: Tensor,
    *,
    reach_B2: Tensor | None,
    heights: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the tokens of some samples as :class:`Written` holds them: targets, read, neighbors and entries.

    Args:
        layouts: of each of the samples, by its place in the batch; there may be none.
        layout: one with the same masks.
        tokens_BS: the batch.
        read_BS: how it is read.
        seen_BM: the same with the coarse plan behind it, where there is one.
        reach_B2: how high the top and the bottom of each sample lie in its image; None or NaN: nothing is told.
        heights: see `TransformerConfig`.
    """
    (P, N, K), device = layout.neighbors_PNK.shape, tokens_BS.device

    def stacked(parts: list[Tensor], *shape: int) -> Tensor:
        return torch.stack(parts) if parts else torch.zeros(0, *shape, dtype=torch.long, device=device)

    tokens_BPN = stacked([tokens_BS[b][p.index_PN.to(device)] for b, p in layouts.items()], P, N)
    read_BPN = tokens_BPN
    if read_BS is not tokens_BS:
        read_BPN = stacked([read_BS[b][p.index_PN.to(device)] for b, p in layouts.items()], P, N)
    neighbors_BPNK = stacked([look_up(seen_BM[b], p.neighbors_PNK) for b, p in layouts.items()], P, N, K)
    entry_BP = stacked([p.symmetry_P for p in layouts.values()], P).to(device)
    if reach_B2 is not None:
        height_BP = stacked([p.height_P for p in layouts.values()], P).to(device)
        top_B1, bottom_B1 = reach_B2[[*layouts]].chunk(2, dim=1)
        entry_BP = patch_entry(entry_BP, top_B1 + (bottom_B1 - top_B1) * height_BP, heights)
    return tokens_BPN, read_BPN, neighbors_BPNK, entry_BP


def no_loss(model: nn.Module) -> Tensor:
    """Return a loss of zero, with gradients of zero for all that is trained."""
    return 0 * torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum()


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
        self._plans: dict[Shape, tuple[Tensor, list[Sequence[Step]]]] = {}
        self._layouts: dict[tuple[Shape, int], PlanLayout] = {}
        self._closing: dict[tuple[Shape, int], PlanLayout] = {}
        self._known: dict[tuple[PatchGrid, frozenset[PatchIndex]], PlanLayout] = {}

    @property
    def frames(self) -> int:
        """How many frames the longest sample had so far, at least 1."""
        return max((shape[0] for shape in self._plans), default=1)

    def layouts(self, shape: Shape) -> tuple[Tensor, list[PlanLayout]]:
        """Return the weights and layouts of the plans that a sample of ``(t, y, x)`` tokens may follow."""
        weights, plans = self._training_plans(shape)
        return weights, [self._layout(shape, number) for number in range(len(plans))]

    def _training_plans(self, shape: Shape) -> tuple[Tensor, list[Sequence[Step]]]:
        if shape not in self._plans:
            rows, columns = self._patch_size
            if shape[1] % rows or shape[2] % columns:
                hint = f"training crops of {shape[1]}x{shape[2]} tokens are not whole patches: change data.grid"
                raise UsageError("model.patch_size", self._patch_size, hint)
            found = self._direction.training_plans(self._grid(shape))
            weights = torch.tensor([weight for weight, _ in found], dtype=torch.float64)
            self._plans[shape] = weights, [plan for _, plan in found]
        return self._plans[shape]

    def _layout(self, shape: Shape, number: int) -> PlanLayout:
        if (shape, number) not in self._layouts:
            plan = self._training_plans(shape)[1][number]
            self._layouts[shape, number] = self._lay_out(plan, self._grid(shape))
        return self._layouts[shape, number]

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
        weights, plans = self._training_plans(shape)
        choice = [number % len(plans) for number in range(count)]
        if generator is not None:
            choice = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        drawn: list[PlanLayout | None] = [self._layout(shape, number) for number in choice]
        known = 0
        if generator is not None:
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
            grid, plan = self._grid(shape), self._training_plans(shape)[1][number]
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
