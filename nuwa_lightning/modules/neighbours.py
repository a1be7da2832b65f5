"""Tokens next to the one being written, as an input of their own (ours).

Attention has to learn from positions alone that the token on the left matters most, which takes a large share of a
short training. Handing the nearest written tokens to the input layer gives that away, and nothing else: only tokens of
the patch itself and of patches that the pool selects are handed over, the others are zero.

Shape legend: K neighbours, E code width, W model width, M places, S scores (one a code).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

Neighbour = tuple[int, int, int]
"""Frames, rows and columns from the cell to be written, in the canonical frame of its view."""

NEIGHBOURS: Final[tuple[Neighbour, ...]] = (
    (0, -1, 0),
    (0, 0, -1),
    (0, -1, -1),
    (0, 1, -1),
    (0, -2, 0),
    (0, 0, -2),
    (0, 2, -1),
    (0, -2, -1),
)
"""In the frame itself, where columns are written from left to right and each from the top down: all of them are written
before the cell."""

PAST: Final[tuple[Neighbour, ...]] = (
    *((-1, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)),
    (-2, 0, 0),
)
"""In the frames before: what was here, and what may have moved here; for models whose pool reaches backwards."""


AHEAD: Final[tuple[Neighbour, ...]] = ((0, 0, 1), (0, 1, 0), (0, -1, 1), (0, 1, 1))
"""On the other side: there only where a patch is finished that the order reaches later, since it is given, was written
under another view, or lies beyond the seam of a closed canvas; and above on the right, at the top of a patch."""


def neighbours(*, past: bool = False, ahead: bool = False) -> tuple[Neighbour, ...]:
    """Return the neighbours that a model is handed, K of them.

    Args:
        past: whether its pool reaches into earlier frames.
        ahead: whether it is handed :data:`AHEAD`.
    """
    return NEIGHBOURS + (AHEAD if ahead else ()) + (PAST if past else ())


ABSENT: Final = -1
"""Stands for a neighbour that is not written yet, not selected by the pool, or outside the canvas."""


class NeighbourInput(nn.Module):
    """A linear map of the code vectors of K neighbours.

    Args:
        code_dim: width E of a code vector.
        width: model width W.
        count: K, see :func:`neighbours`.
    """

    def __init__(self, code_dim: int, width: int, *, count: int = len(NEIGHBOURS)) -> None:
        super().__init__()
        self.linear = nn.Linear(count * code_dim, width, bias=False)

    def forward(self, near_K: Tensor, codes_KE: Tensor) -> Tensor:
        """Map tokens ``[..., K]``, :data:`ABSENT` where there is none, to ``[..., W]``."""
        vectors = codes_KE[near_K.clamp_min(0)] * (near_K != ABSENT).unsqueeze(-1)
        out: Tensor = self.linear(vectors.flatten(-2))
        return out


class NeighbourScores(nn.Module):
    """What is added to the scores of the neighbours' own codes: how likely it is that one is simply written again.

    In films most of all: where nothing moves, the code of the frame before is the likeliest by far, and a model that
    has to find it among thousands by its looks takes long to learn so (a pointer, See et al., 2017; its use here is
    ours). Nothing is added at the start.

    Args:
        width: model width W.
        count: K, see :func:`neighbours`.
    """

    def __init__(self, width: int, *, count: int = len(NEIGHBOURS)) -> None:
        super().__init__()
        self.linear = nn.Linear(width, count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, scores_MS: Tensor, x_MW: Tensor, near_MK: Tensor) -> Tensor:
        """Add to ``scores_MS`` in place and return it.

        Args:
            scores_MS: of the codes, ``[..., S]``.
            x_MW: normalised last-layer states ``[..., W]`` that they come from.
            near_MK: tokens ``[..., K]``, :data:`ABSENT` where there is none.
        """
        there_MK = near_MK != ABSENT
        more_MK = torch.where(there_MK, self.linear(x_MW).to(scores_MS.dtype), 0)
        return scores_MS.scatter_add_(-1, torch.where(there_MK, near_MK, 0), more_MK)
