"""Photos shrunk once to the sizes that training crops from, kept on disk as plain 8-bit arrays.

Decoding a 16-megapixel JPEG takes a fifth of a second, a crop from a mapped array some microseconds. Arrays are named
by the content of the photo and the size, so that a second run, or another recipe, finds them at once. A set too large
for that (``limit_bytes``) is decoded at every access instead.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nuwa_lightning.atomic import atomic_write, make_cache
from nuwa_lightning.data.folders import content_keys
from nuwa_lightning.data.photos import Photo
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, NotesLog, image_size, notes_of, read_image
from nuwa_lightning.data.sources import Prepared, Skipped
from nuwa_lightning.errors import UsageError, some_of
from nuwa_lightning.plain_data import mapped_array

# Legend: Y, X pixels along the axes; 3 colours.

LIMIT_BYTES: Final = 16 << 30
"""Default limit on the arrays kept on disk."""

_VERSION: Final = "prepared-4"
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Shrunk:
    """One photo with the (height, width) of each of its sizes, and the files, where kept on disk."""

    sample: Photo
    shapes: tuple[tuple[int, int], ...]
    files: tuple[Path, ...] = ()


@final
@dataclass(frozen=True)
class PreparedPhotos(Prepared[_Shrunk]):
    """Photos at several sizes.

    Attributes:
        largest_side: the largest shorter side among all photos that have a readable header, in pixels.
        max_pixels: see `read_image`.
        tell: what says which tones were changed, where nothing is kept.
    """

    largest_side: int
    max_pixels: int = field(default=MAX_PIXELS)
    tell: NotesLog = field(default_factory=NotesLog, compare=False, repr=False)

    def photo(self, index: int) -> Photo:
        """Return the photo of this index."""
        return self.entries[index].sample

    def shapes(self, index: int) -> tuple[tuple[int, int], ...]:
        """Return (height, width) of every size of a photo, smallest first."""
        return self.entries[index].shapes

    def array(self, index: int, size: int) -> npt.NDArray[np.uint8]:
        """Return photo ``index`` at its ``size``-th size, as (Y, X, 3); mapped from disk where it is kept there."""
        entry = self.entries[index]
        if entry.files:
            mapped: npt.NDArray[np.uint8] = np.load(entry.files[size], mmap_mode="r", allow_pickle=False)
            return mapped
        image = decode_for(entry.sample.path, min(entry.shapes[size]), self.max_pixels)
        return shrunk(self.tell(entry.sample.path, image), entry.shapes[size])


def sizes_for(shape: tuple[int, int], short_sides: Sequence[int], crop: int) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) that a photo of ``shape`` is shrunk to, smallest first; empty if it is too small.

    A photo is never enlarged: a shorter side above its own becomes its own. None falls below ``crop``.
    """
    own = min(shape)
    sides = sorted({side for side in (min(side, own) for side in short_sides) if side >= crop})
    return tuple((max(crop, round(shape[0] * side / own)), max(crop, round(shape[1] * side / own))) for side in sides)


def prepare_photos(
    photos: Sequence[Photo],
    short_sides: Sequence[int],
    *,
    crop: int,
    cache: Path,
    max_pixels: int = MAX_PIXELS,
    limit_bytes: int = LIMIT_BYTES,
    progress: bool = True,
) -> PreparedPhotos:
    """Shrink ``photos`` to ``short_sides`` (pixels of the shorter side), in threads, with a progress bar.

    Files that cannot be read are named, counted and skipped; photos below ``crop`` pixels are left out. With more than
    ``limit_bytes`` of arrays nothing is kept and every access decodes.
    """
    usable: list[_Shrunk] = []
    skipped: list[Skipped] = []
    too_small: list[Photo] = []
    largest = 0
    headers = _in_threads(photos, lambda photo: image_size(photo.path, max_pixels=max_pixels), desc="", progress=False)
    for photo, found in zip(photos, headers, strict=True):
        if isinstance(found, ImageReadError):
            skipped.append(_skip(photo, found))
            continue
        largest = max(largest, min(found))
        shapes = sizes_for(found, short_sides, crop)
        if shapes:
            usable.append(_Shrunk(photo, shapes))
        else:
            too_small.append(photo)
    if too_small:
        _LOG.warning("%d photo(s) below %d px left out, the first is %s", len(too_small), crop, too_small[0].path)
    if 3 * sum(height * width for entry in usable for height, width in entry.shapes) <= limit_bytes:
        usable = _keep(usable, cache / _VERSION, max_pixels, progress, skipped)
    if skipped:
        _LOG.warning("%d of %d photos cannot be read", len(skipped), len(photos))
    return PreparedPhotos(tuple(usable), tuple(skipped), {"too_small": tuple(too_small)}, largest, max_pixels)


def _keep(
    entries: list[_Shrunk], folder: Path, max_pixels: int, progress: bool, skipped: list[Skipped]
) -> list[_Shrunk]:
    make_cache(folder)
    kept: list[_Shrunk] = []
    todo: list[_Shrunk] = []
    keys = content_keys([entry.sample.path for entry in entries], cache=folder.parent)
    for entry, key in zip(entries, keys, strict=True):
        if isinstance(key, OSError):
            skipped.append(_skip(entry.sample, ImageReadError(entry.sample.path, key.strerror or str(key))))
            continue
        files = tuple(folder / f"{key}-{height}x{width}.npy" for height, width in entry.shapes)
        kept.append(_Shrunk(entry.sample, entry.shapes, files))
        if not all(_is_array(file, shape) for file, shape in zip(files, entry.shapes, strict=True)):
            todo.append(kept[-1])
    failed: set[int] = set()
    notes: dict[Path, tuple[str, ...]] = {}
    if todo:
        results = _in_threads(todo, lambda entry: _write(entry, max_pixels), desc="shrinking photos", progress=progress)
        for entry, result in zip(todo, results, strict=True):
            if isinstance(result, ImageReadError):
                skipped.append(_skip(entry.sample, result))
                failed.add(id(entry))
            else:
                notes[entry.sample.path] = result
    _tell_notes(notes)
    return [entry for entry in kept if id(entry) not in failed]


def _is_array(file: Path, shape: tuple[int, int]) -> bool:
    """Say whether the file holds pixels of that shape, whole; otherwise it is made anew."""
    found = mapped_array(file)
    return found is not None and found.shape == (*shape, 3) and found.dtype == np.uint8


def _write(entry: _Shrunk, max_pixels: int) -> tuple[str, ...]:
    image = decode_for(entry.sample.path, max(min(shape) for shape in entry.shapes), max_pixels)
    for shape, file in zip(entry.shapes, entry.files, strict=True):
        if not _is_array(file, shape):
            with atomic_write(file) as partial:
                np.save(partial, shrunk(image, shape), allow_pickle=False)
    return notes_of(image)


def _tell_notes(images: dict[Path, tuple[str, ...]]) -> None:
    for note in dict.fromkeys(note for notes in images.values() for note in notes):
        paths = [str(path) for path, notes in images.items() if note in notes]
        _LOG.warning("%d image(s): %s: %s", len(paths), note, some_of(paths, count=3))


def decode_for(path: Path, side: int, max_pixels: int) -> Image.Image:
    """Return an image that is to be shrunk to a shorter side of ``side`` pixels at most."""
    # A JPEG is decoded at no less than twice the size wanted: its own scaling is a box filter, ours the better one.
    return read_image(path, max_pixels=max_pixels, min_side=2 * side)


def shrunk(image: Image.Image, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return an image as 8-bit pixels (Y, X, 3) of ``shape``."""
    size = (shape[1], shape[0])
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(image, dtype=np.uint8)


def as_pixels(array_YX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return 8-bit pixels (..., Y, X, 3) as a new float32 array (..., 3, Y, X) in [-1, 1]."""
    moved = np.ascontiguousarray(np.moveaxis(array_YX3, -1, -3))
    return moved.astype(np.float32) / np.float32(127.5) - np.float32(1)


def nothing_usable(option: str, value: str, found: PreparedPhotos, *, what: str) -> UsageError:
    """Return what to raise if no photo is left."""
    too_small = found.left_out["too_small"]
    if too_small and not found.skipped:
        hint = f"all {what} are too small, the largest has a shorter side of {found.largest_side} px: give larger ones"
        return UsageError(option, value, hint)
    first = f"the first is {found.skipped[0].path} ({found.skipped[0].reason})"
    if too_small:
        hint = (
            f"none of the {what} can be used: {len(too_small)} too small, the largest has a shorter side of"
            f" {found.largest_side} px; {len(found.skipped)} cannot be read, {first}: give larger or readable ones"
        )
        return UsageError(option, value, hint)
    return UsageError(
        option, value, f"none of the {len(found.skipped)} {what} can be read, {first}; give readable ones"
    )


def _skip(photo: Photo, error: ImageReadError) -> Skipped:
    reason = error.reason
    if error.over_limit:
        reason += f": {error.hint}"
    _LOG.warning("skipping %s: %s", photo.path, reason)
    return Skipped(photo.path, reason)


def _in_threads(
    items: Sequence[_T], work: Callable[[_T], _R], *, desc: str, progress: bool
) -> list[_R | ImageReadError]:
    """Return what ``work`` makes of each item, or why its image cannot be read."""
    from tqdm.auto import tqdm

    def tried(item: _T) -> _R | ImageReadError:
        try:
            return work(item)
        except ImageReadError as error:
            return error

    threads = max(1, min(8, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(tried, items)
        return list(tqdm(results, total=len(items), desc=desc, unit="photo", disable=None if progress else True))
