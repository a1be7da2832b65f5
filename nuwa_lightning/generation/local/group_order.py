"""Which tokens of a patch are written together, and when: groups that grow from what is written (LPD).

Shape legend: R patches, N tokens per patch, K neighbors of a token.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from nuwa_lightning.models.nuwa_infinity import ABSENT, Neighbor

VARIANTS: Final = 16
"""In how many ways what is equally good is put in order, and so at how many places a patch without context begins."""

_SUPPORTED: Final = 1.0
"""A place is as good as written next to if one neighbor on a side is, or two at corners are."""


@functools.lru_cache(maxsize=256)
def group_sizes(tokens: int, steps: int) -> tuple[int, ...]:
    """Return how many tokens each step writes: after step s of S ``N (1 - cos(pi / 2 * s / S))``, one a step at least.

    There are no more steps than tokens.
    """
    steps = min(steps, tokens)
    ends = [0]
    for s in range(1, steps + 1):
        end = round(tokens * (1 - math.cos(math.pi / 2 * s / steps)))
        ends.append(max(ends[-1] + 1, min(end, tokens - steps + s)))
    return tuple(end - start for start, end in itertools.pairwise(ends))


def grown_groups(
    context_RNK: Tensor,
    *,
    own_NK: Tensor,
    kinds: tuple[Neighbor, ...],
    steps_R: Sequence[int],
    variant_R: Sequence[int],
    given_RN: Tensor | None = None,
    apart: float = 1.0,
) -> Tensor:
    """Return the groups ``[R, N]`` in which tokens are written, from 0 on: an order that grows from what is there.

    A place counts the written tokens around it, in the patch and across its border, each by one over its distance. A
    group takes the best of those that are supported, with more than ``apart`` between them, since they are drawn
    without knowing of each other; if these are too few, those furthest from all that is written. Without any context
    that begins somewhere. (After LPD, Zhang et al., 2025; that the context counts is ours.)

    Args:
        context_RNK: neighbors of each token that lie in the context, else ``ABSENT``.
        own_NK: where neighbors lie in the patch itself, else ``ABSENT``.
        kinds: what neighbors these are.
        steps_R: how many groups each patch is written in.
        variant_R: how ties are broken, from 0 to :data:`VARIANTS` - 1.
        given_RN: which tokens are given; they come first.
        apart: least distance inside a group, in tokens.
    """
    around = [k for k, each in enumerate(kinds) if _beside(each)]
    weight_K = torch.tensor([1 / math.hypot(kinds[k].y, kinds[k].x) for k in around])
    there_RNK = (context_RNK[:, :, around] != ABSENT) & (own_NK[:, around] == ABSENT)
    support_RN = (there_RNK * weight_K.to(context_RNK.device)).sum(-1).tolist()
    inner, N = _inner(own_NK, kinds), own_NK.shape[0]
    nothing = [False] * N
    given = [nothing] * len(support_RN) if given_RN is None else given_RN.tolist()
    patches = zip(support_RN, given, steps_R, variant_R, strict=True)
    grown = [_grown(tuple(s), tuple(g), group_sizes(N, steps), v, inner, apart) for s, g, steps, v in patches]
    return torch.tensor(grown, device=context_RNK.device)


def _beside(kind: Neighbor) -> bool:
    return not kind.t and kind.turned and not kind.coarse and max(abs(kind.y), abs(kind.x)) == 1


def _inner(own_NK: Tensor, kinds: tuple[Neighbor, ...]) -> int:
    """Return how many tokens of a patch lie in one column of the frame, which are numbered one after another."""
    column_N = own_NK[:, kinds.index(next(kind for kind in kinds if _beside(kind) and (kind.y, kind.x) == (0, -1)))]
    there_N = column_N != ABSENT
    return int(there_N.nonzero()[0]) if bool(there_N.any()) else len(column_N)


@functools.lru_cache(maxsize=8)
def _distances(tokens: int, inner: int) -> list[list[float]]:
    """Return the distance of any two tokens."""
    cells = [divmod(place, inner) for place in range(tokens)]
    return [[math.dist(a, b) for b in cells] for a in cells]


@functools.lru_cache(maxsize=1 << 15)
def _grown(
    context: tuple[float, ...], given: tuple[bool, ...], sizes: tuple[int, ...], variant: int, inner: int, apart: float
) -> list[int]:
    N, far = len(context), _distances(len(context), inner)
    noise = torch.rand(N, generator=torch.Generator().manual_seed(variant)).mul_(1e-3).tolist()
    support = [here + more for here, more in zip(context, noise, strict=True)]

    def write(place: int) -> None:
        """Let a place support those around it; itself it is out."""
        support[place] = -math.inf
        for other, distance in enumerate(far[place]):
            if 0 < distance < 2:
                support[other] += 1 / distance

    order = [place for place in range(N) if given[place]]
    for place in order:
        write(place)
    ends = list(itertools.accumulate(sizes))
    for end in ends:
        free, start = support.copy(), len(order)
        while len(order) < end:
            place = max(range(N), key=free.__getitem__)
            if free[place] < _SUPPORTED:
                left = [place for place in range(N) if place not in order]
                place = max(left, key=lambda n: (min((far[n][m] for m in order), default=0.0), noise[n]))
            order.append(place)
            for other, distance in enumerate(far[place]):
                if distance <= apart:
                    free[other] = -math.inf
        for place in order[start:]:
            write(place)
    return [bisect.bisect(ends, order.index(place)) for place in range(N)]
