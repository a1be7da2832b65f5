"""The global autoregression: walk a plan, write each patch, forget what no later patch can see (paper, Algorithm 2).

Shape legend: B canvases side by side, S steps of a wave, R = S * B rows, N tokens per patch, K codes, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nuwa_lightning.context.base import ContextPool
from nuwa_lightning.direction.base import DirectionController
from nuwa_lightning.generation.cache import SlotCache
from nuwa_lightning.generation.layout import place_tokens, read_tokens, step_tensors
from nuwa_lightning.generation.sampling import Sampling, patch_uniforms
from nuwa_lightning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.modules.patch_states import RowBatch
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

    @torch.inference_mode()
    def render(
        self, grid: PatchGrid, *, seeds: Sequence[int], known: Mapping[PatchIndex, Tensor] | None = None
    ) -> Iterator[RenderedPatch]:
        """Write a canvas (or several of the same grid) patch by patch.

        Args:
            grid: the canvas in patches; one axis may be endless.
            seeds: one for each canvas.
            known: given patches, tokens ``[B, rows, columns]``; they are read first and never changed.

        Yields:
            Finished patches, in an order that respects the plan; memory is bounded by the live set.
        """
        known = known or {}
        plan = self.direction.plan(grid, frozenset(known))
        walked = walk(plan, self.pool, grid, token_order=self.token_order)
        B = len(seeds)
        attention = self.model.layer(0).attention
        shape = (B, self.model.patch_tokens, attention.kv_heads, attention.head_width)
        cache = SlotCache(self.model.depth, shape, like=self.model.begin)
        for wave in waves(walked, max_width=max(1, self.max_rows // B)):
            for given in (True, False):
                steps = [s for s in wave.steps if s.step.known is given]
                if not steps:
                    continue
                tokens_SBN = self._write(steps, cache, seeds, known)
                for planned, tokens_BN in zip(steps, tokens_SBN, strict=True):
                    tokens_BYX = place_tokens(
                        tokens_BN, planned.step.view, patch_size=self.model.patch_size, token_order=self.token_order
                    )
                    yield RenderedPatch(planned.step.patch, tokens_BYX, given, len(steps), cache.live)
            for number in wave.freed:
                cache.drop(number)

    def _write(
        self,
        steps: Sequence[PlannedStep],
        cache: SlotCache,
        seeds: Sequence[int],
        known: Mapping[PatchIndex, Tensor],
    ) -> Tensor:
        """Write (or, if known, read) independent patches; returns tokens ``[S, B, N]`` in writing order."""
        S, B, N = len(steps), len(seeds), self.model.patch_tokens
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
            view_S.repeat_interleave(B).to(device),
            context_keys=keys,
            context_values=values,
            offset_RC=offset_SC.repeat_interleave(B, dim=0).to(device),
            relative_view_RC=view_SC.repeat_interleave(B, dim=0).to(device),
            valid_RC=valid_RC,
        )
        if steps[0].step.known:
            tokens_RN = torch.cat(
                [read_tokens(known[s.step.patch], s.step.view, token_order=self.token_order) for s in steps]
            ).to(device)
            rows.advance(self.model.embed_rows(tokens_RN, rows.view_R))
        else:
            uniform_RN = torch.stack([patch_uniforms(seed, s.step.patch, N) for s in steps for seed in seeds])
            tokens_RN = self._decode(rows, uniform_RN.to(device))
        states = rows.states()
        for s, planned in enumerate(steps):
            cache.put(planned.number, states.rows(slice(s * B, (s + 1) * B)))
        return tokens_RN.view(S, B, N).cpu()

    def _decode(self, rows: RowBatch, uniform_RN: Tensor) -> Tensor:
        R, N = uniform_RN.shape
        tokens_RN = torch.zeros(R, N, dtype=torch.long, device=uniform_RN.device)
        token_R = tokens_RN[:, 0]
        for n in range(N):
            x_R1W = rows.advance(self.model.embed_token(token_R, rows.view_R, n))
            token_R = self.sampling.draw(self.model.logits(x_R1W[:, 0]), uniform_RN[:, n])
            tokens_RN[:, n] = token_R
        # The last token is an input too: later patches look at its states.
        rows.advance(self.model.embed_token(token_R, rows.view_R, N))
        return tokens_RN
