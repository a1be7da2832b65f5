"""Photos that are no files: of an archive, a data set of a library, a program that draws them."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import cache_folder, content_keys, locked
from nuwa_lightning.data.photos import Photo, PhotoSource
from nuwa_lightning.data.sources import Split, held_out
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import fits, read_json

if TYPE_CHECKING:
    from PIL import Image

    Pixels = Image.Image | npt.NDArray[np.uint8]

_VERSION: Final = "samples-1"
_LONGEST: Final = 1 << 34


class IterablePhotos(PhotoSource):
    """Photos and captions from `samples`, gone through once: each image is kept as a PNG file in the cache folder.

    Whole photos are held out by a hash of their content, as `FolderPhotos` does. See docs/how-to/data-source.md.

    Args:
        name: of the set, with its version and whatever else decides what is in it; under another one it is read anew.
        val_fraction: share of the photos held out; 0 holds none out.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.
    """

    def __init__(self, name: str, *, val_fraction: float = 1 / 6, cache: str | None = None) -> None:
        self.name, self.val_fraction = name, val_fraction
        said = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self.folder = cache_folder(cache) / _VERSION / said
        self._split: dict[Split, list[Photo]] | None = None

    @abstractmethod
    def samples(self) -> Iterable[tuple[Pixels, str]]:
        """Yield images (PIL, or uint8 (Y, X), (Y, X, 3) or (Y, X, 4)) with their captions, "" for none."""

    def prepare(self) -> None:
        """Keep the images, or find those that were kept before."""
        with locked(self.folder):
            if self._indexed() is None:
                captions = [self._keep(number, *sample) for number, sample in enumerate(self.samples())]
                if not captions:
                    raise UsageError("data.photos", self.name, "it yields no image")
                write_json(self.folder / "index.json", {"name": self.name, "captions": captions})  # last

    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, in the order of `samples`."""
        if self._split is None:
            captions = self._indexed()
            if captions is None:
                self.prepare()
                captions = self._indexed() or []
            paths = [self._file(number) for number in range(len(captions))]
            keys = content_keys(paths, cache=self.folder.parent.parent)
            scenes = [path.name if isinstance(key, OSError) else key for path, key in zip(paths, keys, strict=True)]
            out = held_out(scenes, fraction=self.val_fraction)
            self._split = {"train": [], "val": []}
            for path, caption, scene in zip(paths, captions, scenes, strict=True):
                self._split["val" if scene in out else "train"].append(Photo(path, path.stem, caption, scene))
        return list(self._split[split])

    def option(self, split: Split) -> tuple[str, str]:
        """See `PhotoSource.option`."""
        return "data.photos", self.name

    def record(self) -> dict[str, object]:
        """Return the name of the set and the number of photos on each side."""
        return {"source": self.name, **{split: len(self.photos(split)) for split in ("train", "val")}}

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:07d}.png"

    def _keep(self, number: int, image: Pixels, caption: str) -> str:
        from PIL import Image

        try:
            kept = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
            with atomic_write(self._file(number)) as partial:
                kept.save(partial, "PNG", compress_level=1)
        except (TypeError, ValueError, OverflowError) as error:
            hint = f"sample {number} is no image ({error}): give PIL images or uint8 arrays (Y, X, 3)"
            raise UsageError("data.photos", self.name, hint) from error
        return caption

    def _indexed(self) -> list[str] | None:
        """Return the captions of the images that are kept; None if they are not all there."""
        try:
            found = read_json(self.folder / "index.json", longest=_LONGEST)
            captions = found["captions"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not fits(captions, list[Any]) or not captions:
            return None
        whole = all(self._file(n).is_file() for n in range(len(captions)))
        return list(map(str, captions)) if whole else None
