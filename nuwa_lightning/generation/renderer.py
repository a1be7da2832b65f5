"""The global autoregression: walk a plan, write each patch, forget what no later patch can see (paper, Algorithm 2).

Shape legend: B canvases side by side, S steps of a wave, R = S * B rows (twice as many under guidance), N tokens per
patch, K codes, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nuwa_lightning.context.base import ContextPool
from nuwa_lightning.direction.base import DirectionController
from nuwa_lightning.generation.cache import SlotCache
from nuwa_lightning.generation.layout import near_places, place_tokens, read_tokens, step_tensors
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.sampling import Sampling, patch_uniforms
from nuwa_lightning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.modules.neighbours import ABSENT
from nuwa_lightning.modules.patch_states import PatchStates, RowBatch
from nuwa_lightning.modules.patch_transformer import PatchTransformer
from nuwa_lightning.planning import PlannedStep, TokenOrder, walk, waves


@dataclass(frozen=True)
class RenderedPatch:
    """A finished patch of every canvas.

    Attributes:
        patch: where it lies.
        tokens_BYX: its tokens as they lie on the canvas.
        known: whether it was given rather than written.
        wave: how many steps were written together with it.
        live: how many steps the pool holds after it.
    """

    patch: PatchIndex
    tokens_BYX: Tensor
    known: bool
    wave: int
    live: int


@dataclass(frozen=True)
class Standstill:
    """Where a canvas in the making stands between two waves: enough to go on, to the bit, in another process.

    What is to be written, and by which renderer, has to be the same; the plan is walked anew.

    Attributes:
        waves: how many are finished.
        tokens: of each step in the pool, ``[B, rows, columns]`` as they lie on the canvas.
        states: of each step in the pool, what later patches see of it.
    """

    waves: int
    tokens: Mapping[int, Tensor]
    states: Mapping[int, PatchStates]


@dataclass(frozen=True)
class InfiniteRenderer:
    """The one sampler: generation, logging and evaluation all call it.

    It holds no state of a canvas, so several canvases can be rendered by one renderer at once.

    Args:
        model: the patch transformer.
        pool: what a patch may see.
        direction: in which order.
        token_order: as in training.
        sampling: how a token is drawn.
        max_rows: most patches (steps times canvases) that are written side by side.
    """

    model: PatchTransformer
    pool: ContextPool
    direction: DirectionController
    token_order: TokenOrder = "mirrored"
    sampling: Sampling = field(default_factory=Sampling)
    max_rows: int = 64

    def render(
        self,
        grid: PatchGrid,
        *,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor] | None = None,
        prompts: Prompts | None = None,
    ) -> Iterator[RenderedPatch]:
        """Write a canvas (or several of the same grid) patch by patch; arguments as for :class:`Rendering`.

        Yields:
            Finished patches, in an order that respects the plan; memory is bounded by the live set.
        """
        for wave in Rendering(self, grid, seeds=seeds, known=known, prompts=prompts):
            yield from wave

    def _write(
        self,
        steps: Sequence[PlannedStep],
        cache: SlotCache,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor],
        live: Mapping[int, Tensor],
        prompts: Prompts | None,
    ) -> Tensor:
        """Write (or, if known, read) independent patches; returns tokens ``[S, B, N]`` in writing order."""
        S, B, N = len(steps), len(seeds), self.model.patch_tokens
        halves = _Halves(prompts, B)
        copies = B * halves.count
        device = self.model.begin.device
        keys, values, valid_RC = cache.gather([s.context for s in steps])
        C = valid_RC.shape[1]
        offset_SC = torch.zeros(S, C, dtype=torch.long)
        view_SC = torch.zeros(S, C, dtype=torch.long)
        for s, planned in enumerate(steps):
            entries, views = step_tensors(planned, self.model.layer(0).embedding)
            offset_SC[s, : len(entries)] = torch.tensor(entries, dtype=torch.long)
            view_SC[s, : len(views)] = torch.tensor(views, dtype=torch.long)
        view_S = torch.tensor([0 if self.token_order == "raster" else s.step.view.index for s in steps])
        rows = RowBatch(
            self.model,
            view_S.repeat_interleave(copies).to(device),
            context_keys=keys,
            context_values=values,
            offset_RC=offset_SC.repeat_interleave(copies, dim=0).to(device),
            relative_view_RC=view_SC.repeat_interleave(copies, dim=0).to(device),
            valid_RC=valid_RC,
            text=prompts.rows([s.step.patch for s in steps]) if prompts else None,
        )
        near = _Near(steps, live, canvases=B, patch_size=self.model.patch_size, token_order=self.token_order)
        if steps[0].step.known:
            tokens_RN = torch.cat(
                [read_tokens(known[s.step.patch], s.step.view, token_order=self.token_order) for s in steps]
            ).to(device)
            near_RNK = near.all(tokens_RN.cpu()).to(device)
            x_RLW = self.model.embed_rows(halves.both(tokens_RN), rows.view_R, near_RNK=halves.both(near_RNK))
            rows.advance(x_RLW)
        else:
            uniform_RN = torch.stack([patch_uniforms(seed, s.step.patch, N) for s in steps for seed in seeds])
            tokens_RN = self._decode(rows, uniform_RN.to(device), near, halves, self._given(steps, known, B).to(device))
        states = rows.states()
        for s, planned in enumerate(steps):
            cache.put(planned.number, states.rows(slice(s * copies, (s + 1) * copies)))
        return tokens_RN.view(S, B, N).cpu()

    def _given(self, steps: Sequence[PlannedStep], known: Mapping[PatchIndex, Tensor], canvases: int) -> Tensor:
        """Return the tokens ``[R, N]`` of patches that are given in part, in writing order, else ``ABSENT``."""
        nothing = torch.full((canvases, *self.model.patch_size), ABSENT)
        return torch.cat(
            [read_tokens(known.get(s.step.patch, nothing), s.step.view, token_order=self.token_order) for s in steps]
        )

    def _decode(self, rows: RowBatch, uniform_RN: Tensor, near: _Near, halves: _Halves, given_RN: Tensor) -> Tensor:
        R, N = uniform_RN.shape
        tokens_RN = torch.zeros(R, N, dtype=torch.long, device=uniform_RN.device)
        token_R = tokens_RN[:, 0]
        for n in range(N):
            near_RK = halves.both(near.at(n, tokens_RN))
            x_R1W = rows.advance(self.model.embed_token(halves.both(token_R), rows.view_R, n, near_RK=near_RK))
            drawn_R = self.sampling.draw(halves.one(self.model.logits(x_R1W[:, 0])), uniform_RN[:, n])
            token_R = torch.where(given_RN[:, n] == ABSENT, drawn_R, given_RN[:, n])
            tokens_RN[:, n] = token_R
        # The last token is an input too: later patches look at its states.
        rows.advance(self.model.embed_token(halves.both(token_R), rows.view_R, N, near_RK=None))
        return tokens_RN


class Rendering:
    """A canvas (or several of the same grid) in the making: iterate over it, wave by wave.

    Each wave is a list of finished patches, in an order that respects the plan; memory is bounded by the live set.

    Args:
        renderer: who writes.
        grid: the canvas in patches; one axis may be endless, others closed.
        seeds: one for each canvas.
        known: given patches, tokens ``[B, rows, columns]``; they are read first and never changed. Of a patch that
            is given in part, what is not is ``ABSENT``, for all canvases alike; it is written around what is given.
        prompts: the texts, for a model that reads text.
        standstill: go on from here.
    """

    def __init__(
        self,
        renderer: InfiniteRenderer,
        grid: PatchGrid,
        *,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor] | None = None,
        prompts: Prompts | None = None,
        standstill: Standstill | None = None,
    ) -> None:
        self._renderer = renderer
        self._seeds, self._known, self._prompts = tuple(seeds), dict(known or {}), prompts
        model = renderer.model
        whole = frozenset(patch for patch, tokens_BYX in self._known.items() if not bool((tokens_BYX == ABSENT).any()))
        walked = walk(renderer.direction.plan(grid, whole), renderer.pool, grid, token_order=renderer.token_order)
        attention = model.layer(0).attention
        copies = len(self._seeds) * (prompts.copies if prompts else 1)
        shape = (copies, model.patch_tokens, attention.kv_heads, attention.head_width)
        self._waves = waves(
            walked, max_width=max(1, renderer.max_rows // copies), lookahead=self._lookahead(grid, renderer.max_rows)
        )
        self._cache = SlotCache(model.depth, shape, like=model.begin)
        self._live: dict[int, Tensor] = {}
        self.finished = 0
        """How many waves are finished."""
        if standstill is not None:
            self._restore(standstill)

    @staticmethod
    def _lookahead(grid: PatchGrid, most: int) -> int:
        """Return how many steps of the plan must be under way for the widest front."""
        sides = sorted(n or 0 for n in grid.shape[1:] if n is not None)
        return max(1024, sides[0] * min(sides[0], 2 * most))

    def __iter__(self) -> Rendering:
        return self

    @torch.inference_mode()
    def __next__(self) -> list[RenderedPatch]:
        renderer, wave = self._renderer, next(self._waves)
        done = []
        for given in (True, False):
            steps = [s for s in wave.steps if s.step.known is given]
            if not steps:
                continue
            tokens_SBN = renderer._write(steps, self._cache, self._seeds, self._known, self._live, self._prompts)
            for planned, tokens_BN in zip(steps, tokens_SBN, strict=True):
                tokens_BYX = place_tokens(
                    tokens_BN, planned.step.view, patch_size=renderer.model.patch_size, token_order=renderer.token_order
                )
                self._live[planned.number] = tokens_BYX
                done.append(RenderedPatch(planned.patch, tokens_BYX, given, len(steps), self._cache.live))
        for number in wave.freed:
            self._cache.drop(number)
            del self._live[number]
        self.finished += 1
        return done

    def standstill(self) -> Standstill:
        """Return where this canvas stands; to be used before the next wave, since nothing is copied."""
        return Standstill(self.finished, dict(self._live), {number: self._cache.get(number) for number in self._live})

    def _restore(self, standstill: Standstill) -> None:
        live: set[int] = set()
        for wave in itertools.islice(self._waves, standstill.waves):
            live |= {planned.number for planned in wave.steps}
            live -= set(wave.freed)
        if live != set(standstill.tokens) or live != set(standstill.states):
            raise ValueError(f"the standstill after wave {standstill.waves} is of another canvas")
        self.finished = standstill.waves
        self._live = dict(standstill.tokens)
        for number, states in standstill.states.items():
            self._cache.put(number, states)


class _Halves:
    """Rows with and without text, side by side in one forward; one half only where there is no guidance."""

    def __init__(self, prompts: Prompts | None, canvases: int) -> None:
        self._prompts, self._canvases = prompts, canvases
        self.count = prompts.copies if prompts else 1

    def both(self, rows: Tensor) -> Tensor:
        """Repeat rows ``[S, B, ...]``, flattened, to ``[S, halves, B, ...]``, flattened."""
        if self.count == 1:
            return rows
        pairs = torch.unflatten(rows, 0, (-1, 1, self._canvases))
        return pairs.expand(-1, self.count, *pairs.shape[2:]).flatten(0, 2)

    def one(self, logits_RK: Tensor) -> Tensor:
        """Return one row of scores a canvas."""
        return self._prompts.guided(logits_RK, canvases=self._canvases) if self._prompts else logits_RK


class _Near:
    """The neighbours of the tokens of a wave: those in context patches are there, those in the patch itself come up."""

    def __init__(
        self,
        steps: Sequence[PlannedStep],
        live: Mapping[int, Tensor],
        *,
        canvases: int,
        patch_size: tuple[int, int],
        token_order: TokenOrder,
    ) -> None:
        cells = patch_size[0] * patch_size[1]
        given, own = [], []
        for planned in steps:
            own_NK, place_NK = near_places(planned.step.view, planned.places, patch_size, token_order)
            # One more place holds ABSENT, which is where a negative index points.
            tokens_BS = torch.full((canvases, len(planned.context) * cells + 1), ABSENT)
            for c, number in enumerate(planned.context):
                tokens_BS[:, c * cells : (c + 1) * cells] = live[number].flatten(1)
            given.append(tokens_BS[:, place_NK])
            own.append(own_NK.expand(canvases, -1, -1))
        self._given_RNK, self._own_RNK = torch.cat(given), torch.cat(own)

    def all(self, tokens_RN: Tensor) -> Tensor:
        """Return the neighbours ``[R, N, K]`` of patches that are known."""
        return self._merge(tokens_RN, slice(None))

    def at(self, place: int, tokens_RN: Tensor) -> Tensor:
        """Return the neighbours ``[R, K]`` of one token, from those written so far."""
        return self._merge(tokens_RN.cpu(), slice(place, place + 1))[:, 0].to(tokens_RN.device)

    def _merge(self, tokens_RN: Tensor, places: slice) -> Tensor:
        own_RnK = self._own_RNK[:, places]
        written_RnK = tokens_RN.gather(1, own_RnK.clamp_min(0).flatten(1)).view(own_RnK.shape)
        return torch.where(own_RnK == ABSENT, self._given_RNK[:, places], written_RnK)
