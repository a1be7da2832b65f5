"""What a training sample is conditioned on beside its context: a text, and parts of it that are given.

The four orders never show a patch with given patches to its left AND to its right, or a hole; a composed plan does.
That samples lose their text now and then is what guidance needs (Ho and Salimans, 2022); both are ours, the paper has
neither.

Shape legend: B samples, S text tokens or tokens of a sample, E width of a text token or code, K codes,
M token_noise tokens, R codes that look alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.direction.base import Step
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.text.base import TextEncoder

_GOING_ON: Final = 2 / 3
_ALIKE: Final = 32


@dataclass(frozen=True)
class Conditions:
    """What samples are conditioned on.

    Args:
        text_encoder: what turns captions into token states; None for a model without text.
        text_dropout: share of the samples that are trained without their text, for the sake of guidance.
        known_prob: share of the samples of which a part is given, for outpainting, inpainting and animation.
        closing_prob: share of the other samples of which the last line of their order is given, for closed canvases:
            what is written last meets there what was written first.
        token_noise: share of its tokens that a sample reads wrongly, at most: each draws its own share below. Targets
            stay what they are. What a model has written holds errors that photographs do not; in a video they add up
            from frame to frame, unless it has learned to read over them.

    Raises:
        UsageError: if a share is none.
    """

    text_encoder: TextEncoder | None = None
    text_dropout: float = 0.1
    known_prob: float = 0.0
    closing_prob: float = 0.0
    token_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("text_dropout", "known_prob", "closing_prob", "token_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"model.conditions.{name}", getattr(self, name), "give a share, from 0 to 1")

    @property
    def text_dim(self) -> int:
        """Width of a text token, 0 without text."""
        return 0 if self.text_encoder is None else self.text_encoder.width

    def text_of(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None, part: BatchPart = WHOLE
    ) -> SampleText | None:
        """Return the texts of a batch, some of them dropped if there is a generator to draw which."""
        if self.text_encoder is None:
            return None
        if "text" not in batch:
            hint = "the model reads text and this data has none: use photos or videos that have captions"
            raise UsageError("data", "no captions", hint)
        text_mask_BS = batch["text_mask"]
        if generator is not None and self.text_dropout:
            kept_B = part.of(torch.rand(part.world * len(text_mask_BS), generator=generator)) >= self.text_dropout
            text_mask_BS = text_mask_BS & kept_B[:, None].to(text_mask_BS.device)
        return SampleText(batch["text"], text_mask_BS)


def reach_of(batch: Mapping[str, Tensor], generator: torch.Generator | None, part: BatchPart = WHOLE) -> Tensor:
    """Return how high the tops and bottoms of samples lie in their images ``[B, 2]``, a tenth of them dropped (NaN).

    Without a generator nothing is dropped.

    Raises:
        UsageError: if the batch does not say.
    """
    if "height" not in batch:
        hint = "the model is told heights and this data has none: use TokenDataModule, or transformer.heights=0"
        raise UsageError("data", "no heights", hint)
    reach_B2 = batch["height"]
    if generator is None:
        return reach_B2
    dropped_B = part.of(torch.rand(part.world * len(reach_B2), generator=generator)) < HEIGHT_DROPOUT
    return reach_B2.masked_fill(dropped_B.to(reach_B2.device)[:, None], torch.nan)


def token_noise(
    tokens_BS: Tensor, codebook_KE: Tensor, *, share: float, generator: torch.Generator, part: BatchPart = WHOLE
) -> Tensor:
    """Return tokens as they are read, some of them wrongly: half as a code that looks alike, half as another's token.

    Each sample draws how much it misreads, from 0 to ``share``; distances of code vectors tell what looks alike.
    """
    S = tokens_BS.shape[1]
    device, K, whole = tokens_BS.device, len(codebook_KE), part.world * len(tokens_BS)
    wrong_BS = part.of(torch.rand(whole, S, generator=generator) < share * torch.rand(whole, 1, generator=generator))
    alike_BS = part.of(torch.rand(whole, S, generator=generator)) < 0.5
    rank_BS = part.of(torch.randint(1, min(_ALIKE, K - 1) + 1, (whole, S), generator=generator))
    other_BS = part.of(torch.randint(S, (whole, S), generator=generator))
    wrong_BS, alike_BS = wrong_BS.to(device), alike_BS.to(device)
    read_BS = torch.where(wrong_BS & ~alike_BS, tokens_BS.gather(1, other_BS.to(device)), tokens_BS)
    similar_BS = wrong_BS & alike_BS
    tokens_M = tokens_BS[similar_BS]
    nearest_MR = torch.cdist(codebook_KE[tokens_M], codebook_KE).topk(min(_ALIKE, K - 1) + 1, largest=False).indices
    read_BS[similar_BS] = nearest_MR.gather(1, rank_BS.to(device)[similar_BS][:, None])[:, 0]
    return read_BS


HEIGHT_DROPOUT: Final = 0.1
"""Of how many samples a model with heights is told none, so that it writes endless and closed canvases, too."""


class SampleText(NamedTuple):
    """The texts of some samples."""

    states_BSE: Tensor
    text_mask_BS: Tensor

    def rows(self, members: Sequence[int]) -> SampleText:
        """Return the texts of some samples only."""
        return SampleText(self.states_BSE[list(members)], self.text_mask_BS[list(members)])


def draw_known(grid: PatchGrid, generator: torch.Generator) -> frozenset[PatchIndex]:
    """Draw which patches of a sample are given: those of a rectangle, or those around one, as often as not.

    Every rectangle is as likely as any other: given are one side, two that meet or face each other, three, a frame with
    a hole, a piece in the middle, a corner, ... in every frame of a video alike. Nothing is given in a single patch.

    Of three videos two are to be gone on with instead: the first frame is given, or the first few.
    """
    frames, rows, columns = grid.lengths
    if frames > 1 and bool(torch.rand((), generator=generator) < _GOING_ON):
        first = bool(torch.rand((), generator=generator) < 0.5)
        count = 1 if first else int(torch.randint(1, frames, (), generator=generator))
        return frozenset(patch for patch in grid if patch.t < count)
    spans = (itertools.combinations(range(length + 1), 2) for length in (rows, columns))
    rectangles = [(*y, *x) for y, x in itertools.product(*spans) if (*y, *x) != (0, rows, 0, columns)]
    if not rectangles:
        return frozenset()
    top, bottom, left, right = rectangles[int(torch.randint(len(rectangles), (), generator=generator))]
    inside = bool(torch.rand((), generator=generator) < 0.5)
    return frozenset(patch for patch in grid if (top <= patch.y < bottom and left <= patch.x < right) is inside)


def closing(plan: Sequence[Step], grid: PatchGrid) -> tuple[Step, ...]:
    """Return a plan in which the last line of every frame is given: the column, or row, that its order ends with.

    So the line before it is written as the last one of a closed canvas is, with finished patches on both sides. A plan
    of one line, or one that changes its view within a frame, stays as it is.
    """
    steps: list[Step] = []
    for _, some in itertools.groupby(plan, key=lambda step: step.patch.t):
        frame = list(some)
        symmetry = frame[0].symmetry
        line = grid.x if symmetry.transpose else grid.y
        if line is None or line >= len(frame) or any(step.symmetry != symmetry for step in frame):
            return tuple(plan)
        steps += [step._replace(known=True) for step in frame[-line:]]
        steps += frame[:-line]
    return tuple(steps)
