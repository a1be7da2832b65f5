"""What headers of image files say of their colors and Pillow does not pass on."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from nuwa_lightning.data.tones import ANOTHER, UNUSABLE

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_DEPTHS: Final = {"JPEG2000": (_CODESTREAM, 42), "AVIF": (b"pixi", 9), "HEIF": (b"pixi", 9)}
"""What stands before the bits of a sample, and by how many bytes; JPEG 2000 counts from 0."""
_SRGB_CODES: Final = ({1, 2, 5, 6}, {1, 2, 6, 13, 14, 15})
"""Primaries and transfers (H.273) that are sRGB's, near it or not told; of PNG only 1 and 13 are taken for them."""
_EXTRA_SAMPLES: Final = 338
NOT_READ: Final = "its cICP ({}) is not read, its colors are taken as they are"
TAKEN_FOR_ALPHA: Final = "the last of its samples is taken for transparency, though it does not say so"
NO_MARK: Final = "CMYK without Adobe's mark, taken to be inverted as Adobe's is"


def color_notes(path: str | os.PathLike[str], image: Image.Image) -> list[str]:
    """Return what an open image says of its colors that is not read; a profile passed over comes into its ``info``."""
    notes: list[str] = []
    form = image.format
    if form == "PNG":
        said = png_chunk(path, b"cICP")
        if said is not None and said[:2] != bytes([1, 13]):
            notes.append(NOT_READ.format(", ".join(map(str, said))))
    elif form in ("AVIF", "HEIF"):
        notes += _of_heif(_head(path), image)
    elif form == "JPEG2000":
        notes += _of_jpeg_2000(_head(path), image)
    elif form in ("JPEG", "MPO"):
        notes += _of_jpeg(image)
    elif form == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        notes += [TAKEN_FOR_ALPHA] if image.mode == "RGBA" and _EXTRA_SAMPLES not in tags else []
    elif form == "BMP":
        _take_profile_of_bmp(path, image)
    return notes


def _of_heif(head: bytes, image: Image.Image) -> list[str]:
    at = head.find(b"colrnclx")
    if at < 0 or image.info.get("icc_profile"):
        return []
    codes = [int.from_bytes(head[at + 8 + 2 * n : at + 10 + 2 * n], "big") for n in range(3)]
    if codes[0] in _SRGB_CODES[0] and codes[1] in _SRGB_CODES[1]:
        return []
    return [NOT_READ.format(", ".join(map(str, codes)))]


def _of_jpeg_2000(head: bytes, image: Image.Image) -> list[str]:
    boxes = head.partition(b"jp2c")[0] if head[4:8] == b"jP  " else b""  # a codestream by itself has none
    notes: list[str] = []
    at = boxes.find(b"colr")
    if at >= 4 and boxes[at + 4] == 2:
        image.info["icc_profile"] = boxes[at + 7 : at - 4 + int.from_bytes(boxes[at - 4 : at], "big")]
    elif at >= 4 and (space := int.from_bytes(boxes[at + 7 : at + 11], "big")) not in (0, 12, 15, 16, 17, 18):
        notes.append(ANOTHER.format(f"number {space} of JPEG 2000"))
    if image.mode in ("LA", "RGBA") and b"cdef" not in boxes:
        notes.append(TAKEN_FOR_ALPHA)
    return notes


def _of_jpeg(image: Image.Image) -> list[str]:
    notes: list[str] = []
    if image.mode == "CMYK" and "adobe" not in image.info:
        notes.append(NO_MARK)
    if "icc_profile" in image.info and not image.info["icc_profile"]:  # parts of it are missing
        notes.append(UNUSABLE)
    elif "icc_profile" not in image.info:
        with suppress(Exception):  # damaged metadata
            exif = image.getexif()
            space, kind = exif.get_ifd(ExifTags.IFD.Exif).get(0xA001), exif.get_ifd(ExifTags.IFD.Interop).get(1)
            if space == 2 or str(kind).startswith("R03"):
                notes.append(ANOTHER.format("Adobe RGB by its EXIF data"))
    return notes


def _take_profile_of_bmp(path: str | os.PathLike[str], image: Image.Image) -> None:
    head = _head(path, 138)
    if head[14:18] == b"\x7c\0\0\0" and head[70:74] == b"DEBM":
        with open(path, "rb") as file:
            file.seek(14 + int.from_bytes(head[126:130], "little"))
            image.info["icc_profile"] = file.read(min(1 << 24, int.from_bytes(head[130:134], "little")))


def depth_of(path: str | os.PathLike[str], form: str | None) -> int:
    """Return how many bits a sample has in a file of a format whose decoder gives 8 and does not say so, else 0."""
    if form not in _DEPTHS:
        return 0
    mark, after = _DEPTHS[form]
    head = _head(path)
    at = head.find(mark)
    bits = head[at + after : at + after + 1] if at >= 0 else b""
    return (bits[0] & 0x7F) + (form == "JPEG2000") if bits else 0


def mend_white(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Give a JPEG 2000 of more than 8 bits a sample, loaded, its white: Pillow rounds 255.5 and above to 256, then 0.

    Black and white are told apart by decoding once more, with other depths written into the header: lossless samples
    stay where they are within twice their range, others are scaled to the range.
    """
    samples = np.array(image)
    if image.mode not in ("RGB", "RGBA", "LA", "CMYK") or samples.min() > 0:
        return
    content = bytearray(Path(path).read_bytes())
    size = content.find(_CODESTREAM)
    lossless = content[content.find(b"\xff\x52", size) + 13] == 1
    for at in range(size + 42, size + 42 + 3 * int.from_bytes(content[size + 40 : size + 42], "big"), 3):
        content[at] = (content[at] | 0x80) + 1 if lossless else content[at] & 0x80 | 7
    with Image.open(io.BytesIO(content), formats=["JPEG2000"]) as again:
        samples[(samples == 0) & (np.asarray(again) > 128)] = 255
    image.frombytes(samples.tobytes())


def png_chunk(path: str | os.PathLike[str], kind: bytes) -> bytes | None:
    """Return the first bytes of a chunk before the pixels of a PNG; None if there is none."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            if head[4:] == kind:
                return file.read(min(4, int.from_bytes(head[:4], "big")))
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return None


def png_ends_with_text(path: str | os.PathLike[str]) -> bool:
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


def _head(path: str | os.PathLike[str], size: int = 1 << 20) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)
