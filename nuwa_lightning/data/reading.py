"""Reading images from files that nobody vouched for: the right pixels, or one clear error.

Pillow decodes (tifffile what it cannot of TIFF); only the formats named here are ever tried. What is not plain 8-bit
sRGB is turned into it so that the image looks as it does in a viewer: color profiles applied, EXIF rotation applied,
transparency over white (what most viewers and web pages show), palettes resolved, CMYK converted (Adobe's inverted
files included), 16-bit gray scaled rather than clipped. What was changed by that is said in `notes_of` the image.
Metadata never costs the pixels: what of it cannot be read is passed over.
"""

import errno
import importlib.util
import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from nuwa_lightning.data.folders import list_files, regular_stat
from nuwa_lightning.data.headers import color_notes, depth_of, mend_white, png_ends_with_text
from nuwa_lightning.data.tones import (
    BITS,
    FLOATS,
    NOT_ALL,
    SHALLOWER,
    is_deep,
    is_deep_color,
    lets_through,
    lower_bytes,
    scaled,
    settle,
    to_rgb,
    white_of,
    with_white,
)
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read; JPEG covers the MPO of many telephones. With pillow-heif also HEIF."""

_HEIF: Final = frozenset({".heic", ".heif", ".hif"})
SUFFIXES: Final = _HEIF | {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k"),
    ".avif",
}
"""File name endings, in lower case, that `list_images` takes for images."""

MAX_PIXELS: Final = 200_000_000
"""Default limit on the pixels of one image, before decoding: 600 MB as 8-bit RGB."""

_METADATA_BYTES: Final = 16 << 20
"""Larger texts and profiles of a PNG are passed over."""
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE, _OLD_SUBFILE, _PLANAR = 254, 255, 284


class MediaReadError(UsageError):
    """A file cannot be read; the message names it and the reason.

    ``over_limit``: whether ``max_pixels`` refused it; callers know what their option is called.
    """

    kind: ClassVar[str]

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
        super().__init__(self.kind, f"{self.path} ({reason})", hint)


class ImageReadError(MediaReadError):
    """A file is not an image that can be read."""

    kind = "image"


class _PillowGuard:
    """Switches Pillow's own limits off while any reader is active, since ours is an option and not a global.

    Pillow keeps the limits and Python the warning filters in globals; readers run in threads, so they are counted and
    the first in and the last out change them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._limit: int | None = None
        self._texts = (0, 0)
        self._filters = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._active == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self._texts = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
                PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _METADATA_BYTES
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
                    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = self._texts


_guard = _PillowGuard()


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> Image.Image:
    """Read one image as 8-bit sRGB, upright; `notes_of` it say what was changed.

    Args:
        path: the file; of an animation or a multi-page file the first image is read that is no thumbnail.
        max_pixels: refuse an image with more pixels than this, before any of them is decoded.
        min_side: when given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side stays at
            least this many pixels. Much faster for large photos that are shrunk afterwards anyway.

    Raises:
        ImageReadError: if the file is missing, not an image, damaged, cut short or too large.
    """

    def read(image: Image.Image) -> Image.Image:
        if min_side is not None and min(image.size) > min_side > 0:
            scale = min_side / min(image.size)
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        deep = depth_of(path, image.format) > 8
        notes = [SHALLOWER] if deep or is_deep(image) else []
        notes += (*notes_of(image), *color_notes(path, image))
        if is_deep_color(image):
            loaded = with_white(image, lambda: _with_image(path, max_pixels, lower_bytes), notes)
        else:
            image.load()
            loaded = image
            if deep and image.format == "JPEG2000":
                mend_white(path, image)
        turn = _TURNS.get(_orientation(image))
        made = to_rgb(loaded, notes)
        return _with_notes(made if turn is None else made.transpose(turn), notes)

    return _with_image(path, max_pixels, read)


_NOTES: Final = "nuwa_lightning notes"


def notes_of(image: Image.Image) -> tuple[str, ...]:
    """Return what `read_image` changed about the tones of an image and a user may want to know, in a few words each."""
    notes: tuple[str, ...] = image.info.get(_NOTES, ())
    return notes


def _with_notes(image: Image.Image, notes: Sequence[str]) -> Image.Image:
    image.info = {_NOTES: tuple(notes)}
    return image


def as_srgb(image: Image.Image) -> Image.Image:
    """Return an image in memory as 8-bit sRGB over white; `notes_of` it say what was changed.

    Raises:
        ValueError: if its samples mean nothing that is known.
    """
    notes = [SHALLOWER] if is_deep(image) else []
    return _with_notes(to_rgb(image, notes).copy(), notes)


class NotesLog:
    """Logs each of `notes_of` images once, with the first file that it is of."""

    def __init__(self) -> None:
        self._told = set[str]()

    def __call__(self, path: str | os.PathLike[str], image: Image.Image) -> Image.Image:
        """Log what is new; returns the image."""
        self.say(path, notes_of(image))
        return image

    def say(self, path: str | os.PathLike[str], notes: Sequence[str]) -> None:
        """Log what of these notes is new."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                _LOG.warning("%s, and perhaps others: %s", path, note)


def image_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) in pixels as `read_image` would give them, reading the header only."""

    def size(image: Image.Image) -> tuple[int, int]:
        # Pillow gives the size of a TIFF as it is after turning, of anything else as it is before.
        if image.format != "TIFF" and _orientation(image, None if image.format != "PNG" else path) in {5, 6, 7, 8}:
            return image.width, image.height
        return image.height, image.width

    return _with_image(path, max_pixels, size)


def is_transparent(path: str | os.PathLike[str]) -> bool:
    """Say whether an image that `read_image` reads lets its background through anywhere."""

    def look(image: Image.Image) -> bool:
        if is_deep_color(image):
            image = with_white(image, lambda: _with_image(path, None, lower_bytes), [])
        return lets_through(image)

    return _with_image(path, None, look)


def list_images(folder: str | os.PathLike[str], *, natural: bool = False) -> list[Path]:
    """Return every image file below ``folder``, sorted by path, or 2 before 10 if ``natural``; see `list_files`."""
    return list_files(folder, SUFFIXES, natural=natural).files


def _with_image(path: str | os.PathLike[str], max_pixels: int | None, work: Callable[[Image.Image], _T]) -> _T:
    """Return what ``work`` makes of the opened image; whatever goes wrong is one `ImageReadError`."""

    def of(source: str | os.PathLike[str] | io.BytesIO, formats: tuple[str, ...]) -> _T:
        with Image.open(source, formats=formats) as image:
            _seek_main_page(image)
            settle(image)
            check_size(path, image.size, max_pixels)
            return work(image)

    try:
        regular_stat(path)
        with open(path, "rb") as file:
            head = file.read(12)
        with _guard():
            try:
                return of(path, _formats(head))
            except ImageReadError:
                raise
            except Exception as error:  # Pillow's decoders raise nearly everything on damaged input
                if head.startswith(b"\x89PNG"):
                    for keep_profile in (True, False):
                        with suppress(Exception):
                            return of(_without_metadata(path, keep_profile), FORMATS[:1])
                elif head[:4] in _TIFF and isinstance(error, UnidentifiedImageError):
                    return work(_by_tifffile(path, max_pixels))
                raise
    except ImageReadError:
        raise
    except Exception as error:
        raise ImageReadError(path, _reason(error)) from error


def _formats(head: bytes) -> tuple[str, ...]:
    """Return what Pillow may try."""
    found = FORMATS if features.check("avif") else FORMATS[:-1]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS | {b"mif1", b"msf1"}:
        if importlib.util.find_spec("pillow_heif") is not None:
            import pillow_heif

            pillow_heif.register_heif_opener(thumbnails=False)
            return (*found, "HEIF")
        if head[8:12] in _HEIF_BRANDS:
            raise ValueError("HEIC, which is read where pillow-heif is installed: pip install 'nuwa-lightning[heic]'")
    return found


def _seek_main_page(image: Image.Image) -> None:
    """Go to the first page of a TIFF that is not told to be a smaller copy of another one."""
    if image.format != "TIFF":
        return
    tiff: Any = image
    if tiff.tag_v2.get(_PLANAR) == 2 and max(tiff.tag_v2.get(BITS, (1,))) > 8:
        raise UnidentifiedImageError("planar and deep, which Pillow misreads")
    page = 0
    with suppress(EOFError):
        while int(tiff.tag_v2.get(_SUBFILE, 0)) & 1 or tiff.tag_v2.get(_OLD_SUBFILE) == 2:
            page += 1
            tiff.seek(page)
        return
    tiff.seek(0)


def _without_metadata(path: str | os.PathLike[str], keep_profile: bool) -> io.BytesIO:
    """Return a PNG with only what decides its pixels."""
    kept = {b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"IDAT", b"IEND", b"eXIf"}
    kept |= {b"iCCP"} if keep_profile else set()
    made = io.BytesIO()
    with open(path, "rb") as file:
        made.write(file.read(8))
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big") + 4
            if head[4:] in kept:
                made.write(head + file.read(length))
            else:
                file.seek(length, os.SEEK_CUR)
    made.seek(0)
    return made


def _by_tifffile(path: str | os.PathLike[str], max_pixels: int | None) -> Image.Image:
    """Return a TIFF that Pillow does not know: float or planar RGB."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = main_page(tiff)
        check_size(path, (page.imagewidth, page.imagelength), max_pixels)
        kind, samples = page.dtype, page.samplesperpixel
        if kind is None or page.photometric not in (0, 1, 2) or samples not in (1, 3) or page.imagedepth != 1:
            raise ValueError("a TIFF of a kind that is not read: save it as RGB with 8 or 16 bits")
        if kind.kind != "f" and kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise ValueError(f"a TIFF of {kind} samples: save it with 8 or 16 bits")
        values = page.asarray()
        if page.planarconfig == 2 and samples == 3:
            values = values.transpose(1, 2, 0)
        white = 1.0 if kind.kind == "f" else 255.0
        if kind == np.uint16:
            white = white_of(values, page.tags.valueof("MaxSampleValue"), bits=page.bitspersample)
        image = Image.fromarray(scaled(values, white, inverted=page.photometric == 0))
        turn = page.tags.valueof("Orientation", default=1)
        profile = page.tags.valueof("InterColorProfile")
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    if isinstance(profile, bytes):
        image.info["icc_profile"] = profile
    notes = [] if kind == np.uint8 else [SHALLOWER]
    if kind == np.uint16 and white < 65535:
        notes.append(NOT_ALL.format("white", white))
    elif kind.kind == "f" and not profile:
        notes.append(FLOATS)
    image.info[_NOTES] = tuple(notes)
    return image


def main_page(tiff: Any) -> Any:
    """Return the first page of a tifffile.TiffFile that is not told to be a smaller copy of another one."""
    for page in tiff.pages:
        if not (int(page.tags.valueof(_SUBFILE, default=0)) & 1 or page.tags.valueof(_OLD_SUBFILE) == 2):
            return page
    return tiff.pages.first


def check_size(path: str | os.PathLike[str], size: tuple[int, int], max_pixels: int | None) -> None:
    """Refuse an image or frame of more than ``max_pixels``, by its width and height.

    Raises:
        ImageReadError: saying so.
    """
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise ImageReadError(
            path,
            f"{size[0]}x{size[1]} is {size[0] * size[1]} pixels, more than max_pixels={max_pixels}",
            hint="raise `max_pixels` if you trust the file",
            over_limit=True,
        )


def _orientation(image: Image.Image, header_of: str | os.PathLike[str] | None = None) -> int:
    """Return how the image is turned, as EXIF counts; 1 if it does not say.

    ``header_of`` is the file of a PNG that is not to be decoded: EXIF data may follow the pixels, but rarely do.
    """
    try:
        if header_of is not None and not png_ends_with_text(header_of):
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        said = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged metadata: the pixels are as they are
        return 1
    return said if isinstance(said, int) else 1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ELOOP, errno.EACCES):
        return error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any of the formats " + ", ".join(FORMATS)
    return " ".join(str(error).split()) or type(error).__name__
