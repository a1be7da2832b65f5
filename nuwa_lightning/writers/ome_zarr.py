"""OME-Zarr: a folder of compressed chunks at several scales (NGFF 0.5 on Zarr 3), which microscopists' viewers read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.writers.base import CanvasWriter, Pixels
from nuwa_lightning.writers.pyramid import level_size
from nuwa_lightning.writers.tiles import SIDE, Key, TileCodec, TilePyramid

NODE = "zarr.json"
"""The file that describes a group or an array."""

NAME = "nuwa_lightning"
"""Attribute that holds the metadata."""
_AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space"},
    {"name": "x", "type": "space"},
]
_COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
_LEVEL = 1


class OmeZarrWriter(CanvasWriter):
    """Writes a folder ``NAME.zarr`` (or ``NAME.ome.zarr``) with axes c, y, x, in chunks of 3x512x512, gzip.

    Written by hand: a chunk is one compressed file, and the rest is JSON; so no library is needed, equal pixels make
    equal bytes, and each file appears whole. ``metadata`` becomes the attribute ``nuwa_lightning``.
    """

    endless = True
    folder = True
    format_name = "OME-Zarr"
    longest_side = 2**31 - 1

    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        width, height = self.size
        size = (height or self.longest_side, width or self.longest_side)
        self._pyramid = TilePyramid(_Chunks(partial), self._file.beside("scratch"), size=size)

    def _put(self, pixels_YX3: Pixels, y: int, x: int) -> None:
        self._pyramid.write(pixels_YX3, y, x)

    def _own_state(self) -> Mapping[str, Any]:
        self._pyramid.force()
        return {}

    def _finish(self) -> None:
        size = self.height, self.width
        self._pyramid.finish(size)
        for level in range(self._pyramid.levels):
            folder = self._file.path / str(level)
            folder.mkdir(exist_ok=True)
            self._write(folder, _array(level_size(size, level)))
        attributes = {
            "ome": {
                "version": "0.5",
                "multiscales": [_multiscale(self.path.name.split(".")[0], self._pyramid.levels)],
                "omero": {"channels": [_channel(name, colour) for name, colour in _COLOURS.items()]},
            },
            NAME: json.loads(self.description),
        }
        self._write(self._file.path, {"zarr_format": 3, "node_type": "group", "attributes": attributes})

    def _write(self, folder: Path, node: Mapping[str, Any]) -> None:
        (folder / NODE).write_text(json.dumps(node, indent=2, sort_keys=True), encoding="utf-8")
        fsync_path(folder / NODE)
        fsync_path(folder)

    def _release(self) -> None:
        """Nothing is open between two calls."""


def _array(size: tuple[int, int]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, *size],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, SIDE, SIDE]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": _LEVEL}}],
        "attributes": {},
        "dimension_names": [axis["name"] for axis in _AXES],
    }


def _multiscale(name: str, levels: int) -> dict[str, Any]:
    datasets = []
    for level in range(levels):
        step = float(2**level)
        # The centre of a pixel of a smaller level lies between those of the pixels that it stands for.
        transformations = [
            {"type": "scale", "scale": [1.0, step, step]},
            {"type": "translation", "translation": [0.0, (step - 1) / 2, (step - 1) / 2]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {"name": name, "axes": _AXES, "datasets": datasets, "type": "mean of 2x2"}


def _channel(name: str, colour: str) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": name, "color": colour, "active": True, "window": window}


class _Chunks(TileCodec):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: Key) -> Path:
        """Return where the file of a tile lies."""
        return self._folder / str(key[0]) / "c" / "0" / str(key[1]) / str(key[2])

    def packed(self) -> Iterator[Key]:
        """Yield every tile that has a file."""
        for found in self._folder.glob("*/c/0/*/*"):
            level, _, _, y, x = found.relative_to(self._folder).parts
            yield int(level), int(y), int(x)

    def pack(self, pixels_YX3: Pixels) -> bytes:
        """Return the content of a chunk, which is whole also at the edge."""
        chunk_3YX = np.zeros((3, SIDE, SIDE), np.uint8)
        chunk_3YX[:, : pixels_YX3.shape[0], : pixels_YX3.shape[1]] = pixels_YX3.transpose(2, 0, 1)
        # gzip without a time stamp
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        return packer.compress(chunk_3YX.tobytes()) + packer.flush()

    def unpack(self, data: bytes) -> Pixels:
        """Return the pixels of a file."""
        chunk = np.frombuffer(zlib.decompress(data, 16 + zlib.MAX_WBITS), np.uint8)
        return chunk.reshape(3, SIDE, SIDE).transpose(1, 2, 0)
