"""What a data module reads from: photos, split by whole photos into training and validation."""

from abc import abstractmethod
from typing import final

from nuwa_lightning.data.reading import SUFFIXES
from nuwa_lightning.data.sources import FolderSource, Sample, Source
from nuwa_lightning.data.sources import Split as Split
from nuwa_lightning.data.sources import held_out as held_out


class Photo(Sample):
    """One image file."""


class PhotoSource(Source):
    """A set of photos with a fixed split. Subclass this to train on photos from elsewhere."""

    @abstractmethod
    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, always in the same order; call `prepare` before.

        Raises:
            UsageError: if the source holds no photo at all.
        """

    def listed(self, split: Split) -> list[Photo]:
        return self.photos(split)


@final
class FolderPhotos(FolderSource[Photo], PhotoSource):
    """Every image below a folder; see `nuwa_lightning.data.sources.FolderSource`."""

    make = Photo
    noun = "image"
    suffixes = SUFFIXES
    hint = "PNG, JPEG, WebP, TIFF or BMP"

    def photos(self, split: Split) -> list[Photo]:
        return self.listed(split)
