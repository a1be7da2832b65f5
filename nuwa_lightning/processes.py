"""This process and others: memory that the C library keeps, children that end with their parent, shared batches."""

from __future__ import annotations

import ctypes
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Raise glibc's thresholds, where there is glibc.

    A training step frees and asks for the same large tensors again. By default each goes back to the system and comes
    anew, page by page, zeroed: 14 to 20 % of a step of either stage on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: nothing to tune
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)


def die_with_parent() -> None:
    """Ask Linux to stop this process when its parent dies, so that a killed run leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


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
