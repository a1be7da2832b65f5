"""What the data modules have in common: loaders that resume exactly, and samples that are prepared once."""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from nuwa_lightning.data.sources import Prepared, Skipped, Source, Split, prepared_splits
from nuwa_lightning.data.streams import Batch, BatchMaker, BatchStream, FixedSamples
from nuwa_lightning.errors import UsageError
from nuwa_lightning.signals import leave_to_parent

_LOG = logging.getLogger(__name__)
P = TypeVar("P", bound=Prepared[Any])


class StreamingDataModule(LightningDataModule, ABC):
    """Endless training batches and fixed validation batches.

    Batch ``n`` is a pure function of (seed, n), so that a resumed run goes on with the batches it would have seen.

    Args:
        batch_size: samples in a batch, per process.
        steps_per_epoch: batches in an epoch. There is no natural number, since random samples are endless.
        num_workers: processes that make batches ahead; 0, the default, is right for a small machine.
        seed: of the order and the samples.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        steps_per_epoch: int = 200,
        num_workers: int = 0,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least, most in (
            ("data.batch_size", batch_size, 1, 1 << 16),
            ("data.steps_per_epoch", steps_per_epoch, 1, None),
            ("data.num_workers", num_workers, 0, max(4, 2 * (os.cpu_count() or 1))),
        ):
            if value < least or (most is not None and value > most):
                raise UsageError(name, value, f"give {least} or more" + (f", at most {most}" if most else ""))
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.cache = cache
        self._stored: dict[str, Any] = {}

    @abstractmethod
    def training_batches(self, rank: int, world: int) -> BatchMaker:
        """Return what makes the training batches of process ``rank`` of ``world``."""

    @abstractmethod
    def validation_samples(self) -> FixedSamples[Any]:
        """Return the validation samples; none if nothing is held out."""

    def collate(self) -> Callable[[list[dict[str, Any]]], Batch] | None:
        """Return what makes a batch of validation samples; None for PyTorch's own way."""
        return None

    def train_dataloader(self) -> BatchStream:
        """Return the stream of training batches, from the trainer's position on."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        maker = self.training_batches(rank, world)
        return BatchStream(maker, length=self.steps_per_epoch, position=self._position, num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader over the validation samples, in fixed order; none if nothing is held out."""
        samples = self.validation_samples()
        if not len(samples):
            return []
        collate = self.collate()
        size, workers = self.batch_size, self.num_workers
        return [DataLoader(samples, size, num_workers=workers, collate_fn=collate, worker_init_fn=leave_to_parent)]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation loader: these sets are too small for a third part."""
        return self.val_dataloader()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a checkpoint's data, to be compared with that which is opened."""
        self._stored = state_dict

    @final
    def _compare(self, present: dict[str, Any]) -> None:
        """Say in one line what of the data changed since the checkpoint, if anything did."""
        note, self._stored = resume_note(self._stored, present), {}
        if note:
            _LOG.warning(note)

    def _position(self) -> int:
        """Return the number of training batches that the trainer has finished; 0 without one."""
        if self.trainer is None:
            return 0
        # "processed", not "completed": a checkpoint written at the end of a batch has that batch in its weights.
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)


class PreparedDataModule(StreamingDataModule, Generic[P]):
    """Samples of photos or videos that are prepared once, and kept in the cache folder.

    What cannot be read is named, counted and skipped.

    Args:
        source: where the photos or videos come from.
        options: see `StreamingDataModule`.
    """

    noun: str
    """What they are called, in a checkpoint."""

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(**options)
        self.source = source
        self._prepared: dict[Split, P] = {}

    @abstractmethod
    def prepare_split(self, split: Split) -> P:
        """Prepare what is not yet in the cache."""

    @abstractmethod
    def nothing_usable(self, split: Split, found: P) -> UsageError:
        """Return what to raise if nothing of ``split`` can be used, saying why and what would help."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what else decides about the samples, for a checkpoint."""

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read, of both splits; known after `setup`."""
        return [entry for prepared in self._prepared.values() for entry in prepared.skipped]

    @final
    def prepared(self, split: Split) -> P:
        """Return what can be used of ``split``; call `prepare_data` before."""
        if not self._prepared:
            self._prepared = prepared_splits(self.source, self.prepare_split)
            for each, found in self._prepared.items():
                if self.source.listed(each) and not found.entries:
                    self._prepared = {}
                    raise self.nothing_usable(each, found)
        return self._prepared[split]

    def prepare_data(self) -> None:
        """Fetch and prepare the files, once; Lightning calls this on one process only."""
        self.source.prepare()
        self.prepared("train")

    def setup(self, stage: str) -> None:
        """Open what was prepared (at once after `prepare_data`) and say so if it differs from a checkpoint's."""
        self._compare(self.state_dict())

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data."""
        left_out: dict[str, list[str]] = {"skipped": [str(entry.path) for entry in self.skipped]}
        for found in self._prepared.values():
            for kind, samples in found.left_out.items():
                left_out.setdefault(kind, []).extend(str(sample.path) for sample in samples)
        return {**self.source.record(), **left_out}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to notice that the data changed."""
        keys = "\n".join(entry.sample.key for entry in self.prepared("train").entries)
        digest = hashlib.sha256(keys.encode("utf-8", "surrogatepass")).hexdigest()
        return {f"{self.noun}s": digest, "seed": self.seed, "batch_size": self.batch_size, **self.settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a checkpoint's data for comparison, now or at `setup`."""
        super().load_state_dict(state_dict)
        if self._prepared:
            self.setup("fit")


def resume_note(stored: dict[str, Any], present: dict[str, Any]) -> str | None:
    """Return one line that says what of the data changed since the checkpoint, or None."""
    changed = sorted(key for key in stored if key in present and stored[key] != present[key])
    if not changed:
        return None
    return f"resuming with other data than before ({', '.join(changed)} changed): the samples will differ"
