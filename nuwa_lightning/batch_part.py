"""Batches that several processes share, which train together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BatchPart:
    """Which part of a batch is this process's, where several train together.

    Each of them draws the random numbers of the whole batch, so that samples meet what they would in one process.

    Attributes:
        rank: number of this process.
        world: how many there are; their parts are equally large.
    """

    rank: int = 0
    world: int = 1

    def samples(self, own: int) -> range:
        """Return the places in the whole batch of the ``own`` samples of this process."""
        return range(self.rank * own, (self.rank + 1) * own)

    def of(self, drawn: Tensor) -> Tensor:
        """Return the rows of this process, of those of the whole batch."""
        own = self.samples(len(drawn) // self.world)
        return drawn[own.start : own.stop]

    def rows(self, chosen: Tensor, own: int) -> Tensor:
        """Return which rows of this process are among ``chosen`` rows of all, batch after batch of ``own`` samples."""
        batch, sample = chosen // (own * self.world), chosen % (own * self.world)
        mine = (sample // own) == self.rank
        return (batch * own + sample % own)[mine]


WHOLE: Final = BatchPart()
"""One process has it all."""
