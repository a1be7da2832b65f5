"""Reading images from files that nobody vouched for: the right pixels, or one clear error.

Pillow decodes; only the formats named here are ever tried. What is not plain 8-bit RGB is turned into it so that the
image looks as it does in a viewer: EXIF rotation applied, transparency over white (what most viewers and web pages
show), palettes resolved, CMYK converted (Adobe's inverted files included), 16-bit grey scaled rather than clipped.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nuwa_lightning.errors import UsageError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000")
"""Pillow's names of the formats that are read; JPEG covers the MPO of many telephones."""

SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k"}
)
"""File name endings, in lower case, that `list_images` takes for images."""

MAX_PIXELS: Final = 200_000_000
"""Default limit on the pixels of one image, before decoding: 600 MB as 8-bit RGB."""

_BACKGROUND: Final = (255, 255, 255, 255)


class ImageReadError(UsageError):
    """A file is not an image that can be read; the message names the file and the reason.

    Args:
        path: the file.
        reason: what is wrong with it.
        hint: what to do about it.
        over_limit: whether ``max_pixels`` refused it; callers know what their option is called.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        reason: str,
        *,
        hint: str = "replace or remove the file",
        over_limit: bool = False,
    ) -> None:
        self.path = Path(path)
        self.reason = reason
        self.over_limit = over_limit
        super().__init__("image", f"{self.path} ({reason})", hint)


class _PillowGuard:
    """Switches Pillow's own size warning off while any reader is active, since ours is an option and not a global.

    Pillow keeps the limit and Python the warning filters in globals; readers run in threads, so they are counted and
    the first in and the last out change them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._limit: int | None = None
        self._filters = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._active == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")  # odd metadata is worth no line: the pixels decide
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if self._active == 0:
                    self._filters.__exit__(None, None, None)
                    Image.MAX_IMAGE_PIXELS = self._limit


_guard = _PillowGuard()


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> Image.Image:
    """Read one image as 8-bit RGB, upright.

    Args:
        path: the file; of an animation or a multi-page file the first image is read.
        max_pixels: refuse an image with more pixels than this, before any of them is decoded.
        min_side: when given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side stays at
            least this many pixels. Much faster for large photos that are shrunk afterwards anyway.

    Raises:
        ImageReadError: if the file is missing, not an image, damaged, cut short or too large.
    """
    try:
        with _guard(), Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.size, max_pixels)
            if min_side is not None and min(image.size) > min_side > 0:
                scale = min_side / min(image.size)
                image.draft(None, (round(image.width * scale), round(image.height * scale)))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageReadError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged input
        raise ImageReadError(path, _reason(error)) from error


def image_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) in pixels as `read_image` would give them, reading the header only.

    Raises:
        ImageReadError: if the file is missing, not an image or too large.
    """
    try:
        with _guard(), Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.size, max_pixels)
            # Pillow gives the size of a TIFF as it is after turning, of anything else as it is before.
            if image.format != "TIFF" and _exif(image, path).get(0x0112, 1) in {5, 6, 7, 8}:
                return image.width, image.height
            return image.height, image.width
    except ImageReadError:
        raise
    except Exception as error:
        raise ImageReadError(path, _reason(error)) from error


def is_transparent(path: str | os.PathLike[str]) -> bool:
    """Say whether an image that `read_image` reads lets its background through anywhere.

    Raises:
        ImageReadError: if it cannot be read.
    """
    try:
        with _guard(), Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")) or not image.has_transparency_data:
                return False
            return _straight(image).getchannel("A").getextrema()[0] != 255
    except Exception as error:
        raise ImageReadError(path, _reason(error)) from error


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return every image file below ``folder``, sub-folders and linked folders included, sorted by path.

    Hidden files and folders (name starting with a dot) are left out. A folder that is linked into itself is visited
    once.

    Raises:
        FileNotFoundError: if ``folder`` is missing.
        NotADirectoryError: if it is not a folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(root)
    if not root.is_dir():
        raise NotADirectoryError(root)
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _check_size(path: str | os.PathLike[str], size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageReadError(
            path,
            f"{size[0]}x{size[1]} is {size[0] * size[1]} pixels, more than max_pixels={max_pixels}",
            hint="raise max_pixels if you trust the file",
            over_limit=True,
        )


def _exif(image: Image.Image, path: str | os.PathLike[str]) -> Image.Exif:
    """Return the EXIF data, of a PNG without decoding it as Pillow would: it may follow the pixels, but rarely does."""
    if image.format == "PNG" and not _png_ends_with_text(path):
        return Image.Image.getexif(image)
    return image.getexif()


def _png_ends_with_text(path: str | os.PathLike[str]) -> bool:
    """Say whether a chunk that may tell the orientation follows the pixels."""
    pixels_seen = False
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            pixels_seen |= head[4:] == b"IDAT"
            if pixels_seen and head[4:] in {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any of the formats " + ", ".join(FORMATS)
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        straight = _straight(image)
        paper = Image.new("RGBA", straight.size, _BACKGROUND)
        return Image.alpha_composite(paper, straight).convert("RGB")
    return image.convert("RGB")


def _straight(image: Image.Image) -> Image.Image:
    # RGBa and La hold colours multiplied by alpha; Pillow turns them back only into their own kind.
    return image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to 8 bits; `Image.convert` would clip at 255.

    Raises:
        ValueError: if the values do not tell what white is.
    """
    values = np.asarray(image)
    if image.mode == "F":
        white = 1.0
    elif values.size and int(values.max()) > 65535:
        raise ValueError("32-bit grey of unknown range; save it with 8 or 16 bits")
    else:
        white = 65535.0
    if values.size and not (float(values.min()) >= 0.0 and float(values.max()) <= white):
        raise ValueError(f"grey values outside 0..{white:g}")
    grey = np.rint(values.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
