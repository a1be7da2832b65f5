"""One huge image as a set of overlapping crops, as the paper trains on a single scroll (section 4, RQF).

Legend: Y, X pixels along the axes, 3 colours.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from nuwa_lightning.atomic import atomic_folder, write_json
from nuwa_lightning.data.folders import cache_folder, content_key, locked
from nuwa_lightning.data.photos import Photo, PhotoSource, Split
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError
from nuwa_lightning.data.windows import open_windows
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import fits, read_json

_VERSION: Final = "crops-4"


@dataclass(frozen=True)
class Crop:
    """A rectangle of the image in pixels, and which side it is on."""

    split: Split
    top: int
    left: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.split}-{self.top}-{self.left}.png"


@final
class GiantImage(PhotoSource):
    """Crops of one image, cut once, without holding the image where its format allows (`data.windows`).

    The end of the longer side is for validation; no crop reaches from one part into the other. To every other part of
    the program the crops are photos like any other.

    Args:
        path: the image: TIFF, PNG, JPEG, ...
        crop: side of the crops in pixels.
        overlap: by how much neighboring crops overlap at least, in pixels. With the side of a training crop here every
            crop that the image holds lies in some crop.
        val_share: share of the longer side that is for validation.
        caption: what is seen, for training with texts.
        max_pixels: limit on the pixels that are decoded at once; raise it for a huge PNG or JPEG that you trust.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense; the file is looked at in `prepare`.
    """

    def __init__(
        self,
        path: str,
        *,
        crop: int = 1024,
        overlap: int = 256,
        val_share: float = 1 / 8,
        caption: str = "",
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
    ) -> None:
        if crop < 16:
            raise UsageError("data.photos.crop", crop, "give pixels, 16 or more")
        if not 0 <= overlap < crop:
            raise UsageError("data.photos.overlap", overlap, f"give pixels, from 0 to below crop={crop}")
        if not 0 <= val_share < 1:
            raise UsageError("data.photos.val_share", val_share, "give a share in [0, 1)")
        self.path = Path(path).expanduser()
        self.crop, self.overlap, self.val_share = crop, overlap, val_share
        self.caption, self.max_pixels = caption, max_pixels
        self.folder = cache_folder(cache) / _VERSION
        self._index: dict[str, object] = {}

    def prepare(self) -> None:
        """Cut the crops, or find those that were cut before."""
        if self._index:
            return
        try:
            said = [content_key(self.path), self.crop, self.overlap, self.val_share]
        except OSError as error:
            raise UsageError("data.photos.path", self.path, f"{error.strerror}: give the file of an image") from None
        place = self.folder / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]
        if self._indexed(place) is None:
            with locked(self.folder):
                if self._indexed(place) is None:
                    self._cut(place)
        self._index = {"size": self._indexed(place), "folder": str(place)}

    def _indexed(self, place: Path) -> list[int] | None:
        """Return height and width of the image whose crops lie in ``place``, all; None if they are to be cut."""
        try:
            size = read_json(place / "index.json")["size"]
            covered = len(list(place.iterdir())) * self.crop**2  # at most: of a larger image crops are missing
            if not fits(size, tuple[int, int]) or min(size) < 1 or size[0] * size[1] > covered:
                return None
            height, width = size
            whole = all((place / crop.name).is_file() for crop in self.crops(height, width))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return [height, width] if whole else None

    def photos(self, split: Split) -> list[Photo]:
        """Return the crops of ``split``, row by row."""
        self.prepare()
        height, width = self._size()
        crops = [crop for crop in self.crops(height, width) if crop.split == split]
        folder = Path(str(self._index["folder"]))
        return [Photo(folder / crop.name, crop.name, self.caption, crop.name) for crop in crops]

    def option(self, split: Split) -> tuple[str, str]:
        return "data.photos.path", str(self.path)

    def record(self) -> dict[str, object]:
        """Return which image it was, and how many crops of it were used."""
        height, width = self._size()
        crops = self.crops(height, width)
        return {
            "source": "one image",
            "path": str(self.path),
            "size": [height, width],
            **{split: sum(crop.split == split for crop in crops) for split in ("train", "val")},
        }

    def crops(self, height: int, width: int) -> list[Crop]:
        """Return the crops of an image of that size, row by row; none crosses the border of the two parts."""
        long = max(height, width)
        border = long - round(long * self.val_share)
        found: list[Crop] = []
        parts: tuple[tuple[Split, int, int], ...] = (("train", 0, border), ("val", border, long))
        for split, first, end in parts:
            rows, columns = ((0, height), (first, end)) if width >= height else ((first, end), (0, width))
            tall, wide = min(self.crop, rows[1] - rows[0]), min(self.crop, columns[1] - columns[0])
            if min(tall, wide) > 0:
                found += [
                    Crop(split, rows[0] + top, columns[0] + left, tall, wide)
                    for top in _starts(rows[1] - rows[0], tall, self.overlap)
                    for left in _starts(columns[1] - columns[0], wide, self.overlap)
                ]
        return found

    def _size(self) -> tuple[int, int]:
        self.prepare()
        size = self._index["size"]
        assert isinstance(size, list)
        return int(size[0]), int(size[1])

    def _cut(self, place: Path) -> None:
        from PIL import Image
        from tqdm.auto import tqdm

        try:
            with open_windows(self.path, max_pixels=self.max_pixels) as image:
                height, width = image.size
                with atomic_folder(place, overwrite=True) as partial:
                    bar = tqdm(self.crops(height, width), desc="cutting crops", unit="crop", disable=None)
                    for crop in bar:
                        pixels_YX3 = image.read(crop.top, crop.left, crop.height, crop.width)
                        Image.fromarray(pixels_YX3).save(partial / crop.name, compress_level=1)
                    write_json(partial / "index.json", {"size": [height, width], "path": str(self.path)})
        except ImageReadError as error:
            raise UsageError("data.photos.path", self.path, f"{error.reason}: {error.hint}") from error


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where pieces of ``size`` begin that cover ``length``, evenly, and overlap by ``overlap`` or more."""
    if size >= length:
        return [0]
    step = max(1, size - overlap)
    count = -(-(length - size) // step)
    return [round(n * (length - size) / count) for n in range(count + 1)]
