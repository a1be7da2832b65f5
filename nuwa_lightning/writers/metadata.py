"""How a picture was made, read back from the picture."""

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
from nuwa_lightning.writers.ome_zarr import NAME, NODE
from nuwa_lightning.writers.png import KEYWORD, SIGNATURE

# More than any writer of ours stores; what claims more is not read into memory.
_LONGEST = 16 << 20


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata that a :class:`CanvasWriter` stored; empty for a picture that holds none of ours.

    Only headers are read, so a picture of any size will do; no pixel is decoded.

    Raises:
        UsageError: if the file cannot be read, or is none that a writer makes.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _zarr(path)
        with path.open("rb") as file:
            head = file.read(8)
            if head == SIGNATURE:
                text = _png(file)
            elif head[:2] == b"\xff\xd8":
                file.seek(2)
                text = _jpeg(file)
            elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                text = _tiff(path)
            elif head[:5] == b"<?xml":
                text = _deep_zoom(head + file.read(_LONGEST))
            else:
                raise UsageError("image", str(path), "is no PNG, JPEG, TIFF, Deep Zoom or OME-Zarr")
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
