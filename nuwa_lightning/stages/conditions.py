"""What a training sample is conditioned on beside its context: parts of it that are given (ours).

The four orders never show a patch with given patches to its left AND to its right, or a hole; a composed plan does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.geometry import PatchGrid, PatchIndex


@dataclass(frozen=True)
class Conditions:
    """What samples are conditioned on.

    Args:
        known_share: share of the samples of which a part is given, for outpainting and inpainting.

    Raises:
        UsageError: if a share is none.
    """

    known_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.known_share <= 1:
            raise UsageError("model.conditions.known_share", self.known_share, "give a share, from 0 to 1")


def draw_known(grid: PatchGrid, generator: torch.Generator) -> frozenset[PatchIndex]:
    """Draw which patches of a sample are given: those of a rectangle, or those around one, as often as not.

    Every rectangle is as likely as any other: given are one side, two that meet or face each other, three, a frame with
    a hole, a piece in the middle, a corner, ... in every frame of a film alike. Nothing is given in a single patch.
    """
    assert grid.y is not None
    assert grid.x is not None
    spans = (itertools.combinations(range(length + 1), 2) for length in (grid.y, grid.x))
    rectangles = [(*y, *x) for y, x in itertools.product(*spans) if (*y, *x) != (0, grid.y, 0, grid.x)]
    if not rectangles:
        return frozenset()
    top, bottom, left, right = rectangles[int(torch.randint(len(rectangles), (), generator=generator))]
    inside = bool(torch.rand((), generator=generator) < 0.5)
    return frozenset(patch for patch in grid if (top <= patch.y < bottom and left <= patch.x < right) is inside)
