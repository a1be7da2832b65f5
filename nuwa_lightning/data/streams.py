"""Endless training batches whose content depends on nothing but the number of the step.

Lightning's own loaders restart an epoch from its beginning when a run is resumed in the middle. Here batch ``n`` is
computed from (seed, n), and where to go on is read from the trainer's progress, which its checkpoints keep; so a
resumed run sees the very batches that it would have seen.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, final

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from nuwa_lightning.signals import leave_to_parent

Batch = dict[str, Any]
"""Tensors, and lists of texts."""

_MASK = (1 << 64) - 1
_HELD = 1 << 18
"""Orders of up to so many photos are held as a list."""
_ROUNDS = 6
_P = TypeVar("_P")


class BatchMaker(Protocol):
    """Computes a batch from the number of the step; picklable, since loading processes get a copy."""

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step`` (counted from 0 over all epochs)."""


@final
@dataclass(frozen=True)
class RandomBatches:
    """A `BatchMaker` of random samples; each is a pure function of the seed and its number.

    ``draw`` makes a sample of a random generator and the index of one of ``count`` photos or videos.
    """

    draw: Callable[[np.random.Generator, int], dict[str, Any]]
    count: int
    batch_size: int
    seed: int
    rank: int
    world: int

    def batch(self, step: int) -> Batch:
        """See `BatchMaker.batch`."""
        first = (step * self.world + self.rank) * self.batch_size
        batch: Batch = default_collate([self._sample(first + place) for place in range(self.batch_size)])
        return batch

    def _sample(self, number: int) -> dict[str, Any]:
        return self.draw(generator(self.seed, 2, number), photo_of_sample(self.seed, number, self.count))


@final
class FixedSamples(Dataset[Batch], Generic[_P]):
    """A data set of what ``read`` makes of each of ``places``, in their order."""

    def __init__(self, places: Sequence[_P], read: Callable[[_P], dict[str, Any]]) -> None:
        self._places, self._read = places, read

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(self._places[index])


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """Return a random generator that is a pure function of its arguments, independent for different ones."""
    return np.random.default_rng([seed & _MASK, *numbers])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, round_: int, count: int) -> npt.NDArray[np.int64]:
    return generator(seed, 1, round_).permutation(count)


def photo_of_sample(seed: int, sample: int, count: int) -> int:
    """Return which of ``count`` photos sample number ``sample`` shows: each once in every ``count`` samples."""
    round_, place = divmod(sample, count)
    return shuffled(seed, round_, place, count) if count > _HELD else int(_permutation(seed, round_, count)[place])


@functools.lru_cache(maxsize=4)
def _round_keys(seed: int, round_: int) -> tuple[int, ...]:
    return tuple(generator(seed, 1, round_).integers(1 << 63, size=_ROUNDS).tolist())


def shuffled(seed: int, round_: int, place: int, count: int) -> int:
    """Return what stands at ``place`` of an order of ``range(count)`` of which nothing is held.

    A Feistel network over as many bits as ``count`` has, gone through until the number is below ``count`` (cycle
    walking: Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = place >> half, place & low
        for key in _round_keys(seed, round_):
            mixed = ((right ^ key) * 0x9E3779B97F4A7C15) & _MASK
            mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & _MASK
            left, right = right, left ^ ((mixed >> 32) & low)
        place = left << half | right
        if place < count:
            return place


@final
class BatchStream:
    """An iterable over the batches of one epoch, from where the trainer stands.

    ``position`` returns the number of batches that the trainer has finished, over all epochs.
    """

    def __init__(self, maker: BatchMaker, *, length: int, position: Callable[[], int], num_workers: int = 0) -> None:
        self._maker = maker
        self._length = length
        self._position = position
        self._num_workers = num_workers

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over one epoch's number of batches, from the trainer's position on."""
        steps = _Steps(self._maker, self._position(), self._length)
        if self._num_workers == 0:
            return iter(steps)
        return iter(DataLoader(steps, None, num_workers=self._num_workers, worker_init_fn=leave_to_parent))

    def state_dict(self) -> dict[str, int]:
        """Return the position. It tells Lightning that this loader can resume; the trainer's progress decides."""
        return {"position": self._position()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Accept a stored position: the trainer's progress, restored from the same checkpoint, says the same."""


class _Steps(IterableDataset[Batch]):
    """The batches of some steps, dealt out to loading processes in turn, so that their order stays."""

    def __init__(self, maker: BatchMaker, start: int, length: int) -> None:
        super().__init__()
        self._maker = maker
        self._start = start
        self._length = length

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in range(self._start + first, self._start + self._length, stride):
            yield self._maker.batch(step)
