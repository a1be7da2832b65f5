"""Data modules that give square crops of photos.

Batches are dicts: ``image`` float32 (B, 3, Y, X) in [-1, 1] and ``index`` int64 (B), the place of the photo among the
usable ones of its split.
"""

import functools
from collections.abc import Sequence
from typing import Any, final

from nuwa_lightning.data.crops import CropSettings, center_crops, random_crop
from nuwa_lightning.data.data_module import PreparedDataModule
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.landscape_photos import Kind, LandscapePhotos, Origin
from nuwa_lightning.data.photos import FolderPhotos, PhotoSource, Split
from nuwa_lightning.data.preparing import PreparedPhotos, nothing_usable, prepare_photos
from nuwa_lightning.data.reading import MAX_PIXELS
from nuwa_lightning.data.streams import FixedSamples, RandomBatches
from nuwa_lightning.errors import UsageError

# Legend: B crops of a batch, Y, X pixels along the axes, 3 colours.

_CROPS = CropSettings()


class PhotosDataModule(PreparedDataModule[PreparedPhotos]):
    """Crops of photos, at random for training and at the center for validation.

    Args:
        photos: where the photos come from.
        crops: how crops are cut.
        batch_size: crops in a batch, per process.
        max_pixels: limit on the pixels of one photo, against files made to exhaust the memory.
        options: see `StreamingDataModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "photo"

    def __init__(
        self,
        photos: PhotoSource,
        *,
        crops: CropSettings = _CROPS,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        **options: Any,
    ) -> None:
        crops.check()
        super().__init__(photos, batch_size=batch_size, **options)
        self.photos = photos
        self.crops = crops
        self.max_pixels = max_pixels

    def _size(self, split: Split) -> int:
        return self.crops.size if split == "train" else self.crops.validation_size

    def prepare_split(self, split: Split) -> PreparedPhotos:
        sides = self.crops.short_sides if split == "train" else self.crops.val_short_sides
        cache = cache_folder(self.cache)
        photos = self.photos.photos(split)
        return prepare_photos(photos, sides, crop=self._size(split), cache=cache, max_pixels=self.max_pixels)

    def training_batches(self, rank: int, world: int) -> RandomBatches:
        photos = self.prepared("train")
        draw = functools.partial(random_crop, photos, self.crops)
        return RandomBatches(draw, len(photos), self.batch_size, self.seed, rank, world)

    def validation_samples(self) -> FixedSamples[tuple[int, int]]:
        return center_crops(self.prepared("val"), self.crops.validation_size)

    def settings(self) -> dict[str, Any]:
        return {"crops": repr(self.crops)}

    def nothing_usable(self, split: Split, found: PreparedPhotos) -> UsageError:
        option, value = self.photos.option(split)
        if found.left_out["too_small"] and not found.skipped:
            size = self._size(split)
            hint = (
                f"all photos of {value} are smaller, the largest has a shorter side of {found.largest_side} px; use"
                f" photos of at least {size} px on the shorter side or a smaller crop"
            )
            return UsageError("data.crops.size" if split == "train" else "data.crops.val_size", size, hint)
        # Of a folder that is parted into two: the number is that of one part.
        what = "images for training" if split == "train" else "images held out"
        return nothing_usable(option, value, found, what=what)


@final
class ImageFolderDataModule(PhotosDataModule):
    """Crops of the photos in any folder; see `PhotosDataModule` and `FolderPhotos`.

    Args:
        root: the folder, or several.
        val_root: folder(s) of validation photos; without, whole photos of ``root`` are held out.
        val_fraction: share of the photos held out when there is no ``val_root``.
        options: see `PhotosDataModule`.
    """

    def __init__(
        self,
        root: str | list[str],
        *,
        val_root: str | list[str] | None = None,
        val_fraction: float = 1 / 6,
        **options: Any,
    ) -> None:
        super().__init__(FolderPhotos(root, val_root=val_root, val_fraction=val_fraction), **options)


@final
class LandscapeDataModule(PhotosDataModule):
    """Crops of the default photographs; see `PhotosDataModule` and `LandscapePhotos`.

    Args:
        kinds: which photos: ``landscape``, ``closeup``.
        sources: where they are fetched from: ``apt``, ``npm``.
        options: see `PhotosDataModule`.
    """

    def __init__(
        self,
        kinds: Sequence[Kind] = ("landscape", "closeup"),
        *,
        sources: Sequence[Origin] = ("apt", "npm"),
        cache: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(LandscapePhotos(kinds, sources=sources, cache=cache), cache=cache, **options)
