"""The values that a request for an image or a video is made of: sizes, regions of texts, an image to go on from."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REGION = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:(.*)", re.DOTALL)
# Numbers and a colon that are none of the above, or the four numbers with the colon forgotten.
_LIKE_A_REGION = re.compile(r"[\s\d,.\-+x]*\d[\s\d,.\-+x]*:|\s*\d+\s*(,\s*\d+\s*){3}")


_KINDS: Final = {"int": (Integral, "a whole number"), "float": (Real, "a number"), "str": (str, "a text")}
_LARGEST: Final = 1 << 63


def check_kinds(request: Any) -> None:
    """Refuse fields of a dataclass that are of another kind than they are declared: files may say anything."""
    for each in dataclasses.fields(request):
        value, declared = getattr(request, each.name), str(each.type)
        kind = declared.removesuffix(" | None")
        if not each.init or (value is None and kind != declared):
            continue
        if kind in _KINDS:
            wanted, what = _KINDS[kind]
            good = isinstance(value, wanted) and not isinstance(value, bool)
            if good and isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
                good, what = False, f"{what} of less than 19 digits"
            elif good and kind == "float" and not math.isfinite(value):
                good, what = False, f"{what} that is finite"
        elif kind == "bool":
            good, what = isinstance(value, bool), "true or false"
        elif kind == "tuple[str, ...]":
            texts = isinstance(value, list | tuple)
            good, what = texts and all(isinstance(text, str) for text in value), "a list of texts"
        else:
            good, what = type(value).__name__ == kind, f"a {kind}"
        if not good:
            raise UsageError(each.name, _told(value), f"give {what}")


def _told(value: object) -> str:
    """Return a value as it is named in an error, whatever it is."""
    try:
        return repr(value)[:100]
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        return type(value).__name__


@dataclass(frozen=True)
class Size:
    """Width and height in pixels; None is endless."""

    width: int | None
    height: int | None

    def __post_init__(self) -> None:
        """Check that at least one side has a length."""
        known = [side for side in (self.width, self.height) if side is not None]
        if not known or min(known) < 1:
            raise _no_size(self)

    @classmethod
    def parse(cls, text: str) -> Size:
        """Return what ``4096x512``, ``x512`` or ``4096x`` says."""
        found = re.fullmatch(r"(\d*)[xX](\d*)", text)
        sides = [int(side) if side else None for side in found.groups()] if found else []
        if not any(sides) or 0 in sides:
            raise _no_size(text)
        return cls(sides[0], sides[1])

    def __str__(self) -> str:
        return "x".join("" if side is None else str(side) for side in (self.width, self.height))


def _no_size(value: object) -> UsageError:
    hint = "write WIDTHxHEIGHT in pixels, both at least 1, such as 4096x512; x512 is endless to the right"
    return UsageError("size", value, hint)


@dataclass(frozen=True)
class Expansion:
    """How many pixels a canvas is larger than the image, on each side."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    @classmethod
    def parse(cls, text: str) -> Expansion:
        """Return what ``left=512,right=512,up=0,down=256``, in part or whole and in any order, says."""
        sides = [f.name for f in dataclasses.fields(cls)]
        found: dict[str, int] = {}
        for part in text.split(","):
            pair = re.fullmatch(r"\s*(\w+)\s*=\s*(\d{1,9})\s*", part)
            if not pair or pair[1] not in sides or pair[1] in found:
                hint = f"write pixels for {', '.join(sides)}, each at most once, such as left=512,down=256"
                raise UsageError("expand", text or "''", hint)
            found[pair[1]] = int(pair[2])
        return cls(**found)

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def __str__(self) -> str:
        pairs = dataclasses.asdict(self).items()
        return ",".join(f"{side}={n}" for side, n in pairs if n) or "left=0"


@dataclass(frozen=True)
class Region:
    """A rectangle of the canvas in pixels, and its text."""

    left: int
    top: int
    width: int
    height: int
    text: str

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.width},{self.height}: {self.text}"

    def holds(self, x: int, y: int) -> bool:
        """Say whether a pixel lies in it."""
        return self.left <= x < self.left + self.width and self.top <= y < self.top + self.height

    def overlaps(self, other: Region) -> bool:
        """Say whether a pixel lies in both."""
        x = max(self.left, other.left) < min(self.left + self.width, other.left + other.width)
        return x and max(self.top, other.top) < min(self.top + self.height, other.top + other.height)


def parse_prompts(prompts: Sequence[str]) -> tuple[tuple[Region, ...], str | None]:
    """Return the regions with their texts, and the text of the rest.

    Args:
        prompts: ``TEXT`` for the rest of the canvas, ``LEFT,TOP,WIDTH,HEIGHT: TEXT`` for a region.

    Raises:
        UsageError: if a text is empty, a region is none, two regions overlap, or two texts are for the rest.
    """
    regions: list[Region] = []
    rest: str | None = None
    for prompt in prompts:
        found = _REGION.fullmatch(prompt)
        if not found and _LIKE_A_REGION.match(prompt):
            raise UsageError("prompt", prompt, "write a region as LEFT,TOP,WIDTH,HEIGHT: TEXT, whole pixels from 0 up")
        text = " ".join((found[5] if found else prompt).split())
        if not text:
            raise UsageError("prompt", repr(prompt), "is empty: say what is to be seen")
        if not found:
            if rest is not None:
                raise UsageError("prompt", prompt, "is the second one for the whole canvas: give regions to the others")
            rest = text
            continue
        region = Region(int(found[1]), int(found[2]), int(found[3]), int(found[4]), text)
        if not region.width or not region.height:
            raise UsageError("prompt", prompt, "the region is empty: give it a width and a height of 1 pixel or more")
        for other in regions:
            if region.overlaps(other):
                raise UsageError("prompt", prompt, f"overlaps the region {other}: let regions meet at most")
        regions.append(region)
    return tuple(regions), rest


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image to go on from, opened and checked.

    Attributes:
        pixels_YX3: its pixels, 8-bit RGB.
        holes_YX: where it is to be generated anew; None for nowhere.
        source: its file, as it was named; "" for an image in memory.
        mask_source: the file of its mask, as it was named.
        transparent: whether transparent parts of it were taken as white.
        notes: what reading changed about tones, of the image and of its mask, a line each.
    """

    pixels_YX3: NDArray[np.uint8]
    holes_YX: NDArray[np.bool_] | None = None
    source: str = ""
    mask_source: str = ""
    transparent: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, image: Any, mask: Any = None, *, max_pixels: int | None = None, option: str = "image") -> InputImage:
        """Read an image and its mask, each once: files, Pillow images or arrays ``[Y, X, 3]`` (uint8).

        The mask has the same size and is white where the image is to be generated anew.
        """
        pixels_YX3, source, transparent, notes = _read(option, image, max_pixels)
        if mask is None:
            return cls(pixels_YX3, None, source, "", transparent, notes)
        mask_YX3, mask_source, mask_transparent, more = _read("mask", mask, max_pixels)
        named = mask_source or "the mask"
        (height, width), (rows, columns) = pixels_YX3.shape[:2], mask_YX3.shape[:2]
        if (rows, columns) != (height, width):
            hint = f"is {columns}x{rows}, the image {width}x{height}: make them the same size"
            raise UsageError("mask", named, hint)
        if mask_transparent:  # a hole to some programs, and nothing at all to others
            hint = "has transparent areas, which are neither white nor black: save it without transparency"
            raise UsageError("mask", named, hint)
        holes_YX = mask_YX3.max(axis=2) >= 128
        if holes_YX.all():
            raise UsageError("mask", named, "is white all over, nothing is given: leave `image` out")
        return cls(pixels_YX3, holes_YX, source, mask_source, transparent, notes + more)


def _read(name: str, given: Any, max_pixels: int | None) -> tuple[NDArray[np.uint8], str, bool, tuple[str, ...]]:
    """Return 8-bit RGB pixels, the file's name, whether parts were transparent, and what was changed about tones."""
    import numpy as np
    from PIL import Image

    from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, as_srgb, is_transparent, notes_of, read_image
    from nuwa_lightning.data.tones import lets_through

    if isinstance(given, np.ndarray):
        if given.dtype == bool and given.ndim == 2:
            given = np.where(given[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            raise UsageError(name, f"{given.dtype} {given.shape}", "give an array of bytes, height x width x 3")
        return given, "", False, ()
    if isinstance(given, Image.Image):
        try:
            pixels = as_srgb(given)
            return np.asarray(pixels), "", lets_through(given), tuple(f"{name}: {note}" for note in notes_of(pixels))
        except ValueError as error:
            raise UsageError(name, f"{given.mode} {given.size}", f"{error}: give 8-bit RGB") from None
    if not isinstance(given, str | Path):
        raise UsageError(name, type(given).__name__, "give a file name, a Pillow image or an array")
    try:
        pixels = read_image(given, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)
        notes = tuple(f"{given}: {note}" for note in notes_of(pixels))
        return np.asarray(pixels), str(given), is_transparent(given), notes
    except ImageReadError as error:
        hint = error.hint if error.over_limit else "name an image that can be read"
        raise UsageError(name, given, f"{error.reason}: {hint}") from None
