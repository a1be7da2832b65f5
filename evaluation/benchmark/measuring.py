"""Timing that can be believed on a small machine: bursts of many steps, taken in turn, medians, one pinned core.

Absolute figures drift with whatever else runs; ratios inside one round do so much less.
"""

import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evaluation import record


class Contender(ABC):
    """Something that writes tokens.

    Attributes:
        name: under which it is reported.
        rows: tokens that one step writes.
    """

    name: str
    rows: int

    @abstractmethod
    def start(self) -> None:
        """Get ready for a burst from a full context; this is not timed."""

    @abstractmethod
    def burst(self, steps: int) -> None:
        """Write ``steps`` tokens in each row."""

    def added(self) -> float:
        """Return the seconds a token that :meth:`burst` leaves out, such as what is done once a patch."""
        return 0.0


@dataclass
class Times:
    """Seconds a step, one entry a round."""

    rows: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Over all rows."""
        return self.rows / self.median


def interleave(
    contenders: Sequence[Contender],
    *,
    steps: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Times]:
    """Run a burst of each contender in turn, ``rounds`` times, after one round that does not count.

    Args:
        contenders: in the order in which they take turns.
        steps: of a burst.
        rounds: how many count.
        clock: what tells the time.
        report: gets a line about each burst.
    """
    found = {c.name: Times(c.rows) for c in contenders}
    with torch.inference_mode():
        for number in range(-1, rounds):
            for contender in contenders:
                contender.start()
                # A few steps bring its matrices, not those of the one before, into the caches.
                contender.burst(4)
                contender.start()
                began = clock()
                contender.burst(steps)
                seconds = (clock() - began) / steps + contender.added()
                if number >= 0:
                    found[contender.name].seconds.append(seconds)
                report(f"round {number + 1}: {contender.name}: {1e3 * seconds:.2f} ms a step")
    return found


def ratio(slow: Times, fast: Times) -> float:
    """Return how many times as many tokens a second ``fast`` writes: the median over rounds."""
    each = [(s / slow.rows) / (f / fast.rows) for s, f in zip(slow.seconds, fast.seconds, strict=True)]
    return statistics.median(each)


class Reading(Contender):
    """Reads memory, nothing else: what the machine gives to something that uses every number once."""

    def __init__(self, nbytes: int, device: str = "cpu") -> None:
        self.name, self.rows, self.nbytes = f"reading {nbytes / 1e6:.0f} MB", 1, nbytes
        # The fastest reading found, in pieces of 2 MB as a step has them. Products with a vector are half as fast where
        # the matrices are small: measured against those a step seemed to be faster than the memory.
        # A GPU takes one piece: there a call costs more than 2 MB do.
        count, length = (max(1, nbytes // (1 << 21)), 1 << 19) if device == "cpu" else (1, max(1, nbytes // 4))
        self._pieces = [torch.randn(length, device=device) for _ in range(count)]

    def start(self) -> None:
        """Nothing to prepare."""

    def burst(self, steps: int) -> None:
        """Read all of it ``steps`` times."""
        for _ in range(steps):
            for piece in self._pieces:
                piece.max()


def pin(threads: int) -> list[int]:
    """Let this process use ``threads`` cores and as many threads; return which."""
    torch.set_num_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        **record.machine(device),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": record.versions(),
    }


def load() -> list[float]:
    """Return how many processes wanted to run in the last 1, 5 and 15 minutes."""
    return list(os.getloadavg())
