"""Real pictures at the scale of the generated ones: squares cut from photographs, the same ones every time (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.data.reading import list_images, read_image
from nuwa_lightning.errors import UsageError


def crops(
    photos: Sequence[Path], *, count: int, side: int = 256, short_sides: Sequence[int] = (288, 352), seed: int = 0
) -> NDArray[np.uint8]:
    """Return random squares of photographs, uint8 RGB (count, side, side, 3).

    The photographs take turns, so each gives as many squares as any other, give or take one; so do the scales.

    Args:
        photos: the files.
        count: number of squares.
        side: side of a square in pixels.
        short_sides: scales, as the length that the shorter side of a photograph is brought to (Lanczos).
        seed: of the places.

    Raises:
        UsageError: if a file cannot be read, or a scale is smaller than a square.
    """
    if min(short_sides) < side:
        raise UsageError("--short-side", min(short_sides), f"is smaller than the squares of {side} pixels: raise it")
    rng = np.random.default_rng(seed)
    out = np.empty((count, side, side, 3), np.uint8)
    for which, photo in enumerate(photos):
        mine = range(which, count, len(photos))
        if not mine:
            continue
        image = read_image(photo, min_side=max(short_sides))
        for turn, place in enumerate(mine):
            short = short_sides[(which + turn) % len(short_sides)]
            out[place] = _square(image, side, short, rng)
    return out


def write_crops(
    folder: Path, output: Path, *, count: int, side: int = 256, short_sides: Sequence[int] = (288, 352), seed: int = 0
) -> int:
    """Cut squares from every picture below ``folder`` and write them as PNG; return their number.

    Raises:
        UsageError: if the folder is missing or holds no picture, ``output`` is there already, or as :func:`crops`.
    """
    if not folder.is_dir():
        raise UsageError("--photos", str(folder), "is not a folder: give one with photographs")
    photos = list_images(folder)
    if not photos:
        raise UsageError("--photos", str(folder), "holds no picture: give a folder with PNG or JPEG files")
    if not output.parent.is_dir():
        raise UsageError("--output", str(output), f"the folder {output.parent} does not exist: make it first")
    try:
        with atomic_folder(output) as partial:
            squares = crops(photos, count=count, side=side, short_sides=short_sides, seed=seed)
            for i, square in enumerate(squares):
                Image.fromarray(square).save(partial / f"{i:05d}.png")
    except FileExistsError as error:
        raise UsageError("--output", str(output), "exists already: give another name") from error
    return count


def _square(image: Image.Image, side: int, short: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    scale = short / min(image.size)
    width, height = (max(short, round(length * scale)) for length in image.size)
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    # Only the square is resampled: the same pixels as resizing the whole photograph, at a fraction of the time.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box=box), dtype=np.uint8)
