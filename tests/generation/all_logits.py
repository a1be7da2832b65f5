"""The same tokens scored by every path there is: jointly, patch by patch, and while they are decoded from caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nuwa_lightning.generation.local import LocalDecoder, LocalityLocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder, own_neighbors
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.layout import lay_out
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TokenMask, TransformerConfig, patch_entry
from nuwa_lightning.planning.context import ContextPool
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.text.letters import Letters

PATCH = (2, 2)


class Recorder:
    """Draws as usual and keeps every row's logits."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []
        self.inner = Sampling(top_k=0)

    def draw(self, logits_RK: Tensor, uniform_R: Tensor) -> Tensor:
        self.calls.append(logits_RK.clone())
        return self.inner.draw(logits_RK, uniform_R)


class Plans(NamedTuple):
    """Coarse plans of two canvases, ``ABSENT`` where there is none; on closed axes they go round."""

    tokens_BTYX: Tensor
    wrap: str = ""

    def around(self, patch: PatchIndex) -> Tensor:
        tokens_BYX = self.tokens_BTYX[:, patch.t]
        for axis, name in ((1, "y"), (2, "x")):
            ends = (tokens_BYX.narrow(axis, tokens_BYX.shape[axis] - 1, 1), tokens_BYX.narrow(axis, 0, 1))
            before, after = ends if name in self.wrap else (torch.full_like(end, -1) for end in ends)
            tokens_BYX = torch.cat([before, tokens_BYX, after], dim=axis)
        top, left = patch.y * PATCH[0], patch.x * PATCH[1]
        return tokens_BYX[:, top : top + PATCH[0] + 2, left : left + PATCH[1] + 2]


class AllLogits(NamedTuple):
    """Logits of two canvases in the order of the plan.

    ``decoded`` is NaN at known patches, which are not decoded, and None where nothing was.
    """

    plan: list[Step]
    tokens_BTYX: Tensor
    joint_BPNK: Tensor
    stepped_BPNK: Tensor
    decoded_BPNK: Tensor | None = None
    masked_BPN: Tensor | None = None
    groups_BPN: Tensor | None = None


def build(
    pool: ContextPool,
    num_kv_heads: int,
    feed: str = "key",
    *,
    text_dim: int = 0,
    ahead: bool = False,
    copy_head: bool = False,
    neighbor_embedding: bool = True,
    bidirectional: bool = False,
    coarse_plan: bool = False,
    grouped: bool = False,
    heights: int = 0,
) -> PatchTransformer:
    """Return a model all of whose weights are random: none is zero or one, as many are in a new model."""
    torch.manual_seed(0)
    size = TransformerConfig(
        16, 2, 4, num_kv_heads, 2.0, feed,  # type: ignore[arg-type]
        ahead=ahead, copy_head=copy_head, neighbor_embedding=neighbor_embedding, heights=heights,
    )  # fmt: skip
    model = PatchTransformer(
        16, 4, patch_size=PATCH, embedding_extent=pool.embedding_extent, size=size, text_dim=text_dim,
        bidirectional=bidirectional or grouped, coarse_plan=coarse_plan, grouped=grouped,
    )  # fmt: skip
    model.set_codes(torch.randn(16, 4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@torch.no_grad()
def all_logits(
    model: PatchTransformer,
    pool: ContextPool,
    direction: DirectionController,
    grid: PatchGrid,
    *,
    order: Any = "mirrored",
    known: Mapping[PatchIndex, Tensor] | None = None,
    max_rows: int = 64,
    texts: tuple[str, str] | None = None,
    coarse_BTYX: Tensor | None = None,
) -> AllLogits:
    """Decode two canvases of finite size, recording logits, and score their tokens otherwise."""
    rows, columns = PATCH
    prompts = Prompts.for_canvases(model, Letters().states, texts) if texts else None
    recorder = Recorder()
    plans = None if coarse_BTYX is None else Plans(coarse_BTYX, grid.wrap)
    renderer = InfiniteRenderer(model, pool, direction, order, recorder, max_rows)  # type: ignore[arg-type]
    waves: list[tuple[PatchIndex, int]] = []
    tokens = torch.zeros(2, grid.t or 0, rows * (grid.y or 0), columns * (grid.x or 0), dtype=torch.long)
    for done in renderer.render(grid, seeds=[5, 6], known=known, prompts=prompts, coarse=plans):
        t, y, x = done.patch
        tokens[:, t, rows * y : rows * y + rows, columns * x : columns * x + columns] = done.tokens_BYX
        if not done.known:
            waves.append((done.patch, done.wave))

    steps = list(direction.plan(grid, frozenset(known or {})))
    found = _scored(model, pool, steps, grid, tokens, order, prompts, coarse_BTYX=coarse_BTYX)
    decoded = torch.full_like(found.joint_BPNK, torch.nan)
    number = {step.patch: n for n, step in enumerate(found.plan)}
    calls, at = iter(recorder.calls), 0
    while at < len(waves):
        wave = [patch for patch, _ in waves[at : at + waves[at][1]]]
        calls_RNK = torch.stack([next(calls) for _ in range(rows * columns)], dim=1)
        for s, patch in enumerate(wave):
            decoded[:, number[patch]] = calls_RNK[2 * s : 2 * s + 2]
        at += len(wave)
    assert next(calls, None) is None
    return found._replace(decoded_BPNK=decoded)


class Groups(LocalDecoder):
    """A grouped decoder that keeps which places each wave was asked for, and the logits."""

    bidirectional, grouped = True, True

    def __init__(self, steps: int) -> None:
        self.inner, self.waves = LocalityLocalDecoder(steps), list[tuple[Tensor, Tensor]]()

    def draws(self, tokens: int) -> int:
        return self.inner.draws(tokens)

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        R, N = patches.tokens_RN.shape
        groups_RN, logits_RNK, read, number = torch.zeros(R, N).long(), torch.zeros(R, N, 16), patches.group_logits, 0

        def group_logits(places_Rn: Tensor) -> Tensor:
            nonlocal number
            logits_RnK = read(places_Rn)
            groups_RN.scatter_(1, places_Rn, number)
            logits_RNK.scatter_(1, places_Rn[:, :, None].expand(-1, -1, 16), logits_RnK)
            number += 1
            return logits_RnK

        patches.group_logits = group_logits  # type: ignore[method-assign]
        self.inner.decode(patches, sampling, uniform_RU)
        self.waves.append((groups_RN, logits_RNK))

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        raise NotImplementedError


@torch.no_grad()
def grouped_logits(
    model: PatchTransformer,
    pool: ContextPool,
    direction: DirectionController,
    grid: PatchGrid,
    *,
    order: Any = "mirrored",
    known: Mapping[PatchIndex, Tensor] | None = None,
    texts: tuple[str, str] | None = None,
    coarse_BTYX: Tensor | None = None,
    steps: int = 3,
) -> AllLogits:
    """Decode two canvases group by group, recording logits, and score their tokens otherwise."""
    rows, columns = PATCH
    prompts = Prompts.for_canvases(model, Letters().states, texts) if texts else None
    plans, decoder = None if coarse_BTYX is None else Plans(coarse_BTYX, grid.wrap), Groups(steps)
    renderer = InfiniteRenderer(model, pool, direction, order, Sampling(top_k=0), local_decoder=decoder)
    tokens = torch.zeros(2, grid.t or 0, rows * (grid.y or 0), columns * (grid.x or 0), dtype=torch.long)
    written = []
    for done in renderer.render(grid, seeds=[5, 6], known=known, prompts=prompts, coarse=plans):
        t, y, x = done.patch
        tokens[:, t, rows * y : rows * y + rows, columns * x : columns * x + columns] = done.tokens_BYX
        written += [] if done.known else [done.patch]
    plan = list(direction.plan(grid, frozenset(known or {})))
    number = {step.patch: n for n, step in enumerate(plan)}
    groups_BPN = torch.zeros(2, len(plan), rows * columns, dtype=torch.long)
    decoded = torch.full((2, len(plan), rows * columns, 16), torch.nan)
    of_rows = [torch.cat(parts) for parts in zip(*decoder.waves, strict=True)]
    for s, patch in enumerate(written):
        groups_BPN[:, number[patch]], decoded[:, number[patch]] = (each[2 * s : 2 * s + 2] for each in of_rows)
    every = torch.ones_like(groups_BPN, dtype=torch.bool)
    found = _scored(model, pool, plan, grid, tokens, order, prompts, every, coarse_BTYX, groups_BPN)
    return found._replace(decoded_BPNK=decoded)


@torch.no_grad()
def masked_logits(
    model: PatchTransformer,
    pool: ContextPool,
    direction: DirectionController,
    grid: PatchGrid,
    *,
    order: Any = "mirrored",
    texts: tuple[str, str] | None = None,
    coarse_BTYX: Tensor | None = None,
) -> AllLogits:
    """Score random tokens of two canvases, half of which are masked, with a bidirectional model."""
    prompts = Prompts.for_canvases(model, Letters().states, texts) if texts else None
    tokens = torch.randint(0, 16, (2, grid.t or 0, PATCH[0] * (grid.y or 0), PATCH[1] * (grid.x or 0)))
    masked = torch.rand(2, grid.size, PATCH[0] * PATCH[1]) < 0.5
    return _scored(model, pool, list(direction.plan(grid)), grid, tokens, order, prompts, masked, coarse_BTYX)


def _scored(
    model: PatchTransformer,
    pool: ContextPool,
    plan: list[Step],
    grid: PatchGrid,
    tokens: Tensor,
    order: Any,
    prompts: Prompts | None,
    masked: Tensor | None = None,
    coarse_BTYX: Tensor | None = None,
    groups: Tensor | None = None,
) -> AllLogits:
    layout = lay_out(
        plan, pool, grid=grid, patch_size=PATCH, embedding=model.layer(0).embedding, token_order=order,
        neighbors=model.neighbors,
    )  # fmt: skip
    tokens_BPN = tokens.flatten(1)[:, layout.index_PN]
    plans = [] if coarse_BTYX is None else [coarse_BTYX.flatten(1)]
    neighbors = torch.cat([tokens.flatten(1), *plans, torch.full((2, 1), -1)], dim=1)[:, layout.neighbors_PNK]
    entry_BP = patch_entry(layout.symmetry_P, layout.height_P, model.size.heights).expand(2, -1)
    text = None if prompts is None else prompts.rows([PatchIndex(0, 0, 0)])
    mask = None
    if masked is not None:
        own_NK = own_neighbors(PATCH, order, model.neighbors)
        gone = masked[:, :, own_NK.clamp_min(0)]
        if groups is not None:
            gone = groups[:, :, own_NK.clamp_min(0)] >= groups[:, :, :, None]
        mask = TokenMask(masked, neighbors.masked_fill(gone & (own_NK >= 0), -1), groups)
    joint = model(tokens_BPN, entry_BP, neighbors_BPNK=neighbors, groups=layout.groups, text=text, token_mask=mask)

    stepped, states = torch.zeros_like(joint), {}
    place = {int(step): (group, i) for group in layout.groups for i, step in enumerate(group.steps_P)}
    for step in range(len(plan)):
        group, i = place[step]
        stepped[:, step], states[step] = model.forward_step(
            tokens_BPN[:, step], entry_BP[:, step], neighbors_RNK=neighbors[:, step],
            context=[states[int(c)] for c in group.context_PC[i]], offset_RC=group.offset_PC[i].expand(2, -1),
            symmetry_RC=group.symmetry_PC[i].expand(2, -1), text=text,
            token_mask=mask and mask.of(lambda x: x[:, step]),  # noqa: B023 - called at once
        )  # fmt: skip
    return AllLogits(plan, tokens, joint, stepped, masked_BPN=masked, groups_BPN=groups)
