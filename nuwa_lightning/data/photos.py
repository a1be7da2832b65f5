"""What a data module reads from: photos, split by whole photos into training and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import final

from nuwa_lightning.data.folder_samples import FolderSamples
from nuwa_lightning.data.folder_samples import Split as Split
from nuwa_lightning.data.folder_samples import held_out as held_out
from nuwa_lightning.data.reading import SUFFIXES


@dataclass(frozen=True)
class Photo:
    """One image file.

    Attributes:
        path: the file.
        key: a name that is unique in its source.
        caption: a sentence that says what is seen, or "".
        scene: photos of one scene are never split between training and validation.
    """

    path: Path
    key: str
    caption: str = ""
    scene: str = ""


class PhotoSource(ABC):
    """A set of photos with a fixed split. Subclass this to train on photos from elsewhere."""

    @abstractmethod
    def prepare(self) -> None:
        """Do what needs the network or much time, once; called on one process only. Must be quick when done already.

        Raises:
            UsageError: if there are no photos to be had.
        """

    @abstractmethod
    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, always in the same order; call `prepare` before.

        Raises:
            UsageError: if the source holds no photo at all.
        """

    def set_aside(self, unusable: Collection[Path]) -> bool:
        """Split anew without these files, and say whether that changes anything; a fixed split stays as it is."""
        return False

    @abstractmethod
    def option(self, split: Split) -> tuple[str, str]:
        """Return the option that says where the photos of ``split`` lie and its value, for error messages."""

    @abstractmethod
    def record(self) -> dict[str, object]:
        """Return what a run's record should say about the photos, as JSON-able values."""


@final
class FolderPhotos(PhotoSource):
    """Every image below a folder, sub-folders included; no list files.

    How they are split: see `nuwa_lightning.data.folder_samples.FolderSamples`. Captions stand in ``NAME.txt`` beside a
    photo, or in one file for all: see `nuwa_lightning.data.captions`.

    Args:
        root: the folder, or several.
        captions: the file with the captions of all photos; by default ``metadata.jsonl`` or the like in each folder.
        val_root: folder(s) of validation photos; when given, the rest of ``root`` is for training.
        val_fraction: share of the photos held out when there is no ``val_root``; 0 holds none out.
    """

    def __init__(
        self,
        root: str | list[str],
        *,
        captions: str | None = None,
        val_root: str | list[str] | None = None,
        val_fraction: float = 1 / 6,
    ) -> None:
        self._folders = FolderSamples(
            root,
            val_root,
            val_fraction,
            captions,
            make=Photo,
            noun="image",
            suffixes=SUFFIXES,
            hint="PNG, JPEG, WebP, TIFF or BMP",
        )

    @property
    def roots(self) -> list[Path]:
        """The folders."""
        return self._folders.roots

    def prepare(self) -> None:
        """Check the folders.

        Raises:
            UsageError: if a folder is missing or holds no image.
        """
        self._folders.of("train")

    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, sorted by path.

        Raises:
            UsageError: if a folder is missing or holds no image.
        """
        return self._folders.of(split)

    def set_aside(self, unusable: Collection[Path]) -> bool:
        """See `PhotoSource.set_aside`."""
        return self._folders.set_aside(unusable)

    def option(self, split: Split) -> tuple[str, str]:
        """See `PhotoSource.option`."""
        return self._folders.option(split)

    def record(self) -> dict[str, object]:
        """See `FolderSamples.record`."""
        return self._folders.record()
