"""Folders of images as streams of crops, with errors that name the file and what to do (ours).

Which crops is settled before any image is decoded, from sizes and contents alone, so that nothing depends on names,
on the order of work, or on what a cache holds.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.crop_spec import CropSpec
from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.data.folders import list_files, said_of
from nuwa_lightning.data.reading import MAX_PIXELS, SUFFIXES, ImageReadError, NotesLog, image_size, read_image
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

_LOG = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""uint8 RGB, ``(rows, columns, 3)``."""


@dataclass(frozen=True)
class Cut:
    """A rectangle of an image brought to ``size`` (rows, columns); corner and extent in pixels of that size."""

    size: tuple[int, int]
    top: int
    left: int
    rows: int
    columns: int


class ImageSet:
    """The crops of a folder that a protocol asks for, read again at each pass and never held together.

    Args:
        where: a folder (sub-folders included), or the files.
        spec: which crops.
        option: the option to name in an error.
        skip_corrupt: leave out files that cannot be read, and count them in ``skipped``.
        label: what to call it in a report; by default the folder's name.
        max_pixels: refuse an image of more, before it is decoded.

    Raises:
        UsageError: if the folder is missing or holds no image, sizes are mixed, or there are too few crops; if a
            file cannot be read.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | Sequence[Path],
        spec: CropSpec | None = None,
        *,
        option: str = "folder",
        skip_corrupt: bool = False,
        label: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.spec, self.option, self.skip_corrupt = spec or CropSpec(), option, skip_corrupt
        self.skipped: dict[Path, ImageReadError] = {}
        self._max_pixels = max_pixels
        self._tell = NotesLog()
        self._sizes: set[tuple[int, int]] = set()
        if isinstance(where, (str, os.PathLike)):
            self.folder: Path | None = Path(where)
            self.files = image_files(self.folder, option=option)
            self.label = label or self.folder.resolve().name
        else:
            self.folder, self.files, self.label = None, list(where), label or "files"
        # Names move no number: files are in the order of their content.
        digests = {path: file_sha256(path) for path in self.files}
        self.files.sort(key=lambda path: (digests[path], str(path)))
        self._hashes = [digests[path] for path in self.files]
        self._plan: list[tuple[Path, list[Cut]]] | None = None

    @property
    def where(self) -> str:
        """What to show in an error."""
        return str(self.folder) if self.folder is not None else self.label

    def __len__(self) -> int:
        """Return the number of crops, those of skipped files not counted."""
        return sum(len(cuts) for path, cuts in self.plan if path not in self.skipped)

    def sizes(self) -> str:
        """Return the size of the files in pixels, ``512x256``, or the smallest and the largest of them by area."""
        _ = self.plan
        return said_of_sizes(self._sizes)

    @property
    def plan(self) -> list[tuple[Path, list[Cut]]]:
        """The files that are read, and what is cut of each."""
        if self._plan is None:
            self._plan = self._make_plan()
        return self._plan

    def looks(self, *, every: bool = False) -> Iterator[tuple[Path, Pixels, list[Pixels], list[Pixels]]]:
        """Yield of each file, which is decoded once, its path, the whole image, its crops, and its canvases.

        Seams and collapse are looked for in canvases: whole images at their scales, or the crops. With ``every``, files
        without crops come, too.

        Raises:
            UsageError: if a file cannot be read.
        """
        for path, image, cuts in self._read(every=every):
            whole = np.asarray(image, np.uint8)
            crops = [cut_out(image, cut, self.spec, whole) for cut in cuts]
            yield (
                path,
                whole,
                crops,
                crops
                if self.spec.crop != "windows"
                else [cut_out(image, Cut(size, 0, 0, *size), self.spec, whole) for size in _canvas_sizes(cuts)],
            )

    def crops(self) -> Iterator[Pixels]:
        """Yield the crops, all of one size; errors as :meth:`looks`."""
        for _, image, cuts in self._read():
            whole = np.asarray(image, np.uint8)
            yield from (cut_out(image, cut, self.spec, whole) for cut in cuts)

    def canvases(self) -> Iterator[Pixels]:
        """Yield the canvases of :meth:`looks`."""
        for *_, canvases in self.looks():
            yield from canvases

    def some(self, numbers: NDArray[np.intp]) -> list[Pixels]:
        """Return crops by their numbers, in that order; only their files are read."""
        wanted, first = set(numbers.tolist()), 0
        held: dict[int, Pixels] = {}
        plan, self._plan = self.plan, []
        try:
            for path, cuts in plan:
                if path in self.skipped:
                    continue
                chosen = [i for i in range(len(cuts)) if first + i in wanted]
                self._plan = [(path, [cuts[i] for i in chosen])]
                held |= {first + i: crop for i, crop in zip(chosen, self.crops(), strict=True)}
                first += len(cuts)
        finally:
            self._plan = plan
        return [held[int(i)] for i in numbers]

    def canvas_sizes(self) -> list[tuple[int, int]]:
        """Return (rows, columns) of each canvas, before any is decoded."""
        if self.spec.crop == "windows":
            return [size for _, cuts in self.plan for size in _canvas_sizes(cuts)]
        return [(cut.rows, cut.columns) for _, cuts in self.plan for cut in cuts]

    def canvas_files(self) -> NDArray[np.intp]:
        """Return the number of the file that each of :meth:`canvases` comes from."""
        if self.spec.crop != "windows":
            return self.clusters()
        counts = [len(_canvas_sizes(cuts)) for _, cuts in self._used()]
        return np.repeat(np.arange(len(counts)), counts)

    def clusters(self) -> NDArray[np.intp]:
        """Return the number of the file that each crop comes from: crops of one canvas are not independent."""
        counts = [len(cuts) for _, cuts in self._used()]
        return np.repeat(np.arange(len(counts)), counts)

    def used_files(self) -> list[Path]:
        """Return the files that crops come from, by their number in :meth:`clusters`."""
        return [path for path, _ in self._used()]

    def formats(self) -> dict[str, int]:
        """Return how many files are of which format, by what they begin with."""
        return dict(sorted(Counter(map(format_of, self.files)).items()))

    def _used(self) -> list[tuple[Path, list[Cut]]]:
        return [(path, cuts) for path, cuts in self.plan if cuts and path not in self.skipped]

    def hashes(self) -> list[str]:
        """Return the hash of each file's content, in the order of ``files``."""
        return self._hashes

    def sha256(self) -> str:
        """Return the hash of all contents but those of skipped files; names and order do not count."""
        used = [digest for path, digest in zip(self.files, self._hashes, strict=True) if path not in self.skipped]
        return hashlib.sha256("".join(sorted(used)).encode()).hexdigest()

    def _read(self, *, every: bool = False) -> Iterator[tuple[Path, Image.Image, list[Cut]]]:
        for path, cuts in self.plan:
            if not (cuts or every) or path in self.skipped:
                continue
            try:
                image = self._tell(path, read_image(path, max_pixels=self._max_pixels))
            except ImageReadError as error:
                self._skip(path, error)
                continue
            yield path, image, cuts

    def _skip(self, path: Path, error: ImageReadError) -> None:
        if not self.skip_corrupt:
            way = "give a larger `max_pixels` if you trust it" if error.over_limit else "replace or remove it"
            hint = f"{error.reason}: {way}, or give `skip_corrupt`"
            raise UsageError(self.option, str(path), hint) from error
        self.skipped[path] = error

    def _make_plan(self) -> list[tuple[Path, list[Cut]]]:
        sizes = []
        for path in self.files:
            try:
                sizes.append((path, image_size(path, max_pixels=self._max_pixels)))
            except ImageReadError as error:
                self._skip(path, error)
        if not sizes:
            raise UsageError(self.option, self.where, "holds no image that can be read: give another folder")
        self._sizes = {size for _, size in sizes}
        if self.spec.crop == "random":
            return self._random(sizes)
        found = [(path, self._cuts(size)) for path, size in sizes]
        if self.spec.crop == "whole":
            self._check_equal([(path, cut) for path, cuts in found for cut in cuts])
        total = sum(len(cuts) for _, cuts in found)
        if not total:
            hint = f"no image is {self.spec.side} pixels wide and high: make larger ones, or change the protocol"
            raise UsageError(self.option, self.where, hint)
        return self._choose(found, total)

    def _scaled(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        if not self.spec.short_sides:
            return [size]
        return [scaled(size, short) for short in self.spec.short_sides]

    def _cuts(self, size: tuple[int, int]) -> list[Cut]:
        found = []
        side = self.spec.side
        for rows, columns in self._scaled(size):
            if self.spec.crop == "whole":
                found.append(Cut((rows, columns), 0, 0, rows, columns))
                continue
            assert side is not None
            if self.spec.crop == "center":
                if min(rows, columns) >= side:
                    found.append(Cut((rows, columns), (rows - side) // 2, (columns - side) // 2, side, side))
                continue
            found += [
                Cut((rows, columns), y, x, side, side)
                for y in range(0, rows - side + 1, side)
                for x in range(0, columns - side + 1, side)
            ]
        return found

    def _random(self, sizes: list[tuple[Path, tuple[int, int]]]) -> list[tuple[Path, list[Cut]]]:
        """Let images and scales take turns; where a crop lies depends on the image's content alone."""
        side, count = self.spec.side, self.spec.count
        assert side is not None
        assert count is not None
        digest = dict(zip(self.files, self.hashes(), strict=True))
        plan = []
        for which, (path, size) in enumerate(sizes):
            rng = np.random.default_rng([self.spec.seed, int(digest[path][:15], 16)])
            scales = self._scaled(size)
            cuts = []
            for turn in range(len(range(which, count, len(sizes)))):
                rows, columns = scales[(which + turn) % len(scales)]
                if min(rows, columns) < side:
                    hint = f"is {size[1]}x{size[0]}, smaller than the crops of {side} pixels: remove it"
                    raise UsageError(self.option, str(path), hint)
                top, left = int(rng.integers(rows - side + 1)), int(rng.integers(columns - side + 1))
                cuts.append(Cut((rows, columns), top, left, side, side))
            plan.append((path, cuts))
        return plan

    def _choose(self, found: list[tuple[Path, list[Cut]]], total: int) -> list[tuple[Path, list[Cut]]]:
        count = self.spec.count
        if count is None or count == total:
            return found
        if count > total:
            hint = f"holds {total} crops, the protocol asks for {count}: add some, or change the protocol"
            raise UsageError(self.option, self.where, hint)
        kept = set(np.random.default_rng(self.spec.seed).choice(total, count, replace=False).tolist())
        chosen, place = [], 0
        for path, cuts in found:
            chosen.append((path, [cut for i, cut in enumerate(cuts) if place + i in kept]))
            place += len(cuts)
        return chosen

    def _check_equal(self, cuts: list[tuple[Path, Cut]]) -> None:
        cuts = sorted(cuts, key=lambda each: each[0])
        (first, (rows, columns)) = cuts[0][0], cuts[0][1].size
        for path, cut in cuts:
            if cut.size != (rows, columns):
                sizes = f"{first.name} is {columns}x{rows} but {path.name} is {cut.columns}x{cut.rows}"
                name = "real" if self.option == "real" else "generated"
                cut_them = f"cut them: `set` {name}.crop=center `set` {name}.side=N"
                hint = f"mixed sizes ({sizes}): give images of one size, or {cut_them}"
                raise UsageError(self.option, self.where, hint)
        side = self.spec.side
        if side is not None and (rows, columns) != (side, side):
            hint = f"{first.name} is {columns}x{rows}, the protocol asks for {side}x{side}: change either"
            raise UsageError(self.option, self.where, hint)


def image_files(folder: Path, *, option: str) -> list[Path]:
    """Return every image below a folder, sorted by path."""
    if not folder.is_dir():
        raise UsageError(option, str(folder), "is not a folder: give one with images")
    found = list_files(folder, SUFFIXES)
    if not found.files:
        beside = f" ({said_of(found.left_out)})" if found.left_out else ""
        raise UsageError(option, str(folder), f"holds no image{beside}: give a folder with PNG or JPEG files")
    if found.left_out:
        _LOG.warning("%s: files that are no image: %s", folder, said_of(found.left_out))
    return found.files


def format_of(path: Path) -> str:
    """Return the format of an image or video by what it begins with, or its suffix."""
    with path.open("rb") as file:
        head = file.read(12)
    known = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"\x1a\x45\xdf\xa3": "Matroska"}
    inside = {b"WEBP": "WebP", b"AVI ": "AVI"}.get(head[8:], "MP4" if head[4:8] == b"ftyp" else path.suffix[1:].upper())
    return next((name for magic, name in known.items() if head.startswith(magic)), inside)


def said_of_sizes(sizes: Set[tuple[int, int]]) -> str:
    """Return the size (rows, columns) of images as ``512x256``, or the smallest and the largest of them by area."""
    ends = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return " to ".join(dict.fromkeys(f"{columns}x{rows}" for rows, columns in (ends[0], ends[-1])))


def _canvas_sizes(cuts: Sequence[Cut]) -> list[tuple[int, int]]:
    """Return the sizes that an image is brought to."""
    return list(dict.fromkeys(cut.size for cut in cuts))


def pixel_sha256(pixels_YX3: Pixels) -> str:
    """Return the hash of an image's size and pixels."""
    digest = hashlib.sha256(repr(pixels_YX3.shape).encode())
    digest.update(np.ascontiguousarray(pixels_YX3).tobytes())
    return digest.hexdigest()


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return the size (rows, columns) of an image whose shorter side is brought to ``short``."""
    scale = short / min(size)
    rows, columns = (max(short, round(length * scale)) for length in size)
    return rows, columns


def cut_out(image: Image.Image, cut: Cut, spec: CropSpec, whole_YX3: Pixels | None = None) -> Pixels:
    """Return the pixels of a cut: as if the whole image were brought to its size first, in less time.

    Args:
        image: the image.
        cut: what to cut.
        spec: its filter.
        whole_YX3: the image's pixels, where they are at hand.
    """
    if image.size == (cut.size[1], cut.size[0]):
        whole_YX3 = np.asarray(image, np.uint8) if whole_YX3 is None else whole_YX3
        return whole_YX3[cut.top : cut.top + cut.rows, cut.left : cut.left + cut.columns]
    down, across = image.height / cut.size[0], image.width / cut.size[1]
    box = (cut.left * across, cut.top * down, (cut.left + cut.columns) * across, (cut.top + cut.rows) * down)
    resample = Image.Resampling[spec.filter.upper()]
    return np.asarray(image.resize((cut.columns, cut.rows), resample, box=box), np.uint8)


def windows(pixels_YX3: Pixels, side: int) -> Iterator[Pixels]:
    """Yield the crops of ``side`` pixels that fit beside each other, from the upper left corner, row by row."""
    height, width = pixels_YX3.shape[:2]
    for y in range(0, height - side + 1, side):
        for x in range(0, width - side + 1, side):
            yield pixels_YX3[y : y + side, x : x + side]


def write_crops(images: ImageSet, output: Path) -> int:
    """Write the crops of a set as PNG files into a new folder; return their number."""
    if not output.parent.is_dir():
        raise UsageError("output", str(output), f"the folder {output.parent} does not exist: make it first")
    made = 0
    try:
        with atomic_folder(output) as partial:
            for crop in images.crops():
                Image.fromarray(crop).save(partial / f"{made:05d}.png")
                made += 1
    except FileExistsError as error:
        raise UsageError("output", str(output), "exists already: give another name") from error
    return made
