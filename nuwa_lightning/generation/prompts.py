"""Which text each patch of a canvas reads, and how strongly it pulls (classifier-free guidance).

Shape legend: B canvases side by side (or texts), S steps of a wave (or tokens of a text), E width of a text token,
K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TextStates
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request import STRONGEST_GUIDANCE

Chooser = Callable[[PatchIndex], Sequence[int]]
"""Says for each of B canvases which text the patch reads: its number among the texts, 0 for none."""

PLAUSIBLE = 0.07
"""How likely a token has to be with its text, beside the likeliest one, to take part: so much for each 1 of guidance
above 1, and never more than `MOST_PLAUSIBLE`."""
MOST_PLAUSIBLE = 0.2

EncodeText = Callable[[Sequence[str]], Sequence[Tensor]]
"""Gives the token states ``[S, E]`` of texts, such as ``TextEncoder.states``."""


@torch.no_grad()
def read_texts(model: PatchTransformer, encode: EncodeText, texts: Sequence[str]) -> TextStates:
    """Return what patches read: of "no text" first, then of each text."""
    if model.text is None:
        raise ValueError("the model reads no text")
    device = model.bos.device
    states = [torch.zeros(0, model.text_dim), *(s.float() for s in encode(texts))]
    text_BSE = torch.nn.utils.rnn.pad_sequence(states, batch_first=True).to(device)
    lengths_B1 = torch.tensor([[len(s)] for s in states], device=device)
    return model.text.states(text_BSE, torch.arange(text_BSE.shape[1], device=device) < lengths_B1)


@dataclass(frozen=True)
class Prompts:
    """The texts of some canvases.

    Args:
        texts: the states of "no text" first, then of every text there is.
        choose: which text a patch reads.
        guidance: 1 follows the text as trained, more exaggerates what it changes (among tokens that are plausible with
            the text), 0 ignores it.

    Raises:
        UsageError: if the guidance is no number from 0 to `STRONGEST_GUIDANCE`.
    """

    texts: TextStates
    choose: Chooser
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.guidance <= STRONGEST_GUIDANCE:
            hint = f"give a number from 0 to {STRONGEST_GUIDANCE:g}; 1 is as trained, 2 to 5 is usual"
            raise UsageError("guidance", self.guidance, hint)

    @classmethod
    def for_canvases(
        cls, model: PatchTransformer, encode: EncodeText, texts: Sequence[str], *, guidance: float = 1.0
    ) -> Prompts:
        """Return prompts with one text for each canvas; "" for none."""
        chosen = tuple(number if text else 0 for number, text in enumerate(texts, start=1))
        return cls(read_texts(model, encode, texts), lambda patch: chosen, guidance)

    @property
    def copies(self) -> int:
        """How many rows a canvas takes: with and without its text in one forward, where that differs."""
        return 1 if self.guidance == 1 else 2

    def of(self, canvases: slice) -> Prompts:
        """Return those of some of the canvases."""
        choose = self.choose
        return replace(self, choose=lambda patch: choose(patch)[canvases])

    def rows(self, patches: Sequence[PatchIndex], *, repeated: int = 1) -> TextStates:
        """Return the states for rows ``[S, copies, B]``, flattened: the halves with text before those without.

        Args:
            patches: S of them.
            repeated: how many rows read the same text, where copies differ in something else.
        """
        numbers: list[int] = []
        for patch in patches:
            chosen = list(self.choose(patch))
            numbers += chosen * repeated if self.copies == 1 else [*chosen, *(0 for _ in chosen)]
        return self.texts.rows(torch.tensor(numbers))

    def guided(self, logits_RK: Tensor, *, canvases: int) -> Tensor:
        """Return the scores ``[S * B, K]`` of rows ``[S, copies, B]``, pulled away from those without text."""
        return logits_RK if self.copies == 1 else guided(logits_RK, self.guidance, canvases=canvases)


def guided(logits_RK: Tensor, guidance: float, *, canvases: int) -> Tensor:
    """Return the scores ``[S * B, K]`` of rows ``[S, 2, B]`` with and without a condition, pulled away from the latter.

    Above 1 only tokens that are plausible with the condition take part, the stronger the guidance the more plausible:
    of those that are next to impossible with and without it, it would make likely whichever has the largest ratio.
    """
    with_SBK, without_SBK = torch.unflatten(logits_RK, 0, (-1, 2, canvases)).unbind(dim=1)
    guided_SBK = torch.lerp(without_SBK, with_SBK, guidance)
    if guidance > 1:
        share = min(MOST_PLAUSIBLE, PLAUSIBLE * (guidance - 1))
        least_SB1 = with_SBK.amax(dim=-1, keepdim=True) + math.log(share)
        guided_SBK = guided_SBK.masked_fill(with_SBK < least_SB1, float("-inf"))
    return guided_SBK.flatten(0, 1)
