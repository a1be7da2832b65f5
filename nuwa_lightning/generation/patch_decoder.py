"""Patches of a wave in the making: what a local decoder has in hand.

Shape legend: B canvases side by side, S steps of a wave, R = S * B rows (twice as many in the model under guidance),
N tokens per patch, L = 1 + N positions, K neighbors of a token, J = 1 + K tokens that a position reads, n places.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from nuwa_lightning.errors import LawError
from nuwa_lightning.generation.patch_batch import PatchStates, RowBatch
from nuwa_lightning.generation.prompts import Prompts, guided
from nuwa_lightning.generation.sampling import place_keys
from nuwa_lightning.models.layout import neighbor_positions
from nuwa_lightning.models.nuwa_infinity import ABSENT, NEIGHBORS, Neighbor
from nuwa_lightning.planning.geometry import OMEGA
from nuwa_lightning.planning.schedule import PlannedStep, TokenOrder


@final
class PatchDecoder:
    """Patches that are written side by side: scores of tokens that are asked for, given those written so far.

    A local decoder asks for the :meth:`logits` of a set of places and writes tokens to places, as often as it likes.
    In a causal model states are kept: places from the first one asked for are computed anew, nothing else.

    Args:
        rows: the patches inside the model; the attribute ``batch``.
        neighbors: neighbors of their tokens in context patches ``[R, N, K]``, see :func:`neighbors_in_context`.
        given: tokens that are given and never changed ``[R, N]``, else ``ABSENT``.
        guidance: rows with and without text, or plan.
        token_order: as in training.
        keys: of the noise of each patch ``[R]``, see :func:`nuwa_lightning.generation.sampling.patch_key`; zeros if
            they are left out.
        writer: whom messages blame: the local decoder.
    """

    def __init__(
        self,
        rows: RowBatch,
        *,
        neighbors: Tensor,
        given: Tensor,
        guidance: GuidanceBatch,
        token_order: TokenOrder,
        keys: Tensor | None = None,
        writer: str = "a local decoder",
    ) -> None:
        self.batch, self.guidance, self._writer = rows, guidance, writer
        device = rows.entry_R.device
        self._bidirectional = rows.model.model.bidirectional
        R, N, K = neighbors.shape
        self.given_RN = given.to(device)
        """What is given, else ``ABSENT``."""
        self._partly = bool((given != ABSENT).any())
        size, self.kinds = rows.model.model.patch_size, rows.model.model.neighbors
        self.own_NK = own_neighbors(size, token_order, self.kinds).to(device)
        """Where the neighbors of each token lie in the patch itself, else ``ABSENT``."""
        self._outside_NK, self._own_place_NK = self.own_NK == ABSENT, self.own_NK.clamp_min(0)
        self.readers = [p.to(device) for p in readers(size, token_order, self.kinds)]
        self.tokens_RN = self.given_RN.clone()
        """What is written, ``ABSENT`` where nothing is yet."""
        self.inputs_RLJ = torch.full((R, N + 1, K + 1), ABSENT, device=device)
        self._inputs_RX = self.inputs_RLJ.flatten(1)
        # Neighbors come in where their token is predicted.
        self._neighbors_RNK = self.inputs_RLJ[:, 1:, 1:] if self._bidirectional else self.inputs_RLJ[:, :-1, 1:]
        self._neighbors_RNK.copy_(neighbors)
        self._fresh = not self._partly
        # Of a grouped model, what the next step reads first: BOS, then each time the tokens of the last group.
        self._unread_RlJ, self._unread_Rl = self.inputs_RLJ[:, :1], torch.zeros(R, 1, dtype=torch.long, device=device)
        self._key_R = torch.zeros(R, dtype=torch.long) if keys is None else keys
        # Places that a causal model may read, kept here: to look at the tokens would wait for the device each time.
        self._written = set[int]()
        if self._partly and not self._bidirectional:
            self._written.update((self.given_RN != ABSENT).all(dim=0).nonzero()[:, 0].tolist())
        self._in_row = 0

    @functools.cached_property
    def keys_RN(self) -> Tensor:
        """Key of the noise of each token."""
        return place_keys(self._key_R, self.tokens_RN.shape[1]).to(self.tokens_RN.device)

    @property
    def rows(self) -> int:
        """How many patches."""
        return len(self.tokens_RN)

    @property
    def alone(self) -> bool:
        """Whether the logits of a place have the same bits whatever else is read together with it."""
        return self.batch.alone

    @property
    def found(self) -> dict[tuple[str, int], Any]:
        """What a local decoder found out about this model on this machine, for the next patches; empty at first."""
        return self.batch.model.found

    def logits(self, places: Sequence[int]) -> Tensor:
        """Return logits over codes ``[R, n, K]`` of the tokens at ``places``, which are the same for all patches.

        Args:
            places: ascending. For a causal model side by side, and all tokens before the last of them are written.

        Raises:
            LawError: if a causal model is asked for others.
        """
        if self._bidirectional:
            x_RlW = self._read_all()[:, [place + 1 for place in places]]
        else:
            self._check_causal(places)
            x_RlW = self._read(places[0], places[-1] + 1)[:, -len(places) :]
        neighbors_MK = None
        if self.batch.model.model.copy_head is not None:
            neighbors_MK = self.guidance.both(self._neighbors_RNK[:, _index(places)], first=0).flatten(0, 1)
        logits_MK = self.batch.model.logits(x_RlW.flatten(0, 1), neighbors_MK)
        return self.guidance.one(torch.unflatten(logits_MK, 0, (-1, len(places))))

    def group_logits(self, places_Rn: Tensor) -> Tensor:
        """Return logits over codes ``[R, n, K]`` of the next group of tokens, of a grouped model.

        Reads the group before, whose tokens are written by now, and a query for each place of this one.

        Args:
            places_Rn: of each patch its own; each place is asked for once.
        """
        if not self._fresh:
            self._refresh()
        n, before = places_Rn.shape[1], self._unread_Rl.shape[1]
        asked_RnJ = self.inputs_RLJ.gather(1, places_Rn[:, :, None].expand(-1, -1, self.inputs_RLJ.shape[2]) + 1)
        asked_RnJ[:, :, 0] = ABSENT
        if self.batch.place:
            self._unread_RlJ[:, :, 0] = self.tokens_RN.gather(1, self._unread_Rl - 1)
        positions_Rl = torch.cat([self._unread_Rl, places_Rn + 1], dim=1)
        # Positions go through guidance as one more column.
        read_RlJ = torch.cat([torch.cat([self._unread_RlJ, asked_RnJ], dim=1), positions_Rl[:, :, None]], dim=2)
        read_RlJ = self.guidance.both(read_RlJ, first=1)
        x_RlW = self.batch.advance(read_RlJ[:, :, :-1], positions=read_RlJ[:, :, -1], queries=n)[:, before:]
        self.batch.rewind(self.batch.place - n)
        self._unread_RlJ, self._unread_Rl = asked_RnJ, places_Rn + 1
        logits_MK = self.batch.model.logits(x_RlW.flatten(0, 1), read_RlJ[:, before:, 1:-1].flatten(0, 1))
        return self.guidance.one(torch.unflatten(logits_MK, 0, (-1, n)))

    def set_group(self, places_Rn: Tensor, tokens_Rn: Tensor) -> None:
        """Write tokens to places of each patch's own; what is given stays."""
        given_Rn = self.given_RN.gather(1, places_Rn)
        self.tokens_RN.scatter_(1, places_Rn, torch.where(given_Rn == ABSENT, tokens_Rn, given_Rn))
        self._fresh = False

    def neighbors(self, places: Sequence[int]) -> Tensor:
        """Return the neighbors ``[R, n, K]`` of the tokens at ``places``, ``ABSENT`` where nothing is written."""
        if not self._fresh:
            self._refresh()
        return self._neighbors_RNK[:, _index(places)]

    def set_tokens(self, places: Sequence[int], tokens_Rn: Tensor) -> None:
        """Write tokens, or overwrite them; what is given stays.

        Args:
            places: where.
            tokens_Rn: for each patch; ``ABSENT`` takes a token back.
        """
        if self._partly:
            given_Rn = self.given_RN[:, _index(places)]
            tokens_Rn = torch.where(given_Rn == ABSENT, tokens_Rn, given_Rn)
        if not self._bidirectional:
            self._written.update(map(int, places))
        if len(places) == 1 and not self._bidirectional:
            place = places[0]
            self.tokens_RN[:, place : place + 1] = tokens_Rn
            self._inputs_RX.index_copy_(1, self.readers[place], tokens_Rn.expand(-1, len(self.readers[place])))
        else:
            self.tokens_RN[:, _index(places)] = tokens_Rn
            self._fresh = False

    def states(self) -> PatchStates:
        """Return what the finished patches leave for later ones; LawError if some of their tokens are not written."""
        if bool((self.tokens_RN == ABSENT).any()):
            raise self._fault("decode sets all tokens")
        if self._bidirectional:
            self._read_all()
        elif self.batch.place < self.inputs_RLJ.shape[1]:
            self._read(self.batch.place, self.inputs_RLJ.shape[1])
        return self.batch.states()

    def _check_causal(self, places: Sequence[int]) -> None:
        first, last = places[0], places[-1]
        while self._in_row in self._written:
            self._in_row += 1
        if last <= self._in_row and last - first + 1 == len(places):
            return
        missing = [place for place in range(last) if place not in self._written]
        asked = f"asked for {last}, {missing[-1]} is not" if missing else f"asked for {list(places)}"
        raise self._fault(f"a causal decoder asks for places side by side whose earlier tokens are written: {asked}")

    def _fault(self, law: str) -> LawError:
        return LawError("local_decoder", self._writer, law, "check_local_decoder")

    def _read_all(self) -> Tensor:
        self.batch.rewind(0)
        return self._read(0, self.inputs_RLJ.shape[1])

    def _read(self, start: int, end: int) -> Tensor:
        if not self._fresh:
            self._refresh()
        if self.batch.place > start:
            self.batch.rewind(start)
        return self.batch.advance(self.guidance.both(self.inputs_RLJ[:, self.batch.place : end], first=1))

    def _refresh(self) -> None:
        """Fill in all inputs from the tokens."""
        self.inputs_RLJ[:, 1:, 0] = self.tokens_RN
        own_RNK = self.tokens_RN[:, self._own_place_NK]
        self._neighbors_RNK.copy_(torch.where(self._outside_NK, self._neighbors_RNK, own_RNK))
        self._fresh = True


def _index(places: Sequence[int]) -> slice | list[int]:
    """Return what picks places: side by side they need no list, which a device would wait for."""
    if len(places) == 1 or (isinstance(places, range) and places.step == 1):
        return slice(places[0], places[-1] + 1)
    return list(places)


@final
class GuidanceBatch:
    """Rows with and without text (or plan), side by side in one forward; one half only where there is no guidance.

    Args:
        prompts: the texts, if there are any.
        canvases: how many canvases are written side by side.
        plan: how strongly the coarse plan pulls; where this is not 1 there is no guidance by text.
        neighbors: of the model.
    """

    def __init__(
        self, prompts: Prompts | None, canvases: int, *, plan: float = 1.0, neighbors: Sequence[Neighbor] = ()
    ) -> None:
        self._prompts, self._canvases, self._plan = prompts, canvases, plan
        coarse = [k for k, each in enumerate(neighbors) if each.coarse]
        # They stand together; a slice needs no numbers on the device.
        self._coarse = (coarse[0], coarse[-1] + 1) if coarse else (0, 0)
        self.count = 2 if plan != 1 else prompts.copies if prompts else 1

    def both(self, rows: Tensor, *, first: int) -> Tensor:
        """Repeat rows ``[S, B, ...]``, flattened, to ``[S, halves, B, ...]``, flattened.

        Args:
            rows: tokens that are read.
            first: where in them neighbors begin.
        """
        if self.count == 1:
            return rows
        pairs = torch.unflatten(rows, 0, (-1, 1, self._canvases))
        pairs = pairs.expand(-1, self.count, *pairs.shape[2:])
        if self._plan != 1:
            pairs = pairs.clone()
            pairs[:, 1, ..., first + self._coarse[0] : first + self._coarse[1]] = ABSENT
        return pairs.flatten(0, 2)

    def one(self, logits: Tensor) -> Tensor:
        """Return one row of scores a canvas."""
        if self._plan != 1:
            return guided(logits, self._plan, canvases=self._canvases)
        return self._prompts.guided(logits, canvases=self._canvases) if self._prompts else logits


@functools.lru_cache(maxsize=64)
def own_neighbors(
    patch_size: tuple[int, int], token_order: TokenOrder, neighbors: tuple[Neighbor, ...] = NEIGHBORS
) -> Tensor:
    """Return the places of a token's neighbors in its own patch ``[N, K]``, else ``ABSENT``."""
    return neighbor_positions(OMEGA, (), patch_size, token_order, neighbors=neighbors)[0]


@functools.lru_cache(maxsize=64)
def readers(
    patch_size: tuple[int, int], token_order: TokenOrder, neighbors: tuple[Neighbor, ...] = NEIGHBORS
) -> tuple[Tensor, ...]:
    """Return for each place which of the flattened inputs ``[L * J]`` the token there goes to."""
    own_NK = own_neighbors(patch_size, token_order, neighbors)
    J = len(neighbors) + 1
    found: list[list[int]] = [[(place + 1) * J] for place in range(len(own_NK))]
    for position, sources in enumerate(own_NK.tolist()):
        for k, place in enumerate(sources):
            if place != ABSENT:
                found[place].append(position * J + k + 1)
    return tuple(torch.tensor(each) for each in found)


def neighbors_in_context(
    steps: Sequence[PlannedStep],
    live: Mapping[int, Tensor],
    *,
    canvases: int,
    patch_size: tuple[int, int],
    token_order: TokenOrder,
    neighbors: tuple[Neighbor, ...] = NEIGHBORS,
    coarse: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the neighbors ``[R, N, K]`` of the tokens of a wave that lie in context patches, else ``ABSENT``.

    Args:
        steps: of the wave.
        live: tokens ``[B, rows, columns]`` of finished steps.
        canvases: B.
        patch_size: rows and columns.
        token_order: as in training.
        neighbors: of the model.
        coarse: for each step the coarse plan of its patch and one token more on all sides, ``[B, rows + 2,
            columns + 2]``; None where there is no plan.
    """
    cells = patch_size[0] * patch_size[1]
    around = (patch_size[0] + 2) * (patch_size[1] + 2) if any(each.coarse for each in neighbors) else 0
    found = []
    for s, planned in enumerate(steps):
        _, place_NK = neighbor_positions(
            planned.step.symmetry, planned.places, patch_size, token_order, neighbors=neighbors
        )
        # One more place holds ABSENT, which is where a negative index points.
        tokens_BS = torch.full((canvases, len(planned.context) * cells + around + 1), ABSENT)
        for c, number in enumerate(planned.context):
            tokens_BS[:, c * cells : (c + 1) * cells] = live[number].flatten(1)
        if around and coarse is not None:
            tokens_BS[:, -around - 1 : -1] = coarse[s].flatten(1)
        found.append(tokens_BS[:, place_NK])
    return torch.cat(found)
