"""Endless training batches whose content depends on nothing but the number of the step.

Lightning's own loaders restart an epoch from its beginning when a run is resumed in the middle. Here batch ``n`` is
computed from (seed, n), and where to go on is read from the trainer's progress, which its checkpoints keep; so a
resumed run sees the very batches that it would have seen.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nuwa_lightning.errors import UsageError

Batch = dict[str, Any]
"""Tensors, and lists of texts."""

_MASK = (1 << 64) - 1


class BatchMaker(Protocol):
    """Computes a batch from the number of the step; picklable, since loading processes get a copy."""

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step`` (counted from 0 over all epochs)."""


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """Return a random generator that is a pure function of its arguments, independent for different ones."""
    return np.random.default_rng([seed & _MASK, *numbers])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, round_: int, count: int) -> npt.NDArray[np.int64]:
    return generator(seed, 1, round_).permutation(count)


def photo_of_sample(seed: int, sample: int, count: int) -> int:
    """Return which of ``count`` photos sample number ``sample`` shows: each once in every ``count`` samples."""
    round_, place = divmod(sample, count)
    return int(_permutation(seed, round_, count)[place])


@final
class BatchStream:
    """An iterable over the batches of one epoch, from where the trainer stands.

    Args:
        maker: computes the batches.
        length: batches in an epoch.
        position: returns the number of batches that the trainer has finished, over all epochs.
        num_workers: processes that compute ahead; 0 computes in this one.
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
        return iter(DataLoader(steps, batch_size=None, num_workers=self._num_workers))

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


def trainer_position(module: LightningDataModule) -> int:
    """Return the number of training batches that the trainer of ``module`` has finished; 0 without one."""
    trainer = module.trainer
    if trainer is None:
        return 0
    # "processed", not "completed": a checkpoint written at the end of a batch has that batch in its weights.
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def rank_and_world(module: LightningDataModule) -> tuple[int, int]:
    """Return the rank of this process and the number of processes that train together."""
    trainer = module.trainer
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def check_loading(batch_size: int, steps_per_epoch: int, num_workers: int) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UsageError: naming the option.
    """
    for name, value, least, most in (
        ("data.batch_size", batch_size, 1, 1 << 16),
        ("data.steps_per_epoch", steps_per_epoch, 1, None),
        ("data.num_workers", num_workers, 0, max(4, 2 * (os.cpu_count() or 1))),
    ):
        if value < least or (most is not None and value > most):
            raise UsageError(name, value, f"give {least} or more" + (f", at most {most}" if most else ""))


def resume_note(stored: dict[str, Any], present: dict[str, Any]) -> str | None:
    """Return one line that says what of the data changed since the checkpoint, or None."""
    changed = sorted(key for key in stored if key in present and stored[key] != present[key])
    if not changed:
        return None
    return f"resuming with other data than before ({', '.join(changed)} changed): the samples will differ"
