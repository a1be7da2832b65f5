"""``generate --image``: an image on a larger canvas, or with holes written anew."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nuwa_lightning.canvas.image_condition import Expansion, ImageCondition
    from nuwa_lightning.data.reading import ImageReadError
    from nuwa_lightning.tokenizers.base import Tokenizer

_LOG = logging.getLogger(__name__)

SIDES = ("left", "right", "up", "down")
BLEND = 16
WIDEST_BLEND = 1024
"""The most pixels of ``--blend``: every tile is decoded with as many around it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of outpainting."""
    group = parser.add_argument_group("a given image (tasks outpaint and animate)")
    group.add_argument(
        "--image", metavar="FILE", help="the image to go on from; its pixels stay as they are in a lossless file"
    )
    group.add_argument(
        "--expand", metavar="SIDES", help="pixels more on each side, such as left=512,right=512,up=0,down=256"
    )
    group.add_argument(
        "--mask", metavar="FILE", help="an image of the same size, white where the given one is to be written anew"
    )
    group.add_argument(
        "--blend",
        type=int,
        default=BLEND,
        metavar="PIXELS",
        help="how far beyond the border what is written takes on the given image's sharpness; given pixels never"
        " change; with --wrap, how far to both sides of the joint what differs across it fades out (default:"
        " %(default)s)",
    )
    group.add_argument(
        "--max_pixels",
        type=int,
        metavar="N",
        help="read an --image or --mask of at most so many pixels; raise it for a file that you trust (default: 200"
        " million)",
    )


def parse_expansion(text: str) -> Expansion:
    """Return what ``left=512,right=512,up=0,down=256``, in part or whole and in any order, says.

    Raises:
        UsageError: if it says something else.
    """
    from nuwa_lightning.canvas.image_condition import Expansion

    found: dict[str, int] = {}
    for part in text.split(","):
        pair = re.fullmatch(r"\s*(\w+)\s*=\s*(\d{1,9})\s*", part)
        if not pair or pair[1] not in SIDES or pair[1] in found:
            hint = f"write pixels for {', '.join(SIDES)}, each at most once, such as left=512,down=256"
            raise UsageError("--expand", text or "''", hint)
        found[pair[1]] = int(pair[2])
    return Expansion(**found)


def check_options(options: Any, task: str) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises:
        UsageError: naming the one that is missing or too much.
    """
    if not 0 <= options.blend <= WIDEST_BLEND:
        raise UsageError("--blend", options.blend, f"give a number of pixels from 0 to {WIDEST_BLEND}")
    if options.image is None:
        for name in ("expand", "mask"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name}", getattr(options, name), "there is no image: name one, --image FILE")
        return
    if options.size is not None:
        hint = "leave it out" if task == "animate" else "say how much larger, --expand"
        raise UsageError("--size", options.size, f"the size follows from the image: {hint}")
    if task == "outpaint" and options.expand is None and options.mask is None:
        hint = "nothing to expand: add --expand left=512,right=512 or --mask FILE, or --frames 40 to make it move"
        raise UsageError("--image", options.image, hint)
    if options.expand is not None:
        parse_expansion(options.expand)


def canvas_size(options: Any) -> tuple[int, int]:
    """Return width and height of what becomes of the image, by a look at the head of its file.

    Raises:
        UsageError: if it cannot be read, or ``--blend`` reaches further than the canvas.
    """
    from nuwa_lightning.data.reading import ImageReadError, image_size

    try:
        height, width = image_size(options.image, max_pixels=_max_pixels(options))
    except ImageReadError as error:
        raise _unreadable("--image", options.image, error) from None
    if options.expand is not None:
        more = parse_expansion(options.expand)
        height, width = height + more.up + more.down, width + more.left + more.right
    if options.blend > max(height, width, BLEND):
        hint = f"reaches further than the canvas of {width}x{height}: give {max(height, width)} or less"
        raise UsageError("--blend", options.blend, hint)
    return width, height


def given_image(options: Any, tokenizer: Tokenizer, patch_size: tuple[int, int]) -> ImageCondition:
    """Read the image that the options name, and lay it on its canvas.

    Raises:
        UsageError: if it or its mask cannot be read, does not fit, or leaves nothing to do.
    """
    from nuwa_lightning.canvas.image_condition import Expansion, ImageCondition

    image_YX3 = image(options, tokenizer, patch_size)
    holes_YX = None if options.mask is None else _holes(options, image_YX3)
    expansion = Expansion() if options.expand is None else parse_expansion(options.expand)
    if not any(getattr(expansion, side) for side in SIDES) and (holes_YX is None or not holes_YX.any()):
        option, value = ("--expand", options.expand) if options.mask is None else ("--mask", options.mask)
        raise UsageError(option, value, "nothing to expand: give a side some pixels, or a mask that is white somewhere")
    return ImageCondition(
        image_YX3,
        holes_YX=holes_YX,
        expansion=expansion,
        tokenizer=tokenizer,
        patch_size=patch_size,
        blend=options.blend,
    )


def _holes(options: Any, image_YX3: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the mask is white."""
    height, width = image_YX3.shape[:2]
    mask_YX3 = _read(options, "mask")
    if mask_YX3.shape != image_YX3.shape:
        hint = f"is {mask_YX3.shape[1]}x{mask_YX3.shape[0]}, the image {width}x{height}: make them the same size"
        raise UsageError("--mask", options.mask, hint)
    if _is_transparent(options, "mask"):  # a hole to some programs, and nothing at all to others
        hint = "has transparent areas, which are neither white nor black: save it without transparency"
        raise UsageError("--mask", options.mask, hint)
    holes_YX: NDArray[np.bool_] = mask_YX3.max(axis=2) >= 128
    if holes_YX.all():
        raise UsageError("--mask", options.mask, "is white all over, nothing is given: leave --image out")
    return holes_YX


def image(options: Any, tokenizer: Tokenizer, patch_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the pixels of the image that the options name.

    Raises:
        UsageError: if it cannot be read, or is smaller than a patch.
    """
    image_YX3 = _read(options, "image")
    height, width = image_YX3.shape[:2]
    rows, columns = (cells * tokenizer.downsample_factor for cells in patch_size)
    if height < rows or width < columns:
        hint = f"is {width}x{height}, smaller than one patch of {columns}x{rows} pixels: enlarge it"
        raise UsageError("--image", options.image, hint)
    return image_YX3


def notes(options: Any) -> list[str]:
    """Return what the user should know of how the pixels of the image are kept.

    Raises:
        UsageError: if it cannot be read.
    """
    from nuwa_lightning.writers import IMAGE_WRITERS

    told = []
    if _is_transparent(options, "image"):
        told.append(f"note: {options.image} is transparent in places: these are taken as white")
    writer = IMAGE_WRITERS.get(Path(options.output).suffix.lower())
    if writer is not None and not writer.lossless:
        told.append(f"note: {writer.format_name} keeps given pixels only nearly as they are: .png or .tif do exactly")
    return told


def _read(options: Any, name: str) -> NDArray[np.uint8]:
    from nuwa_lightning.data.reading import ImageReadError, notes_of, read_image

    path = getattr(options, name)
    try:
        image = read_image(path, max_pixels=_max_pixels(options))
        for note in notes_of(image):
            _LOG.warning("--%s: %s: %s", name, path, note)
        return np.asarray(image)
    except ImageReadError as error:
        raise _unreadable(f"--{name}", path, error) from None


def _is_transparent(options: Any, name: str) -> bool:
    from nuwa_lightning.data.reading import ImageReadError, is_transparent

    path = getattr(options, name)
    try:
        return is_transparent(path)
    except ImageReadError as error:
        raise _unreadable(f"--{name}", path, error) from None


def _max_pixels(options: Any) -> int:
    from nuwa_lightning.data.reading import MAX_PIXELS

    return MAX_PIXELS if options.max_pixels is None else int(options.max_pixels)


def _unreadable(option: str, path: str, error: ImageReadError) -> UsageError:
    too_large = "max_pixels" in error.reason
    hint = "raise --max_pixels if you trust the file" if too_large else "name an image that can be read"
    return UsageError(option, path, f"{error.reason}: {hint}")


def describe(options: Any) -> dict[str, object]:
    """Return what a file's metadata should say about the given image."""
    if options.task != "outpaint":
        return {}
    said = {"image": Path(options.image).name, "expand": options.expand, "blend": options.blend}
    return said if options.mask is None else {**said, "mask": Path(options.mask).name}
