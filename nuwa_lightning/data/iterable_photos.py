"""Photos that are no files: of an archive, a data set of a library, a program that draws them."""

from __future__ import annotations

import hashlib
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import cache_folder, content_key, content_keys, locked
from nuwa_lightning.data.photos import Photo, PhotoSource
from nuwa_lightning.data.sources import Split, held_out, rank_of
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import fits, read_json

if TYPE_CHECKING:
    from PIL import Image

    Pixels = Image.Image | npt.NDArray[np.uint8] | bytes

_VERSION: Final = "samples-1"
_LONGEST: Final = 1 << 34


class IterablePhotos(PhotoSource):
    """Photos and captions from `samples`, gone through once: each image is kept as a file in the cache folder.

    A set that says of how many parts it is (`parts`) can be made into shards without that; see docs/how-to/shards.md.

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
        """Yield images (PIL, uint8 (Y, X), (Y, X, 3) or (Y, X, 4), bytes of a file) and their captions, "" for none."""

    def parts(self, size: int) -> int:
        """Return the number of parts, of about ``size`` samples, that `part` reads; 0 if it does not."""
        return 0

    def part(self, number: int, size: int) -> Iterable[tuple[Pixels, str]]:
        """Yield the samples of one of `parts`; all parts, one after another, are `samples`."""
        raise NotImplementedError

    def photos_of_part(self, number: int, size: int) -> Iterator[tuple[Split, Photo]]:
        """Yield the photos of one of `parts`, each in a file that is gone when the next one is asked for.

        They are on the side that `photos` has them on, but for sets so small that this would leave one side empty.
        """
        with tempfile.TemporaryDirectory(prefix="nuwa_lightning-") as folder:
            for place, (image, caption) in enumerate(self.part(number, size)):
                path = self._write(Path(folder), place, image)
                key = content_key(path)
                split: Split = "val" if rank_of(key) < self.val_fraction else "train"
                yield split, Photo(path, f"{number:06d}-{place:06d}", caption, key)
                path.unlink()

    def prepare(self) -> None:
        """Keep the images, or find those that were kept before."""
        with locked(self.folder):
            if self._indexed() is None:
                kept = [
                    (self._write(self.folder, n, image).name, said) for n, (image, said) in enumerate(self.samples())
                ]
                if not kept:
                    raise UsageError("data.photos", self.name, "it yields no image")
                index = {"name": self.name, "files": [name for name, _ in kept], "captions": [said for _, said in kept]}
                write_json(self.folder / "index.json", index)  # last

    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, in the order of `samples`."""
        if self._split is None:
            found = self._indexed()
            if found is None:
                self.prepare()
                found = self._indexed() or ([], [])
            paths, captions = found
            keys = content_keys(paths, cache=self.folder.parent.parent)
            scenes = [path.name if isinstance(key, OSError) else key for path, key in zip(paths, keys, strict=True)]
            out = held_out(scenes, fraction=self.val_fraction)
            self._split = {"train": [], "val": []}
            for path, caption, scene in zip(paths, captions, scenes, strict=True):
                self._split["val" if scene in out else "train"].append(Photo(path, path.stem, caption, scene))
        return list(self._split[split])

    def option(self, split: Split) -> tuple[str, str]:
        return "data.photos", self.name

    def record(self) -> dict[str, object]:
        """Return the name of the set and the number of photos on each side."""
        return {"source": self.name, **{split: len(self.photos(split)) for split in ("train", "val")}}

    def _write(self, folder: Path, number: int, image: Pixels) -> Path:
        from PIL import Image

        if isinstance(image, bytes):  # a file: as it is
            path = folder / f"{number:07d}.image"
            with atomic_write(path) as partial:
                partial.write_bytes(image)
            return path
        path = folder / f"{number:07d}.png"
        try:
            kept = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
            with atomic_write(path) as partial:
                kept.save(partial, "PNG", compress_level=1)
        except (TypeError, ValueError, OverflowError) as error:
            hint = f"sample {number} is no image ({error}): give PIL images or uint8 arrays (Y, X, 3)"
            raise UsageError("data.photos", self.name, hint) from error
        return path

    def _indexed(self) -> tuple[list[Path], list[str]] | None:
        """Return the images that are kept and their captions; None if they are not all there."""
        try:
            found = read_json(self.folder / "index.json", longest=_LONGEST)
            captions = found["captions"]
            names = found.get("files", [f"{number:07d}.png" for number in range(len(captions))])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not fits(captions, list[Any]) or not fits(names, list[str]) or not 0 < len(captions) == len(names):
            return None
        paths = [self.folder / Path(name).name for name in names]
        return (paths, list(map(str, captions))) if all(path.is_file() for path in paths) else None
