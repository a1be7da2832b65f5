"""Photos of data set libraries: Hugging Face ``datasets``, WebDataset tars, litdata (the ``data`` extra)."""

from __future__ import annotations

import importlib
import itertools
import json
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from nuwa_lightning.data.iterable_photos import IterablePhotos
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_json, read_json

if TYPE_CHECKING:
    from nuwa_lightning.data.iterable_photos import Pixels

_IMAGES: Final = ("jpg", "jpeg", "png", "webp")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = f"{error}: pip install 'nuwa-lightning[data]'"
        raise UsageError("data.photos", name, hint) from None


class _Rows(IterablePhotos):
    """A set whose rows are found by number.

    Args:
        path: of the set.
        image: name of the column of images.
        caption: name of the column of captions; null for none.
        limit: take only so many rows, the first ones.
        version: change it when the set changes.
        options: see `IterablePhotos`.
    """

    def __init__(
        self,
        path: str,
        *,
        image: str = "image",
        caption: str | None = "text",
        limit: int | None = None,
        version: str = "1",
        val_fraction: float = 1 / 6,
        cache: str | None = None,
    ) -> None:
        said = [type(self).__name__, path, image, caption, limit, version, *self._more()]
        super().__init__(json.dumps(said), val_fraction=val_fraction, cache=cache)
        self.path, self.image, self.caption, self.limit = path, image, caption, limit
        self._rows: Any = None

    def _more(self) -> tuple[object, ...]:
        """Return what else decides what is in it."""
        return ()

    @abstractmethod
    def _opened(self) -> Any:
        """Return the rows: they have a length and are found by number."""

    def _count(self) -> int:
        if self._rows is None:
            self._rows = self._opened()
        return len(self._rows) if self.limit is None else min(self.limit, len(self._rows))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open set out."""
        return {**self.__dict__, "_rows": None}

    def parts(self, size: int) -> int:
        """See `IterablePhotos.parts`."""
        return -(-self._count() // size)

    def part(self, number: int, size: int) -> Iterator[tuple[Pixels, str]]:
        """See `IterablePhotos.part`."""
        for place in range(self._count())[number * size : (number + 1) * size]:
            row = self._rows[place]
            if not isinstance(row, Mapping) or self.image not in row:
                there = sorted(row) if isinstance(row, Mapping) else type(row).__name__
                raise UsageError("data.photos.image", self.image, f"{self.path} has {there}: name the column of images")
            yield self._pixels(row[self.image], place), self._said(row)

    def samples(self) -> Iterator[tuple[Pixels, str]]:
        """See `IterablePhotos.samples`."""
        return self.part(0, max(1, self._count()))

    def _said(self, row: Mapping[str, Any]) -> str:
        if self.caption is None:
            return ""
        found = row.get(self.caption)
        if not isinstance(found, str):
            hint = f"{self.path} has {sorted(row)}, and {found!r:.60} there: name a column of texts, or null"
            raise UsageError("data.photos.caption", self.caption, hint)
        return found

    def _pixels(self, image: Any, place: int) -> Pixels:
        """Return an image as `IterablePhotos` takes it."""
        if hasattr(image, "numpy"):  # torch: colors first
            image = np.asarray(image.numpy())
            image = image.transpose(1, 2, 0) if image.ndim == 3 and image.shape[0] in (1, 3, 4) else image
            image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
        found: Pixels = image
        return found


@final
class HuggingFacePhotos(_Rows):
    """A data set of the Hugging Face ``datasets`` library, read from its Arrow files.

    Args:
        path: a name on the hub, a folder that ``save_to_disk`` wrote, or a folder of Parquet files or images.
        split: which split of it.
        name: which configuration of it.
        options: see `IterablePhotos`; ``image``, ``caption`` (columns), ``limit`` (of rows) and ``version``.
    """

    def __init__(self, path: str, *, split: str = "train", name: str | None = None, **options: Any) -> None:
        self.split, self.configuration = split, name
        super().__init__(path, **options)

    def _more(self) -> tuple[object, ...]:
        return self.split, self.configuration

    def _opened(self) -> Any:
        datasets = _library("datasets")
        try:
            if any((Path(self.path) / name).exists() for name in ("state.json", "dataset_dict.json")):
                found = datasets.load_from_disk(self.path)
                found = found[self.split] if isinstance(found, datasets.DatasetDict) else found
            else:
                found = datasets.load_dataset(self.path, self.configuration, split=self.split)
        except (OSError, ValueError, KeyError) as error:
            hint = f"cannot be opened ({' '.join(str(error).split())}): give a folder, or a name on the hub"
            raise UsageError("data.photos.path", self.path, hint) from error
        if isinstance(found.features.get(self.image), datasets.Image):
            found = found.cast_column(self.image, datasets.Image(decode=False))
        return found

    def _pixels(self, image: Any, place: int) -> Pixels:
        if isinstance(image, Mapping) and {"bytes", "path"} <= {*image}:
            found = image["bytes"]
            return bytes(found) if found is not None else Path(image["path"]).read_bytes()
        return super()._pixels(image, place)


@final
class LitdataPhotos(_Rows):
    """A set that ``litdata.optimize`` wrote: dicts of an image (JPEG, PIL, array, bytes) and a caption.

    What was pickled is refused: reading that runs code.

    Args:
        path: the folder.
        options: see `IterablePhotos`; ``image``, ``caption`` (keys), ``limit`` (of samples) and ``version``.
    """

    def _opened(self) -> Any:
        litdata = _library("litdata")
        try:
            config = read_json(Path(self.path) / "index.json", longest=1 << 30)["config"]
            formats = [str(one) for one in config["data_format"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError("data.photos.path", self.path, "holds no set that litdata.optimize wrote") from None
        if any("pickle" in one for one in formats):
            hint = f"holds pickled values ({', '.join(formats)}), which run code: write images and texts"
            raise UsageError("data.photos.path", self.path, hint)
        return litdata.StreamingDataset(self.path, shuffle=False)


@final
class WebDatasetPhotos(IterablePhotos):
    """Tars of WebDataset: images (``.jpg``, ``.png``, ``.webp``) and beside each its caption.

    Args:
        tars: their paths; ``{000..099}`` stands for numbers.
        caption: ending of the file of the caption; ``json:NAME`` is a value in a JSON file; null for none.
        limit: take only so many samples of each tar, the first ones.
        version: change it when the set changes.
        options: see `IterablePhotos`.
    """

    def __init__(
        self,
        tars: str | list[str],
        *,
        caption: str | None = "txt",
        limit: int | None = None,
        version: str = "1",
        val_fraction: float = 1 / 6,
        cache: str | None = None,
    ) -> None:
        said = json.dumps(["WebDatasetPhotos", tars, caption, limit, version])
        super().__init__(said, val_fraction=val_fraction, cache=cache)
        self.caption, self.limit = caption, limit
        self._given = [tars] if isinstance(tars, str) else tars

    def _tars(self) -> list[str]:
        expand = _library("braceexpand").braceexpand
        found = [path for one in self._given for path in expand(one)]
        # The library would take a name such as "pipe:rm x" for a command: it only sees open files.
        missing = [path for path in found if not Path(path).is_file()]
        if missing or not found:
            raise UsageError("data.photos.tars", missing[0] if missing else self._given, "there is no such file")
        return found

    def parts(self, size: int) -> int:
        """Return the number of tars: each is read from its beginning."""
        return len(self._tars())

    def part(self, number: int, size: int) -> Iterator[tuple[Pixels, str]]:
        read = _library("webdataset.tariterators")
        path = self._tars()[number]
        try:
            with open(path, "rb") as stream:
                files = read.tar_file_expander([{"url": path, "stream": stream}])
                for sample in itertools.islice(read.group_by_keys(files), self.limit):
                    image = next((sample[kind] for kind in _IMAGES if kind in sample), None)
                    if image is None:
                        raise ValueError(f"{sample['__key__']} has no image ({', '.join(_IMAGES)})")
                    yield image, self._said(sample)
        except UsageError:
            raise
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            raise UsageError("data.photos.tars", path, " ".join(str(error).split())) from error

    def samples(self) -> Iterator[tuple[Pixels, str]]:
        for number in range(self.parts(1)):
            yield from self.part(number, 1)

    def _said(self, sample: Mapping[str, Any]) -> str:
        if self.caption is None:
            return ""
        ending, _, name = self.caption.partition(":")
        try:
            said: Any = parse_json(sample[ending])[name] if name else sample[ending].decode()
        except (ValueError, KeyError, TypeError):
            said = None
        if not isinstance(said, str):
            there = ", ".join(key for key in sample if not key.startswith("__"))
            hint = f"{sample['__key__']} has {there}: name the ending of the file of captions, or null"
            raise UsageError("data.photos.caption", self.caption, hint)
        return said.strip()
