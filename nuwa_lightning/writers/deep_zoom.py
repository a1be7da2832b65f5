"""Deep Zoom: a small XML file beside a folder of JPEG tiles, which OpenSeadragon and others show in a browser."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.writers.base import CanvasWriter, Pixels
from nuwa_lightning.writers.pyramid import halved, level_size
from nuwa_lightning.writers.tiles import SIDE, Key, TileCodec, TilePyramid

TARGET = "nuwa_lightning"
"""Target of the processing instruction that holds the metadata."""
_NAMESPACE = "http://schemas.microsoft.com/deepzoom/2008"
_QUALITY = 95


def tiles_folder(path: Path) -> Path:
    """Return the folder of the tiles of ``NAME.dzi``: ``NAME_files``."""
    return path.with_name(f"{path.stem}_files")


class DeepZoomWriter(CanvasWriter):
    """Writes ``NAME.dzi`` and ``NAME_files/``: JPEG tiles (quality 95, no chroma subsampling) of every level.

    Tiles are packed while the canvas is written. Deep Zoom counts levels from a single pixel upwards, so they get their
    names in the end, when the size is known. ``metadata`` becomes a processing instruction of the XML. A rectangle
    that changes a tile which was complete packs it a second time, which JPEG pays for with a little quality.
    """

    endless = True
    format_name = "Deep Zoom"
    longest_side = 2**31 - 1
    lossless = False

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self._folder = self._file.beside("tiles")
        if state is not None:
            self._unname_levels()
        self._folder.mkdir(exist_ok=True)
        width, height = self.size
        size = (height or self.longest_side, width or self.longest_side)
        self._codec = _Jpeg(self._folder)
        self._pyramid = TilePyramid(self._codec, self._file.beside("scratch"), size=size)

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        self._pyramid.write(pixels_YX3, y, x)

    def _own_state(self) -> Mapping[str, Any]:
        self._pyramid.force()
        return {}

    def _finish(self) -> None:
        self._pyramid.finish((self.height, self.width))
        for level in range(self._pyramid.levels):
            self._fill(level)
        self._file.path.write_bytes(self._xml())
        self._name_levels()

    def _release(self) -> None:
        """Nothing is open between two calls."""

    def _fill(self, level: int) -> None:
        """Make black tiles where nothing was ever written; viewers miss each tile that is not there."""
        height, width = level_size((self.height, self.width), level)
        for y in range(-(-height // SIDE)):
            for x in range(-(-width // SIDE)):
                path = self._codec.path((level, y, x))
                if not path.exists():
                    black = np.zeros((min(SIDE, height - y * SIDE), min(SIDE, width - x * SIDE), 3), np.uint8)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(self._codec.pack(black))

    def _xml(self) -> bytes:
        # A processing instruction ends at the first "?>", which JSON can avoid.
        made = self.description.replace(">", "\\u003e")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<?{TARGET} {made}?>\n"
            f'<Image xmlns="{_NAMESPACE}" Format="{_Jpeg.suffix}" Overlap="0" TileSize="{SIDE}">\n'
            f'  <Size Width="{self.width}" Height="{self.height}"/>\n'
            "</Image>\n"
        ).encode("ascii")

    def _name_levels(self) -> None:
        """Number the levels as Deep Zoom does, add those smaller than a tile, and move all to their final place."""
        top = (max(self.width, self.height) - 1).bit_length()
        note = self._file.beside("naming.new")
        note.write_text(json.dumps({"top": top, "levels": self._pyramid.levels}), encoding="utf-8")
        os.replace(note, self._file.beside("naming"))
        number = top - self._pyramid.levels + 1
        pixels = self._codec.unpack(self._codec.path((self._pyramid.levels - 1, 0, 0)).read_bytes())
        while number > 0:
            number, pixels = number - 1, halved(pixels)
            path = self._folder / str(number) / f"0_0.{_Jpeg.suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self._codec.pack(pixels))
        for level in range(self._pyramid.levels):
            os.rename(self._codec.folder(level), self._folder / str(top - level))
        for found in self._folder.rglob("*"):
            fsync_path(found)
        target = tiles_folder(self._file.target)
        if target.exists():
            os.rename(target, self._file.beside("old"))
        os.rename(self._folder, target)

    def _unname_levels(self) -> None:
        """Undo :meth:`_name_levels` of a process that was killed before the file had its name."""
        note = self._file.beside("naming")
        if not note.exists():
            return
        naming = json.loads(note.read_text(encoding="utf-8"))
        if not self._folder.exists():
            os.rename(tiles_folder(self._file.target), self._folder)
        for found in self._folder.iterdir():
            if found.name.isdecimal():
                level = naming["top"] - int(found.name)
                if level < naming["levels"]:
                    os.rename(found, _Jpeg(self._folder).folder(level))
                else:
                    shutil.rmtree(found)
        note.unlink()


class _Jpeg(TileCodec):
    suffix = "jpg"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, level: int) -> Path:
        """Return where the tiles of a level lie until it gets its number."""
        return self._folder / f"level{level}"

    def path(self, key: Key) -> Path:
        """Return where the file of a tile lies."""
        return self.folder(key[0]) / f"{key[2]}_{key[1]}.{self.suffix}"

    def packed(self) -> Iterator[Key]:
        """Yield every tile that has a file."""
        for found in self._folder.glob(f"level*/*.{self.suffix}"):
            x, y = found.stem.split("_")
            yield int(found.parent.name[len("level") :]), int(y), int(x)

    def pack(self, pixels_YX3: Pixels) -> bytes:
        """Return the content of the file of a tile."""
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(pixels_YX3).save(out, format="JPEG", quality=_QUALITY, subsampling=0)
        return out.getvalue()

    def unpack(self, data: bytes) -> Pixels:
        """Return the pixels of a file."""
        from PIL import Image

        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB"))
