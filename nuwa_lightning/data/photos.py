"""What a data module reads from: photos, split by whole photos into training and validation."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from nuwa_lightning.data.captions import CaptionedFolders
from nuwa_lightning.data.folders import content_key
from nuwa_lightning.data.reading import list_images
from nuwa_lightning.errors import UsageError

Split = Literal["train", "val"]


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

    @abstractmethod
    def option(self, split: Split) -> tuple[str, str]:
        """Return the option that says where the photos of ``split`` lie and its value, for error messages."""

    @abstractmethod
    def record(self) -> dict[str, object]:
        """Return what a run's record should say about the photos, as JSON-able values."""


def held_out(scenes: Iterable[str], *, fraction: float) -> set[str]:
    """Choose the scenes for validation: those whose hash falls below ``fraction`` of the range.

    A scene stays on its side when others come or go. With two scenes or more, at least one is held out and at least
    one is left for training.

    Raises:
        UsageError: if ``fraction`` is not in [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError("val_fraction", fraction, "give a share of the photos in [0, 1)")
    ranked = sorted(set(scenes), key=_rank)
    if fraction == 0.0 or len(ranked) < 2:
        return set()
    chosen = [scene for scene in ranked if _rank(scene) < fraction]
    return set((chosen or ranked[:1])[: len(ranked) - 1])


def _rank(scene: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:6], "big") / 2.0**48


@final
class FolderPhotos(PhotoSource):
    """Every image below a folder, sub-folders included; no list files.

    Without ``val_root`` whole photos are held out, chosen by a hash of their content: equal files under two names are
    one scene and stay on one side, and renaming changes nothing. Captions stand in ``NAME.txt`` beside a photo, or in
    one file for all: see `nuwa_lightning.data.captions`.

    Args:
        root: the folder, or several.
        captions: the file with the captions of all photos; by default ``metadata.jsonl`` or the like in each folder.
        val_root: folder(s) of validation photos; when given, all of ``root`` is for training.
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
        self.roots = _as_paths(root)
        self.val_roots = _as_paths(val_root) if val_root is not None else []
        self.val_fraction = val_fraction
        self.captions = captions
        self._split: dict[Split, list[Photo]] | None = None

    def prepare(self) -> None:
        """Check the folders.

        Raises:
            UsageError: if a folder is missing or holds no image.
        """
        self.photos("train")

    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, sorted by path.

        Raises:
            UsageError: if a folder is missing or holds no image.
        """
        if self._split is None:
            self._split = self._read()
        return list(self._split[split])

    def option(self, split: Split) -> tuple[str, str]:
        """See `PhotoSource.option`."""
        if split == "val" and self.val_roots:
            return "val_root", ", ".join(map(str, self.val_roots))
        return "root", ", ".join(map(str, self.roots))

    def record(self) -> dict[str, object]:
        """Return the folders and the number of photos on each side."""
        return {
            "source": "folder",
            "roots": [str(root) for root in self.roots],
            "val_roots": [str(root) for root in self.val_roots],
            "train": len(self.photos("train")),
            "val": len(self.photos("val")),
        }

    def _read(self) -> dict[Split, list[Photo]]:
        captions = CaptionedFolders(self.captions)
        train = _photos_below(self.roots, "root", captions)
        val = _photos_below(self.val_roots, "val_root", captions)
        captions.tell_missing()
        if self.val_roots:
            return {"train": train, "val": val}
        out = held_out((photo.scene for photo in train), fraction=self.val_fraction)
        return {
            "train": [photo for photo in train if photo.scene not in out],
            "val": [photo for photo in train if photo.scene in out],
        }


def _as_paths(root: str | list[str]) -> list[Path]:
    return [Path(name).expanduser() for name in ([root] if isinstance(root, str) else root)]


def _photos_below(roots: list[Path], option: str, captions: CaptionedFolders) -> list[Photo]:
    photos: list[Photo] = []
    for number, root in enumerate(roots):
        try:
            paths = list_images(root)
        except FileNotFoundError:
            raise UsageError(option, root, "no such folder; give one that holds photos") from None
        except NotADirectoryError:
            raise UsageError(option, root, "not a folder; give one that holds photos") from None
        except OSError as error:
            raise UsageError(option, root, f"cannot be read ({error.strerror}); check its permissions") from None
        if not paths:
            raise UsageError(option, root, "no image in it or below; put PNG, JPEG, WebP, TIFF or BMP files there")
        prefix = f"{number}/" if len(roots) > 1 else ""
        said = captions.of(root, paths)
        photos += [Photo(path, prefix + path.relative_to(root).as_posix(), said[path], _scene(path)) for path in paths]
    return photos


def _scene(path: Path) -> str:
    try:
        return content_key(path)
    except OSError:
        return str(path)  # unreadable: named and skipped when it is opened
