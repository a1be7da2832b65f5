"""Tokens next to the one being written, as an input of their own (ours).

Attention has to learn from positions alone that the token on the left matters most, which takes a large share of a
short training. Handing the nearest written tokens to the input layer gives that away, and nothing else: only tokens of
the patch itself and of patches that the pool selects are handed over, the others are zero.

Shape legend: K neighbors, E code width, W model width, M places, S scores (one a code), D steps by which something
moves, J, P cells that are compared, Q cells of a frame.
"""

from __future__ import annotations

import functools
import itertools
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn


class Neighbor(NamedTuple):
    """Where a token lies, seen from the cell to be written.

    Attributes:
        t: frames later.
        y: rows further down.
        x: columns further on.
        turned: rows and columns are those of the canonical frame of the step's symmetry; else of the canvas as it lies.
    """

    t: int
    y: int
    x: int
    turned: bool = True


NEIGHBORS: Final = tuple(
    Neighbor(0, y, x) for y, x in ((-1, 0), (0, -1), (-1, -1), (1, -1), (-2, 0), (0, -2), (2, -1), (-2, -1))
)
"""In the frame itself, where columns are written from left to right and each from the top down: all of them are written
before the cell."""

_AROUND: Final = tuple(itertools.product((-1, 0, 1), repeat=2))
_WIDER: Final = tuple(itertools.product((-2, -1, 0, 1, 2), repeat=2))

PAST: Final = (*(Neighbor(-1, y, x, turned=False) for y, x in _AROUND), Neighbor(-2, 0, 0, turned=False))
"""In the frames before: what was here, and what may have moved here; for models whose pool reaches backwards. As the
canvas lies: the orders of a frame turn nothing that moves from frame to frame, and a text tells its direction."""

AHEAD: Final = tuple(Neighbor(0, y, x) for y, x in ((0, 1), (1, 0), (-1, 1), (1, 1)))
"""On the other side: there only where a patch is finished that the order reaches later, since it is given, was written
under another symmetry, or lies beyond the seam of a closed canvas; and above on the right, at the top of a patch."""

MATCHED: Final = tuple(Neighbor(t, y, x) for t in (-1, -2) for y, x in _WIDER)
"""In the last two frames, further around: where what is written next to the cell came from tells how things move; see
`motion`."""


def neighbors(*, past: bool = False, ahead: bool = False, matched: bool = False) -> tuple[Neighbor, ...]:
    """Return the neighbors that a model is handed, K of them.

    Args:
        past: whether its pool reaches into earlier frames.
        ahead: whether it is handed :data:`AHEAD`.
        matched: whether its scores ask how things move, :data:`MATCHED`, which are the last ones.
    """
    return NEIGHBORS + (AHEAD if ahead else ()) + (PAST if past else ()) + (MATCHED if matched else ())


ABSENT: Final = -1
"""Stands for a neighbor that is not written yet, not selected by the pool, or outside the canvas."""


class NeighborEmbedding(nn.Module):
    """A linear map of the code vectors of K neighbors.

    Args:
        codebook_dim: width E of a code vector.
        dim: model width W.
        count: K, see :func:`neighbors`; of more than that the first ones.
    """

    def __init__(self, codebook_dim: int, dim: int, *, count: int = len(NEIGHBORS)) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(count * codebook_dim, dim, bias=False)

    def forward(self, neighbors_K: Tensor, codebook_KE: Tensor) -> Tensor:
        """Map tokens ``[..., K]``, :data:`ABSENT` where there is none, to ``[..., W]``."""
        neighbors_K = neighbors_K[..., : self.count]
        vectors = codebook_KE[neighbors_K.clamp_min(0)] * (neighbors_K != ABSENT).unsqueeze(-1)
        out: Tensor = self.linear(vectors.flatten(-2))
        return out


@torch.no_grad()
def motion(neighbors_MK: Tensor, codebook_KE: Tensor) -> Tensor:
    """Return how things move, by matching tokens (ours; block matching, as video codecs do it, on what is written).

    For each of the nine steps by at most one token, up, down or sideways: how alike are the tokens written next to the
    cell and those which they would have come from in the frame before; and, so that a motion goes on, how alike are the
    tokens there and those of the frame before that one. Both compared with the mean of the nine.

    Args:
        neighbors_MK: neighbors ``[..., K]`` that end with `MATCHED`.
        codebook_KE: code vectors.

    Returns:
        ``[..., 18]``.
    """
    beside_MJ, wider_MQ = neighbors_MK[..., :_BESIDE], neighbors_MK[..., -len(MATCHED) :]
    last_MQ, earlier_MQ = wider_MQ.chunk(2, dim=-1)
    before_DJ, here_P, earlier_DP = _places(neighbors_MK.device)
    ways = (
        (beside_MJ.unsqueeze(-2), last_MQ[..., before_DJ]),
        (last_MQ[..., here_P].unsqueeze(-2), earlier_MQ[..., earlier_DP]),
    )
    found = []
    for to, come_from in ways:
        there = (to != ABSENT) & (come_from != ABSENT)
        apart = (codebook_KE[to.clamp_min(0)] - codebook_KE[come_from.clamp_min(0)]).square().mean(-1)
        alike_MD = ((-apart).exp() * there).sum(-1) / there.sum(-1).clamp_min(1)
        any_MD = there.any(-1)
        mean_M1 = alike_MD.sum(-1, keepdim=True) / any_MD.sum(-1, keepdim=True).clamp_min(1)
        found.append((alike_MD - mean_M1) * any_MD)
    return torch.cat(found, dim=-1) * _LOUD


@functools.cache
def _places(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return where `MATCHED` holds what each step compares; no buffers, which a file of weights would have to hold."""
    place = {cell: n for n, cell in enumerate(_WIDER)}
    before_DJ = torch.tensor([[place[n.y + y, n.x + x] for n in NEIGHBORS[:_BESIDE]] for y, x in _AROUND])
    earlier_DP = torch.tensor([[place[b + y, a + x] for b, a in _AROUND] for y, x in _AROUND])
    here_P = torch.tensor([place[cell] for cell in _AROUND])
    return before_DJ.to(device), here_P.to(device), earlier_DP.to(device)


_BESIDE: Final = 4
_STEPS: Final = 2 * len(_AROUND)
_LOUD: Final = 4.0
"""So that weights of usual size make a likeness matter among scores."""


class CopyHead(nn.Module):
    """What is added to the scores of the neighbors' own codes: how likely it is that one is simply written again.

    In videos most of all: where nothing moves, the code of the frame before is the likeliest by far, and a model that
    has to find it among thousands by its looks takes long to learn so (a pointer, See et al., 2017; its use here is
    ours). Nothing is added at the start.

    Args:
        dim: model width W.
        count: K, see :func:`neighbors`.
        moving: whether it is told how things move, see `motion`.
    """

    def __init__(self, dim: int, *, count: int = len(NEIGHBORS), moving: bool = False) -> None:
        super().__init__()
        self.moving = moving
        self.linear = nn.Linear(dim + (_STEPS if moving else 0), count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, scores_MS: Tensor, x_MW: Tensor, neighbors_MK: Tensor, codebook_KE: Tensor) -> Tensor:
        """Add to ``scores_MS`` in place and return it.

        Args:
            scores_MS: of the codes, ``[..., S]``.
            x_MW: normalised last-layer states ``[..., W]`` that they come from.
            neighbors_MK: tokens ``[..., K]``, :data:`ABSENT` where there is none.
            codebook_KE: code vectors.
        """
        there_MK = neighbors_MK != ABSENT
        if self.moving:
            x_MW = torch.cat([x_MW, motion(neighbors_MK, codebook_KE).to(x_MW.dtype)], dim=-1)
        more_MK = torch.where(there_MK, self.linear(x_MW).to(scores_MS.dtype), 0)
        return scores_MS.scatter_add_(-1, torch.where(there_MK, neighbors_MK, 0), more_MK)
