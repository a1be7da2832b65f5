"""What holds the tokens of a canvas: a folder (:class:`~nuwa_lightning.canvas.canvas.Canvas`), or the memory.

Shape legend: B images of one canvas (one a seed), T frames, Y/X rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor

from nuwa_lightning.canvas.facts import UNWRITTEN, CanvasFacts
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.tokenizers.tiling import Rectangle


class TokenView(Protocol):
    """Tokens of a canvas by position, to be read; methods as those of :class:`~nuwa_lightning.canvas.canvas.Canvas`."""

    @property
    def folder(self) -> Path | None:
        """Where it lies; None in memory."""

    @property
    def facts(self) -> CanvasFacts:
        """What the canvas is."""

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens ``[B, rows, columns]`` of a patch, if it is there."""

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens ``[Y, X]`` of an area of one image or frame."""

    def written(self) -> Iterable[PatchIndex]:
        """Yield the patches that are there."""


class TokenStore(TokenView, Protocol):
    """Tokens of a canvas by position, to be changed."""

    @property
    def patches(self) -> int:
        """How many positions hold tokens."""

    @property
    def length(self) -> int:
        """What ``facts.log`` has to be for all that was put to count."""

    def put(self, patches: Iterable[tuple[PatchIndex, Tensor]]) -> None:
        """Store patches; they count from the next :meth:`amend` on."""

    def amend(self, facts: CanvasFacts) -> None:
        """Say anew what the canvas is, in one step together with what was put."""

    def load(self) -> None:
        """Go back to what counts."""


@final
class MemoryCanvas:
    """A canvas in memory; a :class:`TokenStore`."""

    def __init__(self, facts: CanvasFacts) -> None:
        self._facts = facts
        self.folder: Path | None = None
        self._tokens: dict[PatchIndex, Tensor] = {}
        self._sure: dict[PatchIndex, Tensor] = {}

    def split(self, number: int, *, how: Mapping[str, Any]) -> MemoryCanvas:
        """Return a finished canvas of one of the images alone, and how that was made."""
        facts = replace(self._facts, seeds=self._facts.seeds[number : number + 1], finished=True, how=how)
        made = MemoryCanvas(facts)
        made._tokens = {position: tokens[number : number + 1] for position, tokens in self._tokens.items()}
        made.amend(facts)
        return made

    @property
    def facts(self) -> CanvasFacts:
        """What it is."""
        return self._facts

    @property
    def length(self) -> int:
        """How many patches there are."""
        return len(self._tokens)

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return len(self._tokens)

    def put(self, patches: Iterable[tuple[PatchIndex, Tensor]]) -> None:
        """Store patches, tokens ``[B, rows, columns]`` each."""
        self._tokens.update((self._facts.stage.position(patch), tokens_BYX) for patch, tokens_BYX in patches)

    def amend(self, facts: CanvasFacts) -> None:
        """Say anew what the canvas is, in one step together with what was put."""
        self._facts, self._sure = facts, dict(self._tokens)

    def load(self) -> None:
        """Go back to what was there at the last :meth:`amend`."""
        self._tokens = dict(self._sure)

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens of a patch, if it is there."""
        return self._tokens.get(self._facts.stage.position(patch))

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens of an area of one image or frame; ``UNWRITTEN`` where there are none."""
        rows, columns = self._facts.patch_size
        top, left = area.top // rows, area.left // columns
        down, across = -(-area.bottom // rows) - top, -(-area.right // columns) - left
        tokens_YX = torch.full((down * rows, across * columns), UNWRITTEN)
        for y in range(down):
            for x in range(across):
                tokens_BYX = self.patch(PatchIndex(t, top + y, left + x))
                if tokens_BYX is not None:
                    tokens_YX[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns] = tokens_BYX[number]
        y, x = area.top - top * rows, area.left - left * columns
        return tokens_YX[y : y + area.bottom - area.top, x : x + area.right - area.left]

    def written(self) -> Iterable[PatchIndex]:
        """Yield the patches that are there."""
        return map(self._facts.stage.patch, self._tokens)
