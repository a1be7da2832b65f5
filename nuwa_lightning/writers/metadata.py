"""How an image or a video was made, read back from the file."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.deep_zoom import TARGET
from nuwa_lightning.writers.frames import ABOUT
from nuwa_lightning.writers.ome_zarr import NAME, NODE
from nuwa_lightning.writers.png import KEYWORD, SIGNATURE
from nuwa_lightning.writers.webp import IMAGE_DESCRIPTION

# More than any writer of ours stores; what claims more is not read into memory.
_LONGEST = 16 << 20


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata that a writer stored; empty for a file that holds none of ours.

    Only headers are read, so a file of any size will do; no pixel is decoded.

    Raises:
        UsageError: if the file cannot be read, or is none that a writer makes.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _frames(path) if (path / ABOUT).is_file() else _zarr(path)
        with path.open("rb") as file:
            head = file.read(8)
            if head == SIGNATURE:
                text = _png(file)
            elif head[:2] == b"\xff\xd8":
                file.seek(2)
                text = _jpeg(file)
            elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                text = _tiff(path)
            elif head[:6] == b"GIF89a":
                text = _gif(file)
            elif head[:4] == b"RIFF":
                text = _webp(file)
            elif head[4:] == b"ftyp":
                text = _mp4(file)
            elif head[:5] == b"<?xml":
                text = _deep_zoom(head + file.read(_LONGEST))
            else:
                raise UsageError("image", str(path), "is nothing that a writer of this program makes")
    except (OSError, struct.error, EOFError) as error:
        raise UsageError("image", str(path), f"cannot be read ({error})") from error
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("the file ends too early")
    return data


def _png(file: BinaryIO) -> str:
    while True:
        length, kind = struct.unpack(">I4s", _exactly(file, 8))
        if kind in (b"IDAT", b"IEND"):
            return ""
        if kind != b"iTXt" or length > _LONGEST:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data = _exactly(file, length)
        if struct.unpack(">I", _exactly(file, 4))[0] != zlib.crc32(data, zlib.crc32(kind)):
            raise EOFError("a checksum does not fit")
        if data.startswith(KEYWORD + b"\0\0\0\0\0"):
            return data[len(KEYWORD) + 5 :].decode("utf-8", "replace")


def _jpeg(file: BinaryIO) -> str:
    while True:
        mark, kind = _exactly(file, 2)
        if mark != 0xFF or kind in (0xD9, 0xDA):  # end of image, start of scan
            return ""
        (length,) = struct.unpack(">H", _exactly(file, 2))
        data = _exactly(file, max(0, length - 2))
        if kind == 0xFE:  # comment
            return data.decode("utf-8", "replace")


def _tiff(path: Path) -> str:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return str(page.description)
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EOFError(str(error)) from error


def _gif(file: BinaryIO) -> str:
    flags = _exactly(file, 5)[2]
    file.seek(3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0, os.SEEK_CUR)
    while _exactly(file, 1) == b"\x21":  # extensions; ours stand before the first image
        comment = _exactly(file, 1) == b"\xfe"
        data = b""
        while size := _exactly(file, 1)[0]:
            data += _exactly(file, size)
        if comment:
            return data.decode("utf-8", "replace")
    return ""


def _webp(file: BinaryIO) -> str:
    _exactly(file, 4)
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"EXIF" and size < _LONGEST:
            from PIL import Image

            exif = Image.Exif()
            exif.load(b"Exif\0\0" + _exactly(file, size))
            return str(exif.get(IMAGE_DESCRIPTION, ""))
        file.seek(size + size % 2, os.SEEK_CUR)
    return ""


def _mp4(file: BinaryIO) -> str:
    """Follow the boxes to the comment; ``meta`` has four bytes of its own before what it holds."""
    file.seek(0)
    end = os.fstat(file.fileno()).st_size
    for name, own in ((b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0), (b"\xa9cmt", 0), (b"data", 8)):
        while True:
            if file.tell() + 8 > end:
                return ""
            size, found = struct.unpack(">I4s", _exactly(file, 8))
            head = 8
            if size == 1:
                size, head = struct.unpack(">Q", _exactly(file, 8))[0], 16
            size = size or end - file.tell() + head
            if size < head:
                raise EOFError("a box is smaller than its own head")
            if found == name:
                end = min(end, file.tell() + size - head)
                file.seek(own, os.SEEK_CUR)
                break
            file.seek(size - head, os.SEEK_CUR)
    return _exactly(file, min(end - file.tell(), _LONGEST)).decode("utf-8", "replace")


def _frames(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / ABOUT).read_bytes()[:_LONGEST])["metadata"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EOFError(f"{ABOUT} makes no sense") from error
    return found if isinstance(found, dict) else {}


def _zarr(path: Path) -> dict[str, Any]:
    with (path / NODE).open("rb") as file:
        data = file.read(_LONGEST)
    try:
        node = json.loads(data)
        found = node.get("attributes", {}).get(NAME, {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise EOFError(f"{NODE} makes no sense") from error
    return found if isinstance(found, dict) else {}


def _deep_zoom(data: bytes) -> str:
    # No XML parser: it would have to be one that survives a hostile file. Ours stands before the first element.
    found = re.match(rb"<\?xml[^>]*\?>\s*<\?" + TARGET.encode() + rb" (.*?)\?>", data, re.DOTALL)
    return found.group(1).decode("utf-8", "replace") if found else ""
