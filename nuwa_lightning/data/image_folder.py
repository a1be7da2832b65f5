"""Data modules that give square crops of photos: of any folder, and of the default landscapes.

Batches are dicts: ``image`` float32 (B, 3, Y, X) in [-1, 1] and ``index`` int64 (B), the place of the photo among the
usable ones of its split.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from nuwa_lightning.data.crops import CenterCrops, CropSettings, RandomCrops
from nuwa_lightning.data.folder_samples import prepared_splits
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.landscape_photos import Kind, LandscapePhotos, Origin
from nuwa_lightning.data.photos import FolderPhotos, PhotoSource, Split
from nuwa_lightning.data.preparing import PreparedPhotos, Skipped, nothing_usable, prepare_photos
from nuwa_lightning.data.reading import MAX_PIXELS
from nuwa_lightning.data.streams import (
    Batch,
    BatchStream,
    check_loading,
    rank_and_world,
    resume_note,
    trainer_position,
)
from nuwa_lightning.errors import UsageError

# Legend: B crops of a batch, Y, X pixels along the axes, 3 colours.

_LOG = logging.getLogger(__name__)
_CROPS = CropSettings()


class ImageDataModule(LightningDataModule, ABC):
    """Views of photos, cut at random for training and at the centre for validation.

    Batch ``n`` is a pure function of (seed, n), so that a resumed run goes on with the batches it would have seen.
    Photos are prepared once (`nuwa_lightning.data.preparing`); those that cannot be read are named, counted and
    skipped. A subclass says where the photos come from.

    Args:
        crops: how crops are cut.
        batch_size: crops in a batch, per process.
        steps_per_epoch: batches in an epoch. There is no natural number, since crops are endless.
        num_workers: processes that cut crops ahead; 0, the default, is right for prepared photos on a small machine.
        seed: of the order and the crops.
        max_pixels: limit on the pixels of one photo, against files made to exhaust the memory.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        *,
        crops: CropSettings = _CROPS,
        batch_size: int = 8,
        steps_per_epoch: int = 200,
        num_workers: int = 0,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        crops.check()
        check_loading(batch_size, steps_per_epoch, num_workers)
        self.crops = crops
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.max_pixels = max_pixels
        self.cache = cache
        self._prepared: dict[Split, PreparedPhotos] = {}
        self._stored: dict[str, Any] = {}

    @abstractmethod
    def photo_source(self) -> PhotoSource:
        """Return where the photos come from, always the same object."""

    @property
    def skipped(self) -> list[Skipped]:
        """The photos that could not be read, of both splits; known after `setup`."""
        return [entry for prepared in self._prepared.values() for entry in prepared.skipped]

    def prepared(self, split: Split) -> PreparedPhotos:
        """Return the usable photos of ``split`` as arrays; call `prepare_data` before.

        Raises:
            UsageError: if none is left, saying why and what would help.
        """
        if not self._prepared:
            source = self.photo_source()
            self._prepared = prepared_splits(source.photos, self._found, source.set_aside)
            for each, found in self._prepared.items():
                if source.photos(each) and not found.entries:
                    self._prepared = {}
                    raise _nothing_usable(source, each, found, self._size(each))
        return self._prepared[split]

    def _size(self, split: Split) -> int:
        return self.crops.size if split == "train" else self.crops.validation_size

    def _found(self, split: Split) -> PreparedPhotos:
        return prepare_photos(
            self.photo_source().photos(split),
            self.crops.short_sides if split == "train" else self.crops.val_short_sides,
            crop=self._size(split),
            cache=cache_folder(self.cache),
            max_pixels=self.max_pixels,
        )

    def prepare_data(self) -> None:
        """Fetch and shrink the photos, once; Lightning calls this on one process only."""
        self.photo_source().prepare()
        self.prepared("train")
        self.prepared("val")

    def setup(self, stage: str) -> None:
        """Open the prepared photos (at once after `prepare_data`) and say so if they differ from a checkpoint's."""
        self.prepared("train")
        self.prepared("val")
        note = resume_note(self._stored, self._state())
        self._stored = {}
        if note:
            _LOG.warning(note)

    def train_dataloader(self) -> BatchStream:
        """Return the stream of training batches, from the trainer's position on."""
        rank, world = rank_and_world(self)
        maker = RandomCrops(self.prepared("train"), self.crops, self.batch_size, self.seed, rank, world)
        return BatchStream(
            maker,
            length=self.steps_per_epoch,
            position=lambda: trainer_position(self),
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader over the validation crops, in fixed order; none if no photo is held out."""
        crops = CenterCrops(self.prepared("val"), self.crops.validation_size)
        return [DataLoader(crops, batch_size=self.batch_size, num_workers=self.num_workers)] if len(crops) else []

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation loader: these sets are too small for a third part."""
        return self.val_dataloader()

    def record(self) -> dict[str, object]:
        """Return what a run's record should say about its data."""
        return {
            **self.photo_source().record(),
            "skipped": [str(entry.path) for entry in self.skipped],
            "too_small": [str(photo.path) for found in self._prepared.values() for photo in found.too_small],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to notice that the data changed."""
        return self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a checkpoint's data for comparison, now or at `setup`."""
        self._stored = state_dict
        if self._prepared:
            self.setup("fit")

    def _state(self) -> dict[str, Any]:
        keys = "\n".join(entry.photo.key for entry in self.prepared("train").entries)
        digest = hashlib.sha256(keys.encode("utf-8", "surrogatepass")).hexdigest()
        return {"photos": digest, "seed": self.seed, "batch_size": self.batch_size, "crops": repr(self.crops)}


@final
class ImageFolderDataModule(ImageDataModule):
    """Views of the photos in any folder; sub-folders are included and no list files are needed.

    Args:
        root: the folder, or several.
        val_root: folder(s) of validation photos; without, whole photos of ``root`` are held out.
        val_fraction: share of the photos held out when there is no ``val_root``.
        options: see `ImageDataModule`.

    Raises:
        UsageError: if an option makes no sense; folders are looked at in `prepare_data`.
    """

    def __init__(
        self,
        root: str | list[str],
        *,
        val_root: str | list[str] | None = None,
        val_fraction: float = 1 / 6,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._source = FolderPhotos(root, val_root=val_root, val_fraction=val_fraction)

    def photo_source(self) -> FolderPhotos:
        """Return the folder's photos."""
        return self._source


@final
class LandscapeDataModule(ImageDataModule):
    """Views of the default photographs; see `nuwa_lightning.data.landscape_photos.LandscapePhotos`.

    Args:
        kinds: which photos: ``landscape``, ``closeup``.
        sources: where they are fetched from: ``apt``, ``npm``.
        options: see `ImageDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        kinds: Sequence[Kind] = ("landscape", "closeup"),
        *,
        sources: Sequence[Origin] = ("apt", "npm"),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._source = LandscapePhotos(kinds, sources=sources, cache=self.cache)

    def photo_source(self) -> LandscapePhotos:
        """Return the default photographs."""
        return self._source


@final
class PhotosDataModule(ImageDataModule):
    """Views of the photos of any source, such as one `nuwa_lightning.data.giant_image.GiantImage`.

    Args:
        photos: the source.
        options: see `ImageDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(self, photos: PhotoSource, **options: Any) -> None:
        super().__init__(**options)
        self._source = photos

    def photo_source(self) -> PhotoSource:
        """Return the source."""
        return self._source


def _nothing_usable(source: PhotoSource, split: Split, found: PreparedPhotos, size: int) -> UsageError:
    option, value = source.option(split)
    if found.too_small and not found.skipped:
        name = "data.crops.size" if split == "train" else "data.crops.val_size"
        return UsageError(
            name,
            size,
            f"all photos of {value} are smaller, the largest has a shorter side of {found.largest_side} px; use photos"
            f" of at least {size} px on the shorter side or a smaller crop",
        )
    # Of a folder that is parted into two: the number is that of one part.
    what = "images for training" if split == "train" else "images held out"
    return nothing_usable(option, value, found, what=what)
