"""Folders of pictures as streams of equal uint8 arrays, with errors that name the file and the cure (ours)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.data.reading import list_images, read_image
from nuwa_lightning.errors import UsageError

Pixels = NDArray[np.uint8]
"""uint8 RGB, ``(rows, columns, 3)``."""


class PictureFolder:
    """Every picture below a folder, in the order of their paths.

    With ``window`` each picture is cut into the squares of that side that fit beside each other from its upper left
    corner, and the pictures may differ in size; without it they must all have one size.

    Args:
        folder: the folder.
        window: side of the squares in pixels, or None for whole pictures.
        option: the option to name in an error.

    Raises:
        UsageError: if the folder is missing or holds no picture.
    """

    def __init__(self, folder: str | os.PathLike[str], *, window: int | None = None, option: str = "folder") -> None:
        self.folder = Path(folder)
        self.window = window
        self.option = option
        if not self.folder.is_dir():
            raise UsageError(option, str(self.folder), "is not a folder: give one with pictures")
        self.paths = list_images(self.folder)
        if not self.paths:
            raise UsageError(option, str(self.folder), "holds no picture: give a folder with PNG or JPEG files")

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def whole(self) -> Iterator[tuple[Path, Pixels]]:
        """Yield each file and its pixels, whole, whatever their size.

        Raises:
            UsageError: if a file cannot be read; it is named.
        """
        for path in self.paths:
            yield path, np.asarray(read_image(path), dtype=np.uint8)

    def __iter__(self) -> Iterator[Pixels]:
        """Yield the pictures, or their squares, all of one size.

        Raises:
            UsageError: if a file cannot be read, sizes are mixed, or no square of ``window`` fits.
        """
        if self.window is None:
            yield from self._equal()
            return
        found = False
        for _, pixels_YX3 in self.whole():
            for square in windows(pixels_YX3, self.window):
                found = True
                yield square
        if not found:
            cure = f"no picture is {self.window} pixels wide and high: give a smaller --window"
            raise UsageError(self.option, str(self.folder), cure)

    def _equal(self) -> Iterator[Pixels]:
        first: tuple[Path, tuple[int, ...]] | None = None
        for path, pixels_YX3 in self.whole():
            first = first or (path, pixels_YX3.shape)
            if pixels_YX3.shape != first[1]:
                sizes = f"{first[0].name} is {_size(first[1])} but {path.name} is {_size(pixels_YX3.shape)}"
                cure = f"mixed sizes ({sizes}): give pictures of one size, or cut squares with --window"
                raise UsageError(self.option, str(self.folder), cure)
            yield pixels_YX3

    def sha256(self) -> str:
        """Return the hash of the files' contents; names and order do not count."""
        hashes = sorted(_file_sha256(path) for path in self.paths)
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def windows(pixels_YX3: Pixels, side: int) -> Iterator[Pixels]:
    """Yield the squares of ``side`` pixels that fit beside each other, from the upper left corner, row by row."""
    height, width = pixels_YX3.shape[:2]
    for y in range(0, height - side + 1, side):
        for x in range(0, width - side + 1, side):
            yield pixels_YX3[y : y + side, x : x + side]


def batched(
    pictures: Iterator[Pixels], size: int, *, tick: Callable[[int], object] = lambda n: None
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 ``(B, Y, X, 3)`` of at most ``size`` pictures; ``tick`` is told how many after each batch."""
    batch: list[Pixels] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield np.stack(batch)
            tick(len(batch))
            batch = []
    if batch:
        yield np.stack(batch)
        tick(len(batch))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
