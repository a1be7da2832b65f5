"""The global autoregression: walk a plan, write each patch, forget what no later patch can see (paper, Algorithm 2).

Shape legend: B canvases side by side, S steps of a wave, R = S * B rows (twice as many under guidance), N tokens per
patch, K codes, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError, shown
from nuwa_lightning.generation.coarse_plan import CoarseTokens
from nuwa_lightning.generation.fast_transformer import DecodingTransformer, Precision
from nuwa_lightning.generation.kv_cache import SlotCache
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder
from nuwa_lightning.generation.patch_batch import PatchStates, RowBatch
from nuwa_lightning.generation.patch_decoder import GuidanceBatch, PatchDecoder, neighbors_in_context
from nuwa_lightning.generation.processes import Processes
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.sampling import Sampling, patch_key, patch_uniforms, signed
from nuwa_lightning.models.layout import place_tokens, read_tokens, step_tensors
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, patch_entry
from nuwa_lightning.planning.context.base import ContextPool
from nuwa_lightning.planning.direction.base import DirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex, Symmetry
from nuwa_lightning.planning.schedule import PlannedStep, TokenOrder, walk, waves


@dataclass(frozen=True)
class RenderedPatch:
    """A finished patch of every canvas.

    Attributes:
        patch: where it lies.
        tokens_BYX: its tokens as they lie on the canvas.
        known: whether it was given rather than written.
        wave: how many steps were written together with it.
        live: how many steps the pool holds after it.
        context: which patches it sees.
        symmetry: the direction of travel.
    """

    patch: PatchIndex
    tokens_BYX: Tensor
    known: bool
    wave: int
    live: int
    context: tuple[PatchIndex, ...]
    symmetry: Symmetry


@dataclass(frozen=True)
class DecodingState:
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


MOST_THREADS: Final = 1024


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
        precision: how numbers are kept while writing.
        local_decoder: how the tokens of a patch are written, as in training.
        threads: of the CPU, for the many small steps of decoding; beside other processes more than one makes each step
            wait for a thread that is not running. Pixels are decoded with as many as torch uses elsewhere.
        processes: those that write together, each a part of every wave; None for this one alone.

    Raises:
        UsageError: if the model was trained for another local decoder, this one refuses the precision, or there are no
            threads.
    """

    model: PatchTransformer
    pool: ContextPool
    direction: DirectionController
    token_order: TokenOrder = "mirrored"
    sampling: Sampling = field(default_factory=Sampling)
    max_rows: int = 64
    precision: Precision = field(default_factory=Precision)
    local_decoder: LocalDecoder = field(default_factory=AutoregressiveLocalDecoder)
    threads: int = 1
    processes: Processes | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError("threads", self.threads, f"give a whole number from 1 to {MOST_THREADS}")
        decoder, model = self.local_decoder, self.model
        if (decoder.bidirectional, decoder.grouped) != (model.bidirectional, model.grouped):
            has = "grouped" if model.grouped else "bidirectional" if model.bidirectional else "causal"
            raise UsageError(
                "local_decoder", self.local_decoder, f"the model is {has}: use the one it was trained with"
            )

        self.local_decoder.check(self.precision)

    def walk(self, grid: PatchGrid, whole: frozenset[PatchIndex]) -> Iterator[PlannedStep]:
        """Return the steps of a canvas of which these patches are known as a whole, lazily."""
        return walk(self.direction.plan(grid, whole), self.pool, grid, token_order=self.token_order)

    def render(
        self,
        grid: PatchGrid,
        *,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor] | None = None,
        prompts: Prompts | None = None,
        coarse: CoarseTokens | None = None,
    ) -> Iterator[RenderedPatch]:
        """Write a canvas (or several of the same grid) patch by patch; arguments as for :class:`Rendering`.

        Yields:
            Finished patches, in an order that respects the plan; memory is bounded by the live set.
        """
        for wave in Rendering(self, grid, seeds=seeds, known=known, prompts=prompts, coarse=coarse):
            yield from wave


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        decoding_state: go on from here.
        coarse: what the model reads of a coarse plan; None for no plan.
        plan_guidance: how strongly the plan pulls; 1 as trained, more exaggerates, at twice the work.
        walked: instead of the plan of the grid, these of its steps, each after all that it sees.
        corner: where the grid's first patch lies on the lattice ``(t, y, x)`` whose positions random numbers go by.

    Raises:
        UsageError: if plan and text are both to pull.
    """

    def __init__(
        self,
        renderer: InfiniteRenderer,
        grid: PatchGrid,
        *,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor] | None = None,
        prompts: Prompts | None = None,
        decoding_state: DecodingState | None = None,
        coarse: CoarseTokens | None = None,
        walked: Iterable[PlannedStep] | None = None,
        corner: tuple[int, int, int] = (0, 0, 0),
        plan_guidance: float = 1.0,
    ) -> None:
        self._grid = grid
        self._renderer, self._coarse = renderer, coarse if renderer.model.coarse_plan else None
        self._plan_guidance = 1.0 if self._coarse is None else plan_guidance
        if self._plan_guidance != 1 and prompts is not None and prompts.copies != 1:
            hint = "the text pulls already: give `guidance` 1, or leave this out"
            raise UsageError("plan_guidance", plan_guidance, hint)
        self._seeds, self._prompts, self._corner = tuple(seeds), prompts, corner
        self._known: Mapping[PatchIndex, Tensor] = {} if known is None else known
        model = renderer.model
        self._guidance = GuidanceBatch(
            prompts, len(self._seeds), plan=self._plan_guidance, neighbors=renderer.model.neighbors
        )
        if walked is None:
            parts = self._known.items()
            walked = renderer.walk(
                grid, frozenset(patch for patch, tokens in parts if not bool((tokens == ABSENT).any()))
            )
        attention = model.layer(0).attention
        copies = len(self._seeds) * self._guidance.count
        shape = (copies, attention.num_kv_heads, model.patch_tokens, attention.head_dim)
        self._waves = waves(
            walked, max_width=max(1, renderer.max_rows // copies), lookahead=self.lookahead(grid, renderer.max_rows)
        )
        self._model = DecodingTransformer(model, renderer.precision)
        self._cache = SlotCache(model.num_layers, shape, like=model.bos, number=renderer.precision.cache)
        self._live: dict[int, Tensor] = {}
        self._at: dict[int, PatchIndex] = {}
        self._stopped = False
        self.finished = 0
        """How many waves are finished."""
        if decoding_state is not None:
            self._restore(decoding_state)

    @staticmethod
    def lookahead(grid: PatchGrid, most: int) -> int:
        """Return how many steps of the plan must be under way for the widest front."""
        sides = sorted(n or 0 for n in grid.shape[1:] if n is not None)
        return max(1024, sides[0] * min(sides[0], 2 * most))

    def __iter__(self) -> Rendering:
        return self

    @torch.inference_mode()
    def __next__(self) -> list[RenderedPatch]:
        processes = self._renderer.processes
        if self._stopped or (processes is not None and not processes.agree(True)):
            raise StopIteration
        with threads(self._renderer.threads):
            return self._next()

    def stop(self) -> None:
        """End it before its end; of several processes the first one ends it for all, which wait to hear of it."""
        if self._renderer.processes is not None and not self._stopped:
            self._renderer.processes.agree(False)
        self._stopped = True

    def _next(self) -> list[RenderedPatch]:
        renderer, wave = self._renderer, next(self._waves, None)
        if wave is None:
            self._stopped = True
            raise StopIteration
        done = []
        for given in (True, False):
            steps = [s for s in wave.steps if s.step.known is given]
            if not steps:
                continue
            tokens_SBN = self._write(steps)
            for planned, tokens_BN in zip(steps, tokens_SBN, strict=True):
                tokens_BYX = place_tokens(
                    tokens_BN,
                    planned.step.symmetry,
                    patch_size=renderer.model.patch_size,
                    token_order=renderer.token_order,
                )
                context = tuple(self._at[number] for number in planned.context)
                self._live[planned.number], self._at[planned.number] = tokens_BYX, planned.patch
                counts = len(steps), self._cache.live
                done.append(RenderedPatch(planned.patch, tokens_BYX, given, *counts, context, planned.step.symmetry))
        for number in wave.freed:
            self._cache.drop(number)
            del self._live[number], self._at[number]
        self.finished += 1
        return done

    @property
    def alive(self) -> tuple[PatchIndex, ...]:
        """Which patches the pool holds: what later ones may see."""
        return tuple(self._at.values())

    def decoding_state(self) -> DecodingState:
        """Return where this canvas stands; to be used before the next wave, since nothing is copied."""
        return DecodingState(
            self.finished, dict(self._live), {number: self._cache.get(number) for number in self._live}
        )

    def _restore(self, decoding_state: DecodingState) -> None:
        for wave in itertools.islice(self._waves, decoding_state.waves):
            self._at |= {planned.number: planned.patch for planned in wave.steps}
            for number in wave.freed:
                del self._at[number]
        live = set(self._at)
        if live != set(decoding_state.tokens) or live != set(decoding_state.states):
            raise ValueError(f"the state after wave {decoding_state.waves} is of another canvas")
        self.finished = decoding_state.waves
        self._live = dict(decoding_state.tokens)
        for number, states in decoding_state.states.items():
            self._cache.put(number, states)

    def _write(self, steps: Sequence[PlannedStep]) -> Tensor:
        """Write (or, if known, read) independent patches; returns tokens ``[S, B, N]`` in writing order."""
        copies, processes = len(self._seeds) * self._guidance.count, self._renderer.processes
        coarse = None if self._coarse is None else [self._coarse.around(step.patch) for step in steps]
        if processes is None:
            tokens_SBN, states = self._written(steps, slice(0, len(self._seeds)), coarse)
        else:
            tokens_SBN, states = self._written_together(steps, coarse, processes)
        for s, planned in enumerate(steps):
            self._cache.put(planned.number, states.rows(slice(s * copies, (s + 1) * copies)))
        return tokens_SBN

    def _written_together(
        self, steps: Sequence[PlannedStep], coarse: Sequence[Tensor] | None, processes: Processes
    ) -> tuple[Tensor, PatchStates]:
        """Write the part of this process, and take those of the others."""
        model, copies, layers = self._renderer.model, self._guidance.count, self._renderer.model.num_layers
        parts = processes.parts(len(steps), len(self._seeds))
        some, canvases = parts[processes.rank]
        S, B = some.stop - some.start, canvases.stop - canvases.start
        if S and B:
            own = self._written(steps[some], canvases, coarse and coarse[some])
            tokens_SBN, both = own[0], torch.stack([*own[1].keys, *own[1].values], dim=1)
            both = torch.unflatten(both, 0, (S, copies, B)).transpose(1, 2)
        else:  # more processes than there is to write
            attention = model.layer(0).attention
            tokens_SBN = torch.empty(S, B, model.patch_tokens, dtype=torch.long)
            shape = (S, B, copies, 2 * layers, attention.num_kv_heads, model.patch_tokens, attention.head_dim)
            both = torch.empty(shape, dtype=self._model.dtype, device=model.bos.device)
        tokens_SBN, both = processes.gather(tokens_SBN, parts), processes.gather(both, parts)
        pairs = both.transpose(1, 2).flatten(0, 2).unbind(dim=1)
        return tokens_SBN, PatchStates(pairs[:layers], pairs[layers:])

    def _written(
        self, steps: Sequence[PlannedStep], canvases: slice, coarse: Sequence[Tensor] | None
    ) -> tuple[Tensor, PatchStates]:
        """Write independent patches of some canvases: tokens ``[S, B, N]``, states of rows ``[S, copies, B]``."""
        seeds, every = self._seeds[canvases], range(*canvases.indices(len(self._seeds)))
        whole, live = len(every) == len(self._seeds), self._live
        prompts = self._prompts if whole or self._prompts is None else self._prompts.of(canvases)
        model, guidance = self._renderer.model, self._guidance
        if not whole:
            guidance = GuidanceBatch(prompts, len(seeds), plan=self._plan_guidance, neighbors=model.neighbors)
            live = {number: self._live[number][canvases] for step in steps for number in step.context}
        positions = [s.step.patch.shifted(self._corner) for s in steps]
        writer = PatchDecoder(
            self._rows(steps, every, prompts),
            neighbors=neighbors_in_context(
                steps,
                live,
                canvases=len(seeds),
                patch_size=model.patch_size,
                token_order=self._renderer.token_order,
                neighbors=model.neighbors,
                coarse=None if coarse is None else [around[canvases] for around in coarse],
            ),
            given=self._given(steps, canvases),
            guidance=guidance,
            token_order=self._renderer.token_order,
            keys=torch.tensor([signed(patch_key(seed, at)) for at in positions for seed in seeds]),
            writer=shown(self._renderer.local_decoder),
        )
        if not steps[0].step.known:
            decoder = self._renderer.local_decoder
            draws = decoder.draws(model.patch_tokens)
            uniform_RU = torch.stack([patch_uniforms(seed, at, draws) for at in positions for seed in seeds])
            decoder.decode(writer, self._renderer.sampling, uniform_RU.to(writer.tokens_RN.device))
        return torch.unflatten(writer.tokens_RN, 0, (len(steps), len(seeds))).cpu(), writer.states()

    def _rows(self, steps: Sequence[PlannedStep], canvases: range, prompts: Prompts | None) -> RowBatch:
        model, device = self._renderer.model, self._renderer.model.bos.device
        copies = len(canvases) * self._guidance.count
        each = torch.arange(self._guidance.count)[:, None] * len(self._seeds) + torch.tensor(canvases)
        context = self._cache.gather([s.context for s in steps], each.flatten())
        offset_SC = torch.zeros(len(steps), context.valid_RC.shape[1], dtype=torch.long)
        symmetry_SC = torch.zeros_like(offset_SC)
        for s, planned in enumerate(steps):
            entries, symmetries = step_tensors(planned, model.layer(0).embedding)
            offset_SC[s, : len(entries)] = torch.tensor(entries, dtype=torch.long)
            symmetry_SC[s, : len(symmetries)] = torch.tensor(symmetries, dtype=torch.long)
        raster = self._renderer.token_order == "raster"
        symmetry_S = torch.tensor([0 if raster else s.step.symmetry.index for s in steps])
        height_S = torch.tensor([self._grid.height(s.step.patch) for s in steps])
        entry_S = patch_entry(symmetry_S, height_S, model.size.heights)
        return RowBatch(
            self._model,
            entry_S.repeat_interleave(copies).to(device),
            context=context,
            offset_RC=offset_SC.repeat_interleave(copies, dim=0).to(device),
            relative_symmetry_RC=symmetry_SC.repeat_interleave(copies, dim=0).to(device),
            text=None
            if prompts is None
            else prompts.rows([s.step.patch for s in steps], repeated=copies // len(canvases)),
        )

    def _given(self, steps: Sequence[PlannedStep], canvases: slice) -> Tensor:
        """Return the tokens ``[R, N]`` that are given, in writing order, else ``ABSENT``."""
        nothing = torch.full((len(self._seeds), *self._renderer.model.patch_size), ABSENT)
        order = self._renderer.token_order
        known = [(self._known.get(s.step.patch, nothing)[canvases], s.step.symmetry) for s in steps]
        return torch.cat([read_tokens(tokens, symmetry, token_order=order) for tokens, symmetry in known])
